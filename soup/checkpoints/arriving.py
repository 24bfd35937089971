"""The door for models elsewhere: addresses become directories of the cache.

First their outlines, for a look at a whole pool before anything large is fetched: of safetensors
weights the headers alone, the small files whole. Then, where all fit, everything.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from soup.checkpoints import hub
from soup.checkpoints.files import TRAINER_STATE
from soup.checkpoints.files import WEIGHTS as WEIGHT_FILES
from soup.checkpoints.json_text import parse as parse_json
from soup.checkpoints.outlines import SIZES, sizes_file
from soup.checkpoints.safe import LARGEST, MOST
from soup.checkpoints.tensors import MAX_HEADER
from soup.checkpoints.weights import (
    ADAPTER,
    FULL,
    INDEX,
    SINGLE,
    TORCH_INDEX,
    TORCH_SINGLES,
    find_weights,
    is_adapter,
)
from soup.errors import CheckpointError, SoupError, UnfinishedError, UnreachableError
from soup.events import Note, Observer, Progress, ignore
from soup.remote import cache as caches
from soup.remote.address import HUB, WEB, Address, is_address, parse
from soup.remote.cache import OUTLINES, SNAPSHOTS, Folder
from soup.remote.download import download, have, waiting
from soup.remote.place import Cut, Entry, Place
from soup.remote.sending import MARK
from soup.remote.together import together

ADAPTER_FILE = "adapter_model"
LOOKED_FOR = (
    *FULL,
    *TORCH_SINGLES[1:],
    ADAPTER,
    f"{ADAPTER_FILE}.safetensors",
    f"{ADAPTER_FILE}.bin",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
    "LICENSE",
)
"""What is asked for where a place does not say which files it has."""

LOOKS = 4
"""Places that are looked at at the same time."""

Given = str | os.PathLike[str]

T = TypeVar("T")

Leave = Callable[[str, CheckpointError], None]
"""What to do with the address of a member that cannot be had, and why it cannot."""


class Arrived(NamedTuple):
    """What was given, with directories in place of addresses."""

    paths: list[Given]
    base: Given | None
    reference: str | None
    processor: Given | None


def arrive(
    paths: Sequence[Given],
    base: Given | None = None,
    reference: str | None = None,
    processor: Given | None = None,
    *,
    whole: bool,
    cache: Given | None = None,
    observe: Observer = ignore,
    leave: Leave | None = None,
) -> Arrived:
    """Directories for what is elsewhere; the rest stays as it is.

    Args:
        paths: of members; directories, quoted globs and addresses.
        base: of members.
        reference: a member's name, path or address.
        processor: where members get from what they lack; its weights are never fetched.
        whole: fetch everything; else outlines, in which no tensor can be read.
        cache: where to; by default ``SOUP_CACHE``, or the user's cache.
        observe: told of progress.
        leave: told of each member that cannot be had, which is left out then; None: an error.

    Raises:
        UsageError: an address that names no model; a library for such places is not installed.
        UnreachableError: a place cannot be read.
        CheckpointError: it holds no model, or half of one.
        OutputError: the cache cannot be written, or has no room.
    """
    members = [os.fspath(p) for p in paths if is_address(p)]
    parent = [os.fspath(p) for p in (base,) if p is not None and is_address(p)]
    aside = [os.fspath(p) for p in (processor,) if p is not None and is_address(p)]
    if not members and not parent and not aside:
        return Arrived(list(paths), base, reference, processor)
    if leave is not None:  # the base may be a member, too, and is not one that can be left out
        found = fetch(parent, whole=whole, cache=cache, observe=observe)
        asked = [p for p in members if p not in found]
        found |= fetch(asked, whole=whole, cache=cache, observe=observe, leave=leave)
    else:
        found = fetch([*members, *parent], whole=whole, cache=cache, observe=observe)
    found |= fetch([p for p in aside if p not in found], whole=False, cache=cache, observe=observe)

    def here(path: Given | None) -> Given | None:
        return None if path is None else found.get(os.fspath(path), path)

    there: list[Given] = [found.get(os.fspath(path), path) for path in paths]
    there = [path for path in there if not is_address(path)]  # those are left out
    named = reference
    if reference is not None and is_address(reference):
        named = os.fspath(found.get(reference, str(parse(reference))))  # no secret in messages
    return Arrived(there, here(base), named, here(processor))


def fetch(
    addresses: Sequence[str],
    *,
    whole: bool = True,
    cache: Given | None = None,
    observe: Observer = ignore,
    leave: Leave | None = None,
) -> dict[str, Path]:
    """The directory of each address, but for those that are left out; see ``arrive``."""
    home = caches.home(cache)
    places: dict[str, list[str]] = {}
    for text in dict.fromkeys(addresses):
        places.setdefault(parse(text).where, []).append(text)

    def had(text: str, get: Callable[[], T]) -> T | None:
        try:
            return get()
        except CheckpointError as error:
            if leave is None:
                raise
            leave(text, error)
            return None

    def look(texts: list[str]) -> list["Path | _Arrival | None"]:
        return [had(text, partial(_look, parse(text), home, whole, observe)) for text in texts]

    def silent(texts: list[str], seconds: float) -> None:
        observe(Note(f"{parse(texts[0])}: no answer for {seconds:.0f} s; still trying"))

    looks = together(look, list(places.values()), LOOKS, silent)
    seen = {
        text: one
        for texts, ones in zip(places.values(), looks, strict=True)
        for text, one in zip(texts, ones, strict=True)
    }
    arrivals = [one for one in seen.values() if isinstance(one, _Arrival)]
    if arrivals:
        arrivals[0].folder.require_room(sum(waiting(one.folder, one.entries) for one in arrivals))
    found = {
        text: one if isinstance(one, Path) else had(text, partial(one.fetched, observe))
        for text, one in seen.items()
        if one is not None
    }
    return {text: path for text, path in found.items() if path is not None}


@dataclass(frozen=True)
class _Arrival:
    """A model that is known to be there, and not yet here."""

    address: Address
    place: Place
    folder: Folder
    entries: list[Entry]
    revision: str

    def fetched(self, observe: Observer) -> Path:
        """Its directory, when all of it is here."""
        with self.folder.alone(_say(observe)):
            there = self.folder.snapshot(self.revision)
            if there is None:
                left = waiting(self.folder, self.entries)
                self.folder.require_room(left)
                at = self.address.at(self.revision[:8])
                tick = _ticking(f"fetch {at}", left, observe)
                blobs = download(self.place, self.entries, self.folder, tick)
                there = self.folder.arrange(SNAPSHOTS, self.revision, blobs)
            self.folder.remember(self.address.revision, self.revision)
            return there


def _say(observe: Observer) -> Callable[[str], None]:
    return lambda text: observe(Note(text, warning=True))


def _ticking(task: str, total: int, observe: Observer) -> Callable[[int], None]:
    import threading

    done, lock = 0, threading.Lock()

    def tick(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            observe(Progress(task, min(done, total), total, "B"))

    return tick


def _look(address: Address, home: Path, whole: bool, observe: Observer) -> "Path | _Arrival":
    """What a place has of a model: its directory where it is here, or an outline is enough."""
    folder = Folder.of(address, home)
    if (here := _known(address, folder)) is not None:
        return here
    place = connect(address)
    try:
        entries = choose(place)
        revision = place.revision() or _revision(entries)
        if address.scheme == HUB and (found := _in_hub_cache(address, revision, entries)):
            return found
        with folder.alone(_say(observe)):
            there = folder.snapshot(revision) or (None if whole else folder.outline(revision))
            if there is not None:
                folder.remember(address.revision, revision)
                return there
            arrival = _Arrival(address, place, folder, entries, revision)
            return arrival if whole else _outline(arrival)
    except Cut as error:
        raise UnreachableError(f"{address}: {error}") from None


def connect(address: Address) -> Place:
    """The place behind an address; nothing is asked yet."""
    if address.scheme == HUB:
        from soup.remote.hub import Hub

        return Hub(address)
    if address.scheme in WEB:
        from soup.remote.web import Web

        return Web(address)
    from soup.remote.stores import Store

    return Store(address)


def _known(address: Address, folder: Folder) -> Path | None:
    """What need not be asked for: a commit never changes, and offline nobody can be asked."""
    if address.scheme != HUB:
        return None
    from soup.remote.hub import COMMIT, offline

    if COMMIT.fullmatch(address.revision) and (there := folder.snapshot(address.revision)):
        return there
    if not offline():
        return None
    last = folder.last(address.revision)
    if last is not None and (there := folder.snapshot(last)) is not None:
        return there
    cached = hub.cached(address.place, address.revision or None)
    if cached is not None and _complete(inner := cached / address.folder):
        return inner
    raise UnreachableError(
        f"{address}: not whole in the cache, and HF_HUB_OFFLINE forbids to fetch it"
    )


def _complete(directory: Path) -> bool:
    """Whether a snapshot in a hub's cache has weights, and all that its index lists."""
    try:
        return is_adapter(directory) or bool(find_weights(directory))
    except (SoupError, OSError):
        return False


def _in_hub_cache(address: Address, commit: str, entries: Sequence[Entry]) -> Path | None:
    """The model as the hub's own client has fetched it, where it has fetched all of it."""
    root = hub.cache() / (hub.PREFIX + address.place.replace("/", "--"))
    found = root / "snapshots" / commit / address.folder
    return found if all((found / entry.name).is_file() for entry in entries) else None


def choose(place: Place) -> list[Entry]:
    """The files of a place that make a model: weights of one format, and what stands beside them.

    Raises:
        CheckpointError: there is no model, or a part of it is missing.
    """
    listed = place.names()
    if listed is not None and len(listed) > MOST:
        raise CheckpointError(f"{place.address}: more than {MOST:,} files; is it a model?")
    if listed and MARK in listed:
        raise UnfinishedError(
            f"{place.address}: a soup that is still being sent there ({MARK}): wait for the "
            "command that sends it, or run it again"
        )
    if listed and all("/" in name for name in listed):
        wanted = list(LOOKED_FOR)  # folders alone: what lies in them is no part of this model
    else:
        wanted = [name for name in listed or LOOKED_FOR if listed is None or _beside(name)]
    if listed is not None:
        there = set(listed) if {*FULL, *TORCH_SINGLES, ADAPTER} & set(listed) else set(LOOKED_FOR)
        # A page that shows no model may be no listing: well-known names are asked for, then.
        wanted += [name for name in LOOKED_FOR if name in there and name not in wanted]
    known = dict(place.stat(wanted))
    weights = _weights(place, known, listed or known)
    if missing := [name for name in weights if name not in known]:
        known |= place.stat(missing)
    if absent := [name for name in weights if name not in known]:
        raise UnfinishedError(
            f"{place.address}: {absent[0]}: missing, but the index lists it; is all uploaded?"
        )
    return [known[name] for name in sorted({*filter(_beside, known), *weights})]


def _beside(name: str) -> bool:
    """Whether a model needs a file beside its weights, by its name."""
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return False
    if any(fnmatch(part, pattern) for part in parts for pattern in TRAINER_STATE):
        return False
    return not any(fnmatch(parts[-1], pattern) for pattern in WEIGHT_FILES)


def _weights(place: Place, known: dict[str, Entry], names: Collection[str]) -> list[str]:
    """As ``weights.find_weights`` would choose among files that are here."""
    if SINGLE in known:
        return [SINGLE]
    if INDEX in known:
        return [INDEX, *_shards(place, known[INDEX])]
    if TORCH_SINGLES[0] in known:
        return [TORCH_SINGLES[0]]
    if TORCH_INDEX in known:
        return [TORCH_INDEX, *_shards(place, known[TORCH_INDEX])]
    if ADAPTER in known:
        single = [f"{ADAPTER_FILE}.{kind}" for kind in ("safetensors", "bin")]
        parts = [name for name in names if fnmatch(name, f"{ADAPTER_FILE}-*-of-*.safetensors")]
        return [ADAPTER, *([name for name in single if name in known][:1] or parts)]
    single = [name for name in TORCH_SINGLES if name in known]
    if len(single) == 1:
        return single
    some = ", ".join(sorted(names)[:5]) + (" …" if len(names) > 5 else "")
    kind = CheckpointError if names else UnreachableError
    raise kind(
        f"{place.address}: no model there: no {SINGLE}, {INDEX} or {ADAPTER}; "
        + (_meant(place, names) or (f"found {some}" if names else "found nothing"))
    )


def _meant(place: Place, names: Collection[str]) -> str:
    """Which folders below hold models, as a question; empty where none does."""
    marks = {*FULL, *TORCH_SINGLES, ADAPTER}
    folders = sorted({n.rpartition("/")[0] for n in names if n.rpartition("/")[2] in marks} - {""})
    if not folders:
        return ""
    more = f" ({len(folders) - 3} more)" if len(folders) > 3 else ""
    shown = ", ".join(f"{place.address}/{folder}" for folder in folders[:3])
    return f"did you mean {shown}{more}"


def _shards(place: Place, index: Entry) -> list[str]:
    if index.size is None or index.size > LARGEST:
        raise CheckpointError(f"{place.address}: {index.name}: too large for an index")
    try:
        named = parse_json(_head(place, index, LARGEST))["weight_map"].values()
        shards = sorted(set(map(str, named)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{place.address}: {index.name}: damaged ({error}); expected an object weight_map, "
            "from tensors to files"
        ) from None
    for name in shards:
        if Path(name).name != name or len(name) > 250:
            raise CheckpointError(
                f"{place.address}: {index.name}: shard {name!r} is not a plain file name"
            )
    return shards


def _revision(entries: Sequence[Entry]) -> str:
    """What the versions of all files make; of those without one, this moment."""
    import hashlib
    import time

    text = "\n".join(entry.key for entry in entries)
    if any(not entry.version for entry in entries):
        text += f"\n{time.time_ns()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _outline(arrival: _Arrival) -> Path:
    """A directory in which everything is but the weights' tensors."""
    place, folder = arrival.place, arrival.folder
    bare = [entry for entry in arrival.entries if entry.name.endswith(".safetensors")]
    bare = [entry for entry in bare if have(folder, entry) is None]
    rest = [entry for entry in arrival.entries if entry not in bare]
    heads = together(lambda entry: _header(place, entry), bare, LOOKS)
    files: dict[str, Path | bytes] = dict(download(place, rest, folder))
    files |= {entry.name: head for entry, head in zip(bare, heads, strict=True)}
    files[SIZES] = sizes_file({entry.name: entry.size or 0 for entry in bare})
    return folder.arrange(OUTLINES, arrival.revision, files)


def _header(place: Place, entry: Entry) -> bytes:
    """A safetensors file up to its tensors; as far as it goes where it is none."""
    prefix = _head(place, entry, 8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min((entry.size or 0) - 8, MAX_HEADER):
        return prefix
    found = _head(place, entry, 8 + length)
    place.require_same(entry)
    return found


def _head(place: Place, entry: Entry, count: int) -> bytes:
    """The first bytes of a file.

    Raises:
        CheckpointError: they cannot be had.
    """
    from soup.remote.ranges import patiently

    end = count if entry.size is None else min(count, entry.size)

    def ask() -> bytes:
        found = b"".join(place.read(entry, 0, end)) if end else b""
        if len(found) < end and entry.size is not None:
            raise Cut(f"it was cut off at byte {len(found):,} of {entry.size:,}")
        return found

    return bytes(patiently(place.address, entry.name, ask))
