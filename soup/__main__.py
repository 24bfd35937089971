"""`python -m soup`: the same as the `soup` command."""

import runpy

if __name__ == "__main__":
    # By name at run time: the library never imports the command line.
    runpy.run_module("soup.cli", run_name="__main__")
