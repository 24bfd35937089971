"""What a Python interpreter has of what scoring needs: asked of it, nothing is imported here.

A worker may run under another interpreter than we do. It finds our own code by path, so it needs
the packages below and what the model's own code imports, but not our package.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup.errors import ScoringError

OLDEST = (3, 10)
"""Our code has syntax of this Python; so has VLMEvalKit's."""

PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "pillow": "PIL",
    "ms-vlmeval": "vlmeval",
}
"""What every worker imports: what pip calls it, and its module."""

PATIENCE = 60  # seconds for an interpreter to answer: a cold network file system is slow

_LOOK = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]  # not what lies in the working directory
import json
found = {}
try:
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec
except ImportError:  # older than 3.8: its version is all that matters
    sys.argv[1] = "{}"
for name, module in json.loads(sys.argv[1]).items():
    for distribution in (name, module):  # VLMEvalKit is installed under either name
        try:
            found[name] = version(distribution)
            break
        except PackageNotFoundError:
            pass
    else:
        if find_spec(module) is not None:
            found[name] = ""
print("soup: " + json.dumps([list(sys.version_info[:3]), found]))
"""
"""Must run in any Python, to say how old that is."""

_LOOK_AT_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if cuda else []
print("soup: " + json.dumps([torch.version.cuda, names]))
"""


@dataclass(frozen=True)
class Environment:
    """One interpreter.

    Attributes:
        python: its path.
        version: its own, e.g. (3, 11, 7).
        packages: versions by name as pip knows it; only of what is there, empty where it has none.
    """

    python: str
    version: tuple[int, ...]
    packages: Mapping[str, str]

    def missing(self, packages: Sequence[str] = tuple(PACKAGES)) -> list[str]:
        """Which of these are not there."""
        return [name for name in packages if name not in self.packages]

    def install(self, requirements: Sequence[str]) -> str:
        """The command that adds packages to it."""
        return shlex.join([self.python, "-m", "pip", "install", *requirements])


def find_python(given: str | os.PathLike[str] | None) -> str:
    """The absolute path of an interpreter; ours where none is named.

    Links are kept: an environment's interpreter is a link, and finds its packages beside it.

    Raises:
        ScoringError: no such program.
    """
    if given is None:
        return sys.executable
    text = os.path.expanduser(os.fspath(given))
    path = Path(os.path.abspath(text))
    if path.is_dir():
        inside = path / "bin" / "python"
        hint = f"; did you mean {inside}?" if inside.is_file() else ""
        raise ScoringError(f"{given}: expected a Python interpreter, found a directory{hint}")
    if path.is_file():
        return str(path)
    on_path = None if os.sep in text else shutil.which(text)
    if on_path is None:
        raise ScoringError(
            f"{given}: no such Python interpreter; name one that exists, or make one: "
            f"python3 -m venv DIR, which is then DIR/bin/python"
        )
    return os.path.abspath(on_path)


def look(python: str, packages: Sequence[str] = ()) -> Environment:
    """Ask an interpreter what it has.

    Args:
        python: its path.
        packages: names to look for besides ``PACKAGES``, as pip knows them.

    Raises:
        ScoringError: it does not start, is not Python, or is older than ``OLDEST``.
    """
    asked = {name: name for name in packages} | PACKAGES
    version, found = _ask(python, _LOOK, json.dumps(asked))
    if tuple(version) < OLDEST:
        raise ScoringError(
            f"{python}: Python {'.'.join(map(str, version))}; expected "
            f"{'.'.join(map(str, OLDEST))} or newer, which VLMEvalKit needs; make an environment "
            "with one, e.g. python3.11 -m venv DIR"
        )
    return Environment(python, tuple(version), found)


def look_at_torch(python: str) -> tuple[str | None, list[str]]:
    """The CUDA version that an interpreter's torch was built for, and the GPUs that it sees.

    Raises:
        ScoringError: torch cannot be imported there; the message ends with its last words.
    """
    cuda, names = _ask(python, _LOOK_AT_TORCH)
    return cuda, names


def require(environment: Environment) -> None:
    """Raises ScoringError where a package that every worker needs is missing, with the command."""
    missing = environment.missing()
    if not missing:
        return
    if environment.python == sys.executable:
        raise ScoringError(
            f"scoring needs {', '.join(missing)}, not installed here; "
            "run: pip install 'vlm-soup[vlmeval]'"
        )
    raise ScoringError(
        f"{environment.python} lacks {', '.join(missing)}, which scoring needs; "
        f"run: {environment.install(missing)}"
    )


def _ask(python: str, script: str, *arguments: str) -> Any:
    """What a script that prints one line of JSON says; all scripts here mark theirs."""
    command = [python, "-c", script, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE
        )
    except OSError as error:
        raise ScoringError(
            f"{python}: cannot be run as a Python interpreter: {error.strerror}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ScoringError(
            f"{python}: no answer in {PATIENCE} s; expected a Python interpreter"
        ) from error
    for line in done.stdout.splitlines():
        if line.startswith("soup: "):
            return json.loads(line[6:])
    words = (done.stderr or done.stdout).strip().splitlines()
    said = f": {words[-1].strip()[:200]}" if words else ""
    raise ScoringError(
        f"{python}: does not answer as a Python interpreter does "
        f"(exit code {done.returncode}){said}"
    )
