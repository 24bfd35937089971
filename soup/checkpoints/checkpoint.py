"""One model directory, opened lazily: names, shapes, dtypes and byte ranges from headers alone.

Each format has its module (``safetensors_format``, ``torch_format``) that finds the ranges. Reading
them ourselves, instead of mapping the file, is what keeps memory constant however large the
checkpoint is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from soup.checkpoints import digests, names, quantised
from soup.checkpoints.companions import Companions, brought, gather
from soup.checkpoints.files import require_plain
from soup.checkpoints.json_text import read_object
from soup.checkpoints.known import FileState, Known, file_states
from soup.checkpoints.soundness import Soundness, soundness
from soup.checkpoints.tensors import TensorInfo as TensorInfo  # known from here, too
from soup.checkpoints.trainers import instead_of
from soup.checkpoints.updates import Update
from soup.checkpoints.weights import (
    check_index,
    find_weights,
    read_weights,
    unread_note,
)
from soup.errors import CheckpointError, UnfinishedError
from soup.words import counted

UNTIE = (
    "if it was trained with the two apart, give it a base that has them apart: save the base with "
    "an lm_head.weight of its own (a copy) and tie_word_embeddings: false in config.json, and name "
    "it with --base; merging it into the tied model would change both"
)
"""What to do with an adapter that changes one half of tied weights."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One model directory, or a LoRA adapter with the base that it changes.

    Attributes:
        path: the directory, absolute.
        name: how the user knows it; unique within its pool.
        tensors: by name, in the order of the files.
        shards: the weight files, in order; an adapter's own stand behind its base's.
        config: ``config.json``, parsed; an adapter's is its base's.
        sharded: whether an index lists several files, rather than one file being all.
        updates: by name, tensors that are computed; their ``tensors`` entry tells shape and dtype.
        base: the full model that an adapter changes; None for a full model.
        settings: files besides the shards that its values depend on.
        kind: what it is, for people, where it is not a full model.
        notes: what a user should know about how it was read.
        stored: what the files hold, where ``tensors`` was fitted to a pool (``ties``); the
            digest is of it, so that it does not depend on the pool.
        states: what each file was when it was opened, see ``file_states``.
        ties: pairs of stored (or computed) tensors that must have equal values; proven before it
            is digested.
        altered: whether its model is another than a reader of its files alone would make: names
            were mended, LoRA factors inside it are merged, or its config speaks of quantisation.
        rewritten: keys of config.json that do not hold of its tensors, and what does (None:
            nothing; the key goes).
        supplied: by kind (a key of ``companions.KINDS``), the directory whose files stand in for
            those that it lacks, see ``supplying``.
        undecided: why none stands in for what it lacks, where several could; else empty.
        left_out: names of stored tensors that ``tensors`` lacks, see ``buffers``.
    """

    path: Path
    name: str
    tensors: dict[str, TensorInfo] = field(repr=False)
    shards: tuple[Path, ...] = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    sharded: bool = field(default=False, repr=False)
    updates: Mapping[str, Update] = field(default_factory=dict, repr=False)
    base: "Checkpoint | None" = field(default=None, repr=False)
    settings: tuple[Path, ...] = field(default=(), repr=False)
    kind: str = ""
    notes: tuple[str, ...] = field(default=(), repr=False)
    stored: Mapping[str, TensorInfo] | None = field(default=None, repr=False)
    states: tuple[FileState, ...] = field(default=(), repr=False)
    ties: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    altered: bool = field(default=False, repr=False)
    rewritten: Mapping[str, Any] = field(default_factory=dict, repr=False)
    supplied: tuple[tuple[str, Path], ...] = field(default=(), repr=False)
    undecided: str = field(default="", repr=False)
    left_out: tuple[str, ...] = field(default=(), repr=False)
    _known: Known = field(default_factory=Known, init=False, repr=False)

    @property
    def home(self) -> Path:
        """The directory whose config, tokenizer and processor make a model of the tensors."""
        return self.path if self.base is None else self.base.path

    @cached_property
    def companions(self) -> Companions:
        """The files that it is asked with: those of ``home``; of the kinds that an adapter brings
        the adapter's, and of those that it lacks others'.
        """
        own = {} if self.base is None else brought(self.path)
        return gather(self.home, own | dict(self.supplied), self.rewritten)

    @property
    def tokenizer_home(self) -> Path:
        """The directory that its tokenizer is read from."""
        own = {} if self.base is None else brought(self.path)
        return (own | dict(self.supplied)).get("tokenizer", self.home)

    @property
    def by_itself(self) -> bool:
        """Whether others that are given its directory find its tensors as they are here."""
        return self.shards[0].suffix != ".pt" and not self.altered

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def parameters(self) -> int:
        """Elements of all its floating-point tensors."""
        return sum(info.numel for info in self.tensors.values() if info.is_float)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The floating-point dtypes it uses, by bytes, most first."""
        sizes: dict[str, int] = {}
        for info in self.tensors.values():
            if info.is_float:
                sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
        return tuple(sorted(sizes, key=lambda dtype: -sizes[dtype]))

    @property
    def files_key(self) -> list[list[str | int]]:
        """The ``FileState`` of each file that values come from: when all match, so do the values.

        Ties, too: a digest that was found without proving them does not count.
        """
        key: list[list[str | int]] = [[*pair] for pair in self.ties]
        return key + [list(state) for state in file_states((*self.shards, *self.settings))]

    def require_unchanged(self) -> None:
        """What was read since it was opened is of one and the same checkpoint.

        Raises:
            CheckpointError: a file is another one, or was written to; it is named.
        """
        known = self._known.states or self.states
        states = file_states((*self.shards, *self.settings))
        for before, now in zip(known, states, strict=True):
            if before[:3] != now[:3]:
                raise _changed(before[0])
        if known == states:
            return
        # A link, a mode, another inode of a network disk; or other bytes with the old time.
        self._known.states = states
        digest = self._known.digest
        if digest is not None and replace(self, states=states).compute_digest() != digest:
            raise _changed(states[0][0])

    @property
    def digest(self) -> str:
        """Of the content (see ``digests``), equal for equal tensors whatever the files' names and
        layout.

        Reads every byte, once; see ``compute_digest`` for progress.
        """
        return self._known.digest or self.compute_digest()

    def compute_digest(
        self,
        progress: Callable[[int], None] = lambda count: None,
        found: dict[digests.Place, digests.Found] | None = None,
    ) -> str:
        """Hash every tensor (name, dtype, shape, bytes) on all cores.

        Args:
            progress: called, by any thread, with the number of bytes of each piece done.
            found: what was read of other checkpoints just now, and is not read again: the base
                that adapters share; what this one reads is added to it.

        Raises:
            CheckpointError: a file could not be read or was changed meanwhile, or tied tensors
                have different values.
        """
        if self.updates:
            for one, other in self.ties:
                self._prove_tie(self._stored[one], self._stored[other])
        read = self.read_for_digest
        if found is None:
            return self._take(digests.read_roots(read, progress))
        fresh = {digests.place(info): info for info in read}
        fresh = {place: info for place, info in fresh.items() if place not in found}
        roots = digests.read_roots(list(fresh.values()), progress)
        found |= zip(fresh, roots, strict=True)
        return self._take([found[digests.place(info)] for info in read])

    @cached_property
    def read_for_digest(self) -> list[TensorInfo]:
        """The stored tensors that its digest is of; one of them may be there twice."""
        return [info for every in self._inputs.values() for info in every]

    def take_read(self, learned: digests.Learned) -> str:
        """Its digest, and what is wrong with its values, from what somebody has read of them.

        Args:
            learned: of all that ``read_for_digest`` names; of a checkpoint without updates.

        Raises:
            CheckpointError: a file was changed meanwhile, or tied tensors have different values.
        """
        assert not self.updates, "ties of computed tensors are proven by computing them"
        return self._take([learned.of(info) for info in self.read_for_digest])

    def _take(self, found: Sequence[digests.Found]) -> str:
        """Conclude from what was found in the tensors of ``read_for_digest``."""
        self.require_unchanged()
        read = self.read_for_digest
        scans = zip(read, found, strict=True)
        values = soundness([(info, largest, zeros) for info, (_, largest, zeros) in scans])
        roots = [root for root, _, _ in found]
        if not self.updates and self.ties:
            by_name = dict(zip(self._inputs, roots, strict=True))
            for one, other in self.ties:
                infos = self._stored[one], self._stored[other]
                if infos[0].dtype != infos[1].dtype or by_name[one] != by_name[other]:
                    raise self._untied(*infos)
        return self._conclude(self._inputs, iter(roots), values)

    def take_roots(self, roots: Mapping[str, bytes]) -> str:
        """Its digest, from what was hashed while it was written; nothing is read.

        Args:
            roots: of all its stored tensors, by name; see ``soup.checkpoints.digests``.

        Raises:
            CheckpointError: tied tensors have different values.
        """
        for one, other in self.ties:
            if roots[one] != roots[other]:
                raise CheckpointError(f"{self.path}: {one} and {other} are tied, but differ")
        inputs = {name: (self.tensors[name],) for name in sorted(self.tensors)}
        return self._conclude(inputs, iter([roots[name] for name in inputs]), Soundness())

    @property
    def _stored(self) -> Mapping[str, TensorInfo]:
        return self.tensors if self.stored is None else self.stored

    @cached_property
    def _inputs(self) -> dict[str, tuple[TensorInfo, ...]]:
        """By name, sorted, the stored tensors that each of its tensors is made of."""
        found = {}
        if not self.updates:
            return {name: (self._stored[name],) for name in sorted(self._stored)}
        for name in sorted(self._stored):
            update = self.updates.get(name)
            found[name] = (self._stored[name],) if update is None else tuple(update.inputs)
        return found

    def _conclude(
        self,
        inputs: Mapping[str, Sequence[TensorInfo]],
        roots: Iterator[bytes],
        values: Soundness,
    ) -> str:
        """The digest of all, from the roots of the inputs in order; it is remembered."""
        found, own = self._digest_of(inputs, roots)
        self.remember_digest(found, values, own)
        self._known.prove()
        return found

    def _digest_of(
        self, inputs: Mapping[str, Sequence[TensorInfo]], roots: Iterator[bytes]
    ) -> tuple[str, dict[str, str]]:
        """The digest of all, and by stored tensor the root of its values."""
        tensors, own = [], {}
        updates = self.updates
        for name, infos in inputs.items():
            for info in infos:
                root = next(roots)
                tensors.append(digests.tensor_digest(info.name, info.dtype, info.shape, root))
                own[info.name] = root.hex()
            if updates and (update := updates.get(name)) is not None:
                tensors.append(update.recipe.encode())
        return digests.content_digest(tensors), own

    @property
    def known_digest(self) -> str | None:
        """Its digest, if it can be told without reading anything."""
        return self._known.told

    @property
    def unproven(self) -> bool:
        """Whether its digest is known, but not from bytes that this process has read."""
        return self._known.unproven

    def prove(self, roots: Sequence[bytes]) -> bool:
        """Compare its digest with what was read; a second reading decides where they differ.

        Args:
            roots: of the tensors of ``read_for_digest``, in order.

        Returns:
            Whether it is of these bytes, or of those that are there now.
        """
        found, own = self._digest_of(self._inputs, iter(roots))
        if found != self.digest and replace(self).compute_digest() != self.digest:
            return False
        if found == self.digest and not self.roots and not self.updates:
            self._known.roots = own
        self._known.prove()
        return True

    @property
    def roots(self) -> Mapping[str, str]:
        """Of each tensor the root of its values (``digests``), where they were read or written by
        this process, or are remembered; none of computed tensors.
        """
        return self._known.roots

    def root_of(self, info: TensorInfo) -> str | None:
        """The root of a stored tensor's values, by whatever name, where it is known."""
        if not self.roots:
            return None
        if self._stored.get(info.name) is info:  # nearly always
            return self.roots.get(info.name)
        return self._known.root_at(info, self._inputs)

    def _prove_tie(self, one: TensorInfo, other: TensorInfo) -> None:
        changed = [info.name for info in (one, other) if info.name in self.updates]
        if changed:
            from soup.checkpoints.computing import same_values  # torch: most ties need none

            if not same_values(self, one, other):
                which = f"changes {changed[0]} alone" if len(changed) == 1 else "makes them differ"
                raise CheckpointError(
                    f"{self.path}: {one.name} and {other.name} are tied (by the config.json of "
                    f"{self.home}, or because another member stores only one of them), but the "
                    f"adapter {which}; {UNTIE}"
                )
        elif not same_bytes(one, other):
            raise self._untied(one, other)

    def _untied(self, one: TensorInfo, other: TensorInfo) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {one.name} and {other.name} are tied (by its config.json, or "
            "because another member stores only one of them), but their values differ; save it "
            "again with them equal, or set tie_word_embeddings to false if they are not"
        )

    def remember_digest(
        self,
        digest: str,
        values: Soundness = Soundness(),
        roots: Mapping[str, str] | None = None,
    ) -> None:
        """Take a digest, what is wrong with the values, and by tensor the root of each, if known,
        so that nothing is read again.
        """
        if roots and self.updates:  # those of inputs say nothing of what is computed
            roots = {n: roots[n] for n in self.tensors if n in roots and n not in self.updates}
        self._known.take(digest, values, roots)

    @property
    def soundness(self) -> Soundness | None:
        """What is wrong with its values; None before it is digested."""
        return self._known.soundness


def _changed(file: str) -> UnfinishedError:
    return UnfinishedError(
        f"{file}: was changed while it was read; is it still being written? "
        "run the command again when it is complete"
    )


def open_model(directory: Path, name: str) -> Checkpoint:
    """Read the headers of a full model; no tensor is read.

    Args:
        directory: holds ``config.json`` and the weights; absolute.
        name: how the user knows it.

    Raises:
        CheckpointError: its index or a header is missing, damaged or of a format that cannot be
            blended; the message names the file.
        OSError: a folder that may not be looked into.
    """
    if not directory.is_dir():
        found = "is a file" if directory.exists() else "does not exist"
        raise CheckpointError(
            f"{directory}: expected a model directory, but it {found}{instead_of(directory)}"
        )
    require_plain(directory)
    shards, weight_map, notes = find_weights(directory)
    states = file_states(shards)
    config = _read_config(directory)
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        for info in read_weights(shard):
            if info.name in tensors:
                first = tensors[info.name].file.name
                raise CheckpointError(
                    f"{shard}: tensor {info.name} is also in {first}; one copy expected"
                )
            tensors[info.name] = info
    if weight_map is not None:
        check_index(directory, weight_map, tensors)
    if not tensors:
        raise CheckpointError(f"{directory}: the weight files hold no tensor")
    require_gathered(directory, tensors.values())
    config, rewritten, plain = quantised.settle(directory, config, tensors)
    stored = tensors
    tensors, renamed = _unwrapped(stored)
    return Checkpoint(
        directory,
        name,
        tensors,
        shards,
        config,
        sharded=weight_map is not None,
        notes=notes + unread_note(directory, shards) + renamed + plain,
        states=states,
        altered=bool(plain)
        or any(name != info.name for name, info in zip(stored, tensors.values(), strict=True)),
        rewritten=rewritten,
    )


def _unwrapped(
    tensors: dict[str, TensorInfo],
) -> tuple[dict[str, TensorInfo], tuple[str, ...]]:
    """Tensors under the names of the model itself, and what to say of wrappers within names."""
    called = names.unwrapped(tensors)
    if all(name == bare for name, bare in called.items()):
        return tensors, ()
    bare = {called[name]: replace(info, name=called[name]) for name, info in tensors.items()}
    inside = [name for name, short in called.items() if not name.endswith(f".{short}")]
    notes: tuple[str, ...] = ()
    if inside := [name for name in inside if called[name] != name]:
        notes = (
            f"{len(inside)} names hold parts of wrappers ({inside[0]} is read as "
            f"{called[inside[0]]}); the soup has none",
        )
    return bare, notes


def require_gathered(where: Path, tensors: Iterable[TensorInfo]) -> None:
    """No tensor is the empty stand-in that DeepSpeed leaves of one that is spread over GPUs, nor
    one of FSDP's, which hold all parameters of a module in a row.

    Raises:
        CheckpointError: counts them and says how to gather them.
    """
    given = list(tensors)
    if flat := [info.name for info in given if info.name.endswith("_flat_param")]:
        raise CheckpointError(
            f"{where}: {counted(len(flat), 'tensor')} of FSDP ({flat[0]}) that hold a module's "
            "parameters in a row; save it again as the trainer's full state dict (accelerate: "
            "fsdp_state_dict_type FULL_STATE_DICT)"
        )
    empty = [info.name for info in given if info.shape == (0,)]
    # A model may have an empty buffer; a weight is never empty.
    if any(_is_weight(name) for name in empty):
        raise CheckpointError(
            f"{where}: {counted(len(empty), 'empty tensor')}, {empty[0]} first: saved under "
            "DeepSpeed ZeRO-3 without gathering; make whole weights of the trainer's checkpoint "
            "with its zero_to_fp32.py, or train with stage3_gather_16bit_weights_on_model_save"
        )


TRAINED = (".weight", ".bias", "token", "tokens", "embed", "embedding", "embeddings", "newline",
           "query", "queries", "gamma", "beta", "scale", "gate", "lambda_1",
           "lambda_2")  # fmt: skip
"""How the names of parameters end; those of buffers do not."""


def _is_weight(name: str) -> bool:
    return f".{name}".endswith(TRAINED) or ".lora_" in name


def _read_config(directory: Path) -> dict[str, Any]:
    file = directory / "config.json"
    if not file.exists():
        raise CheckpointError(f"{file}: missing; expected a model directory with its config")
    config = read_object(file)
    for part in (config, *config.values()):
        said = part.get("tie_word_embeddings") if isinstance(part, dict) else None
        if said not in (None, True, False):
            raise CheckpointError(
                f"{file}: tie_word_embeddings is {str(said)[:40]}, expected true or false"
            )
    return config


def same_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two stored tensors have the same dtype and values, to the bit.

    Raises:
        CheckpointError: a file cannot be read.
    """
    if (one.file, one.offset) == (other.file, other.offset):
        return True  # one storage under two names
    return (one.dtype, one.nbytes) == (other.dtype, other.nbytes) and all(
        a == b for a, b in zip(digests.blocks(one), digests.blocks(other), strict=True)
    )
