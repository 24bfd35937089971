"""`python -m soup`: the same as the `soup` command."""

import os
import runpy
import sys

if __name__ == "__main__":
    if getattr(sys.modules.get("soup"), "__file__", None) is None:
        # A folder called soup that is no package lies where Python looks first, and hides ours
        # where that is installed to be edited.
        del sys.modules["soup"]
        places = ((place, os.path.join(place, "soup")) for place in sys.path)
        sys.path[:] = [
            place
            for place, folder in places
            if not os.path.isdir(folder) or os.path.isfile(os.path.join(folder, "__init__.py"))
        ]
    # By name at run time: the library never imports the command line.
    runpy.run_module("soup.cli", run_name="__main__")
