"""Which version of a package is installed, from the names of folders where they suffice.

``importlib.metadata`` itself takes longer to import than a quick command should.
"""

import importlib.util
from pathlib import Path


def version_of(package: str) -> str | None:
    """A package's version; None where it is not installed. It is not imported."""
    found = importlib.util.find_spec(package)
    if found is not None and found.origin is not None:
        beside = list(Path(found.origin).parent.parent.glob(f"{package}-*.dist-info"))
        if len(beside) == 1:
            return beside[0].name.removesuffix(".dist-info").removeprefix(f"{package}-")
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
