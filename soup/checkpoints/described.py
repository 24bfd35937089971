"""A checkpoint against the model that its config.json describes, where transformers knows it.

Members that all lack the same tensors agree with each other, and make a soup that transformers
fills up at random. To load transformers takes seconds, so it is done in a process of its own, for
one member (the others have its names and shapes), and what it said is kept.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup.checkpoints.asking import ask, unknown
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.files import VOLATILE_CONFIG
from soup.checkpoints.installed import version_of
from soup.checkpoints.pool import Problem
from soup.events import Note, Observer, ignore

IGNORED = ("inv_freq", "position_ids", ".num_batches_tracked")
"""How the names of buffers end that older versions saved and newer ones make themselves."""


@dataclass(frozen=True)
class Described:
    """What a model's class makes of a checkpoint's tensors.

    Attributes:
        kind: the class; empty where there was none to ask.
        missing: tensors that the model needs and that would be random.
        unexpected: tensors that it makes no use of.
        mismatched: name, shape found, shape expected.
        unknown: why nothing is known; empty where something is.
    """

    kind: str = ""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    unknown: str = ""

    def problems(self, name: str) -> list[Problem]:
        """Why a soup of such tensors would be no working model; ``name`` is the checkpoint's."""
        found = []
        model = f"the {self.kind} of config.json"
        if self.missing:
            found.append(
                Problem(
                    name,
                    f"tensor {_some(self.missing)}",
                    f"in the weights, as {model} needs it",
                    "nothing",
                    "transformers would fill it at random; is the checkpoint complete?",
                )
            )
        if self.mismatched:
            _, shape, expected = self.mismatched[0]
            found.append(
                Problem(
                    name,
                    f"tensor {_some([one for one, *_ in self.mismatched])}",
                    f"{list(expected)} as in {model}",
                    f"{list(shape)}",
                    "take the config.json that was written with the weights",
                )
            )
        return found

    @property
    def notes(self) -> list[str]:
        """What a user should know besides."""
        if self.unknown:
            return [f"not compared with the model that config.json describes: {self.unknown}"]
        if self.unexpected:
            return [
                f"{self.kind} makes no use of {_some(self.unexpected)}; blended and written all "
                "the same"
            ]
        return []


def describe(
    reference: Checkpoint,
    work: str | os.PathLike[str],
    observe: Observer = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> Described:
    """Compare a pool's names and shapes with the model that config.json describes.

    Takes seconds where transformers has to be asked; the answer is kept in ``work``.
    """
    text = "asking transformers what the model of config.json needs; this takes seconds, once"
    return compare(reference, Path(work) / "models", lambda: observe(Note(text)), stop)


class Description:
    """The same, found out by a thread beside other work; ``close`` it."""

    def __init__(
        self, reference: Checkpoint, work: str | os.PathLike[str], observe: Observer = ignore
    ) -> None:
        self._asked = reference, work, observe
        self._closed = threading.Event()
        self._found: Described | None = None
        self._thread = threading.Thread(target=self._find, name="description", daemon=True)
        self._thread.start()

    def _find(self) -> None:
        self._found = describe(*self._asked, stop=self._closed.is_set)

    @property
    def found(self) -> Described | None:
        """None while it is not known yet."""
        return self._found

    def wait(self) -> Described:
        """Until it is known."""
        self._thread.join()
        assert self._found is not None
        return self._found

    def close(self) -> None:
        """Nobody wants it any more, if it is not known yet."""
        self._closed.set()
        self._thread.join()


def compare(
    checkpoint: Checkpoint,
    cache: Path | None = None,
    asking: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> Described:
    """What transformers would say if it loaded this checkpoint.

    Args:
        checkpoint: its names and shapes are looked at, and its config.json.
        cache: a directory for what was found out; it is made where there is something to keep.
        asking: called before the seconds begin that it takes where nothing was kept.
        stop: whether nobody wants the answer any more.
    """
    why_not = unknown(checkpoint)
    if why_not:
        return Described(unknown=why_not)
    asked = {
        "path": str(checkpoint.home),
        "rewritten": dict(checkpoint.rewritten),
        "tensors": [[name, list(info.shape)] for name, info in checkpoint.tensors.items()],
    }
    file = None if cache is None else cache / f"{_key(checkpoint, asked)}.json"
    said = _kept(file)
    if said is None:
        asking()
        said = ask(asked, stop)
    if file is not None and not said.get("again"):
        _keep(file, said)
    return _described(said)


def _key(checkpoint: Checkpoint, asked: Mapping[str, Any]) -> str:
    config = {k: v for k, v in checkpoint.config.items() if k not in VOLATILE_CONFIG}
    versions = [version_of(name) for name in ("transformers", "torch")]
    text = json.dumps([1, versions, config, sorted(asked["tensors"])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _kept(file: Path | None) -> dict[str, Any] | None:
    try:
        found = None if file is None else json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "digest" in found and _intact(found) else None


def _keep(file: Path, said: dict[str, Any]) -> None:
    plain = {key: value for key, value in said.items() if key != "digest"}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        made = file.with_suffix(f".{os.getpid()}")
        made.write_text(json.dumps({**plain, "digest": _digest(plain)}))
        made.replace(file)
    except OSError:
        pass  # it is found out again


def _digest(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _intact(found: Mapping[str, Any]) -> bool:
    plain = {key: value for key, value in found.items() if key != "digest"}
    return bool(found["digest"] == _digest(plain))


def _described(said: Mapping[str, Any]) -> Described:
    if "unknown" in said:
        return Described(unknown=str(said["unknown"]))
    return Described(
        str(said["kind"]),
        tuple(said["missing"]),
        tuple(name for name in said["unexpected"] if not name.endswith(IGNORED)),
        tuple((name, tuple(one), tuple(other)) for name, one, other in said["mismatched"]),
    )


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
