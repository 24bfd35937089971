"""What workers said of a model and of benchmarks, while nothing that it came from has changed.

It takes a worker, and seconds, to find out what a benchmark's digest is made of. When every result
is known already that is all a run would ask of one, so the answers are kept beside the journal, in
``known.json``. An answer counts as long as these are as they were:

- the request, the devices, and the environment variables of ``VARIABLES``; the working directory
  only where one of these is a path from there,
- the interpreter, and name, version and place of every package that a worker needs,
- path, size, mtime, inode and ctime of every file that it came from: the interpreter, the records
  of its packages, our own code, the reference's weights and companions, the benchmark's table and
  the images that it names.

On any doubt there is no answer, and a worker is asked: a file that was changed less than
``SETTLED`` before, a package without a record or installed to be edited, a list of files too long
to look at. A worker that is started later is asked again, and must say the same.
"""

import contextlib
import glob
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import soup
from soup.checkpoints.checkpoint import Checkpoint
from soup.errors import ScoringError
from soup.evaluators.kit.suites import is_table
from soup.evaluators.workers.environment import Environment
from soup.evaluators.writing import write_whole

FILE = "known.json"
VERSION = 2
KEPT = 50  # answers, the newest
MOST = 20_000  # files of one answer: beyond, asking a worker is as fast
SETTLED = 1_000_000_000  # ns; clocks of file systems are coarse

VARIABLES = (
    "CUDA_",
    "HF_",
    "HIP_",
    "HOME",
    "HUGGINGFACE_",
    "LD_",
    "LMUData",
    "NVIDIA_",
    "PYTHON",
    "ROCR_",
    "TORCH",
    "TRANSFORMERS_",
    "VIRTUAL_ENV",
)
"""How the environment variables begin that decide where a worker looks, or what it runs on."""

NEITHER = ("TORCHINDUCTOR_CACHE_DIR",)
"""Of these, what decides neither: torch sets it once it is imported, as by ``soup demo``."""

DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dri/render*", "/proc/driver/nvidia/version")
"""What comes and goes with a GPU and its driver."""


class Known:
    """The answers that are remembered in one directory, for one interpreter and reference."""

    def __init__(self, work: Path, environment: Environment, reference: Checkpoint) -> None:
        """Look at what all answers depend on; a few milliseconds.

        Args:
            work: the directory of journal and caches.
            environment: of the interpreter that is asked.
            reference: whose companion files are used.
        """
        self._file = work / FILE
        self._base = _base_files(environment, reference)
        variables = {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(VARIABLES) and name not in NEITHER
        }
        self._about = {
            "python": [environment.python, *environment.version],
            "packages": dict(environment.packages),
            "records": dict(environment.records),
            "variables": variables,
            "directory": os.getcwd() if any(map(_from_here, variables.values())) else None,
            "devices": sorted(path for pattern in DEVICES for path in glob.glob(pattern)),
        }

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a worker said to a request, where it would certainly say the same again."""
        entry = self._entries().get(self._key(request))
        try:
            if entry is None or self._base is None:
                return None
            if entry["check"] != _check(entry):
                return None  # damaged
            files = [*self._base, *entry["files"]]
            return dict(entry["answer"]) if entry["states"] == _states(files) else None
        except (KeyError, TypeError, ValueError):  # written by another version
            return None

    def remember(self, request: Mapping[str, Any], answer: Mapping[str, Any], asked: int) -> None:
        """Keep an answer, where nothing speaks against it.

        Args:
            request: what a worker was asked.
            answer: what it said; ``files`` are those that it came from.
            asked: when, by ``time.time_ns``.
        """
        if self._base is None:
            return
        files = list(map(str, answer.get("files", ())))
        states = _states([*self._base, *files], before=asked - SETTLED)
        if states is None:
            return
        entries = self._entries()
        key = self._key(request)
        entries.pop(key, None)
        entry = {"answer": dict(answer), "files": files, "states": states}
        entries[key] = entry | {"check": _check(entry)}
        newest = dict(list(entries.items())[-KEPT:])
        content = json.dumps({"version": VERSION, "entries": newest})
        with contextlib.suppress(ScoringError):  # without it the next run only takes longer
            write_whole(self._file, lambda path: path.write_text(content))

    def forget(self) -> None:
        """Remember nothing any more."""
        self._file.unlink(missing_ok=True)

    def _entries(self) -> dict[str, Any]:
        try:
            content = json.loads(self._file.read_text())
            return dict(content["entries"]) if content["version"] == VERSION else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # none, or damaged
            return {}

    def _key(self, request: Mapping[str, Any]) -> str:
        source = request.get("source", "")
        whole = os.path.abspath(source) if is_table(source) else source  # however it was spelled
        text = json.dumps([self._about, {**request, "source": whole}], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _check(entry: Mapping[str, Any]) -> str:
    """SHA-256 of all else in an entry."""
    content = {name: value for name, value in entry.items() if name != "check"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def now() -> int:
    """The time as ``Known.remember`` takes it."""
    return time.time_ns()


def _base_files(environment: Environment, reference: Checkpoint) -> list[str] | None:
    """The files that every answer depends on; None where they do not tell all."""
    home = Path(environment.python).absolute()
    files = [home, home.parent.parent / "pyvenv.cfg", *reference.shards]
    files += [file for file in reference.companions.files.values() if isinstance(file, Path)]
    if reference.base is not None:
        files += reference.settings
    for record in environment.records.values():
        if not record or _is_edited(Path(record)):
            return None
        files += [Path(record), Path(record) / "METADATA", Path(record) / "RECORD"]
    if environment.records.keys() != environment.packages.keys():
        return None
    ours = Path(soup.__file__).parent
    for folder, names, found in os.walk(ours, followlinks=True):
        names[:] = [name for name in names if name != "__pycache__"]
        files += [Path(folder, name) for name in found if name.endswith((".py", ".so"))]
    return sorted(map(str, files))


def _from_here(value: str) -> bool:
    """Whether an environment variable is or holds a path from the working directory."""
    parts = value.split(os.pathsep)
    return any(
        not os.path.isabs(part)
        and (os.sep in part or part.startswith(".") or os.path.lexists(part) or not part)
        for part in parts
        if part or len(parts) > 1  # an empty one among several is the directory itself
    )


def _is_edited(record: Path) -> bool:
    """Whether a package is installed from a folder where it may be edited."""
    try:
        source = json.loads((record / "direct_url.json").read_text())
        return bool(source.get("dir_info", {}).get("editable"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError):
        return True


def _states(files: Sequence[str], before: int | None = None) -> str | None:
    """SHA-256 of what is known of files without reading them; one that is not there counts, too.

    None where there are too many, or one was changed at or after ``before`` (ns).
    """
    if len(files) > MOST:
        return None
    total = hashlib.sha256()
    for state in _each(files):
        if before is not None and max(state[2:4], default=0) >= before:
            return None
        total.update(f"{json.dumps(state)}\n".encode())
    return total.hexdigest()


def require_same(known: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """See that a worker answers as another one did before it.

    Raises:
        ScoringError: it does not; files may be elsewhere on another machine.
    """
    different = sorted(k for k in known if known[k] != found.get(k))
    if different and different != ["files"]:
        raise ScoringError(
            "the worker was started again and is not what it was: "
            + ", ".join(f"{k} {known[k]}, now {found.get(k)}" for k in different)
        )


def _each(files: Iterable[str]) -> Iterable[list[Any]]:
    """Path, size, mtime and ctime (ns), inode and device; the path alone where there is no file."""
    for file in files:
        try:
            found = os.stat(file)
        except OSError:
            yield [file]
            continue
        yield [
            os.path.realpath(file),
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_ino,
            found.st_dev,
        ]
