"""Several checkpoints that can be blended with each other, or exactly why they cannot."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soup import markup, words
from soup.checkpoints import hub, shown, tokens
from soup.checkpoints.bases import other_bases
from soup.checkpoints.buffers import leave_out
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.checkpoints.companions import brought, gather
from soup.checkpoints.configs import described, differences
from soup.checkpoints.differing import differing
from soup.checkpoints.files import require_readable
from soup.checkpoints.fitting import fit_all
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.problems import (
    Problem as Problem,  # known from here, too: what a report is made of
)
from soup.checkpoints.problems import summary, together
from soup.checkpoints.supplying import lacking, supply
from soup.checkpoints.ties import is_tied
from soup.errors import PoolError, UsageError


@dataclass(frozen=True, eq=False, repr=False)
class Pool:
    """Checkpoints that can be blended. One is the reference: its names, order, shards and companion
    files are those of the result.

    Attributes:
        members: the checkpoints, in the order given.
        warnings: what a user should know, though it stops nothing.
        base: what they were fine-tuned from, where it was named.
        chosen: the reference, where it is not the first.
    """

    members: tuple[Checkpoint, ...]
    warnings: tuple[str, ...] = ()
    base: Checkpoint | None = None
    chosen: Checkpoint | None = None

    def __repr__(self) -> str:
        return shown.line("Pool", self.members)

    def _repr_html_(self) -> str:
        """For notebooks."""
        remarks = shown.remarks((), self.warnings, ())
        return markup.page(*shown.table(self.members)) + markup.paragraphs(remarks)

    def _repr_markdown_(self) -> str:
        """For notebooks that show no HTML."""
        table = markup.markdown(*shown.table(self.members))
        warnings = shown.remarks((), self.warnings, ())
        return "\n\n".join([table, *map(markup.inline, warnings)]) + "\n"

    @property
    def reference(self) -> Checkpoint:
        """The member whose files the result takes after."""
        return self.chosen or self.members[0]

    @classmethod
    def open(
        cls,
        *paths: str | os.PathLike[str],
        dtype: str | None = None,
        base: str | os.PathLike[str] | None = None,
        reference: str | None = None,
        processor: str | os.PathLike[str] | None = None,
    ) -> "Pool":
        """Open directories (quoted globs are expanded) and prove from headers that they blend.

        Args:
            paths: model directories.
            dtype: the output dtype, a key of ``tensors.ITEMSIZES``; with it, members may
                differ in floating-point dtype.
            base: the model that the members were fine-tuned from: for methods that need it, and
                the one that LoRA adapters among the members change. It supplies tokenizer,
                processor, template and code to members that lack them.
            reference: the name (or path) of the member whose files the result takes after; by
                default the first.
            processor: a directory that supplies what members lack, before the base.

        Raises:
            UsageError: no path given, a glob that matches nothing, or a reference that is none.
            CheckpointError: a directory is not a readable checkpoint.
            PoolError: they do not fit; the message names tensor, member, expected and found.
        """
        report = inspect(paths, dtype, base, reference, processor)
        if report.problems:
            first, *more = report.lines
            rest = f" (and {len(more)} more: `soup check` lists them)" if more else ""
            raise PoolError(f"the pool cannot be blended: {first}{rest}")
        return cls(report.members, report.warnings, report.base, report.reference)


@dataclass(frozen=True, repr=False)
class Report:
    """What the headers say about a pool.

    Attributes:
        members: the checkpoints that could be opened.
        problems: why they cannot be blended; empty when they can.
        warnings: what a user should know, though it stops nothing.
        duplicates: pairs of names known to hold the same weights, from their files or from a
            digest already computed.
        base: the base, where one was named.
        reference: the member that the others are compared with.
    """

    members: tuple[Checkpoint, ...]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    duplicates: tuple[tuple[str, str], ...] = ()
    base: Checkpoint | None = None
    reference: Checkpoint | None = None

    @property
    def lines(self) -> list[str]:
        """The problems for people: those of one kind in one line, ten lines at most."""
        tensors = len(self.members[0].tensors) if self.members else 0
        return summary(self.problems, tensors, len(self.members) - 1)

    def __repr__(self) -> str:
        count = len(self.problems)
        found = f"{count} problem{'' if count == 1 else 's'}" if count else "can be blended"
        return shown.line("Report", self.members, found)

    def _repr_html_(self) -> str:
        """For notebooks."""
        remarks = shown.remarks(self.lines, self.warnings, self.duplicates)
        return markup.page(*shown.table(self.members)) + markup.paragraphs(remarks)

    def _repr_markdown_(self) -> str:
        """For notebooks that show no HTML."""
        remarks = shown.remarks(self.lines, self.warnings, self.duplicates)
        table = markup.markdown(*shown.table(self.members))
        return "\n\n".join([table, *map(markup.inline, remarks)]) + "\n"


def expand(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Directories from paths and quoted globs, in the order given, each glob's sorted.

    Raises:
        UsageError: nothing given, or a glob matches no directory.
        CheckpointError: a folder of a hub's cache with several snapshots, or none.
    """
    found: list[Path] = []
    for path in [os.fspath(path) for path in paths]:
        if glob.has_magic(path) and not os.path.exists(path):
            matches = sorted(match for match in glob.glob(path) if os.path.isdir(match))
            if not matches:
                raise UsageError(f"{path}: matches no directory")
            found += [Path(match) for match in matches]
        else:
            found.append(Path(path))
    if not found:
        raise UsageError("no checkpoint given; name at least one model directory")
    return [hub.snapshot(path) if hub.is_root(path) else path for path in found]


def inspect(
    paths: Sequence[str | os.PathLike[str]],
    dtype: str | None = None,
    base: str | os.PathLike[str] | None = None,
    reference: str | None = None,
    processor: str | os.PathLike[str] | None = None,
) -> Report:
    """Open checkpoints and compare them with one of them; of weights nothing but headers is read.

    Args:
        paths: model directories, and LoRA adapters'.
        dtype: the output dtype; with it, members may differ in floating-point dtype.
        base: the model that they were fine-tuned from; compared like a member. Adapters change
            it, rather than the base that they name.
        reference: the name or path of the member to compare with; by default the first.
        processor: a directory with tokenizer, processor, template or code for members without.

    Raises:
        UsageError: see ``expand``; or a reference that is no member.
        CheckpointError: a directory is not a readable checkpoint, or a file that the soup would
            get from it cannot be copied.
    """
    directories = expand(paths)
    names = unique_names(directories)
    chosen = _index_of(reference, directories, names)
    parent = [] if base is None else [open_checkpoint(base)]
    opened = [
        open_checkpoint(path, name, *parent) for path, name in zip(directories, names, strict=True)
    ]
    supplies = _supplies(processor)
    opened, said = supply(opened, parent[0] if parent else None, supplies)
    every, left_out = leave_out([*opened, *parent])
    order = [chosen, *(k for k in range(len(every)) if k != chosen)]
    fitted = fit_all([every[k] for k in order])
    back = {k: member for k, member in zip(order, fitted, strict=True)}
    members = tuple(back[k] for k in range(len(opened)))
    first, *others = fitted
    problems: list[Problem] = []
    every_file = [file for member in fitted for file in member.companions.files.values()]
    for file in dict.fromkeys(file for file in every_file if isinstance(file, Path)):
        require_readable(file)
    warnings = [f"{m.name}: {note}" for m in fitted for note in m.notes]
    warnings += [*said, *left_out, *other_bases(members, parent[0] if parent else None)]
    warnings += _batchnorm_warnings(first)
    problems += _lacks_problems(first)
    warnings += _lacks_warnings(first)
    for member in others:
        problems += _compare_tensors(first, member, dtype)
        problems += _compare_files(first, member)
        warnings += _compare_configs(first, member)
        warnings += _added_tokens(first, member)
        warnings += _uncompared(first, member)
    for member in members:
        problems += _compare_to_base(member)
        warnings += _adapter_warnings(member)
    warnings += differing(first, members)
    return Report(
        members,
        tuple(problems),
        tuple(together(warnings, [member.name for member in members])),
        tuple(same_files(members)),
        fitted[-1] if base is not None else None,
        first,
    )


def _index_of(reference: str | None, paths: Sequence[Path], names: Sequence[str]) -> int:
    """Which member is meant, by its name or by its path.

    Raises:
        UsageError: none is, or more than one.
    """
    if reference is None:
        return 0
    here = os.path.abspath(reference)
    found = [k for k, name in enumerate(names) if name == reference]
    found = found or [k for k, path in enumerate(paths) if os.path.abspath(path) == here]
    found = found or [k for k, path in enumerate(paths) if path.name == reference]
    if len(found) != 1:
        which = "more than one member" if found else "no member"
        raise UsageError(
            f"--reference {reference}: names {which}; expected one of {', '.join(names)}"
        )
    return found[0]


def _supplies(processor: str | os.PathLike[str] | None) -> Path | None:
    if processor is None:
        return None
    path = Path(os.path.abspath(processor))
    if not path.is_dir():
        raise UsageError(
            f"--processor {processor}: expected a directory with tokenizer and processor, found "
            + ("a file" if path.exists() else "nothing there")
        )
    return path


def _lacks_problems(reference: Checkpoint) -> list[Problem]:
    if not reference.undecided:
        return []
    return [
        Problem(
            reference.name,
            "companion files",
            "those that the soup gets, from it or from one other",
            "nothing",
            reference.undecided,
        )
    ]


def _lacks_warnings(reference: Checkpoint) -> list[str]:
    absent = [] if reference.undecided else lacking(reference)
    if not absent:
        return []
    return [
        f"{reference.name}: has no {', no '.join(absent)}, and neither has another member or a "
        "base: the soup will not load as it is; name a directory that has, with --processor DIR"
    ]


def unique_names(paths: Sequence[Path]) -> list[str]:
    """The shortest trailing parts of paths that tell them apart, e.g. ``run-2/checkpoint-500``.

    The same path given twice gets ``#2`` behind its second name. A snapshot in a hub's cache is
    called by its model's id, with its revision where there are two of one model.
    """
    parts = [_parts(Path(os.path.abspath(path))) for path in paths]
    names = []
    for index, own in enumerate(parts):
        depth = 1
        others = [p for k, p in enumerate(parts) if k != index and p != own]
        while depth < len(own) and any(p[-depth:] == own[-depth:] for p in others):
            depth += 1
        copies = parts[:index].count(own)
        names.append("/".join(own[-depth:]) + (f"#{copies + 1}" if copies else ""))
    return names


def _parts(path: Path) -> tuple[str, ...]:
    """What a checkpoint is called by, last part first to be used."""
    found = hub.model_of(path)
    if found is None:
        return path.parts
    model, revision = found
    others = sum(other.is_dir() for other in path.parent.iterdir()) if path.is_dir() else 1
    return (*path.parts[:-3], f"{model}@{revision[:8]}" if others > 1 else model)


def same_files(members: Sequence[Checkpoint]) -> list[tuple[str, str]]:
    """Pairs of members whose files are the same files (links, or a path given twice)."""
    first: dict[str, str] = {}
    pairs = []
    for member in members:
        stats = [file.stat() for file in (*member.shards, *member.settings)]
        key = str([(s.st_dev, s.st_ino) for s in stats])
        if key in first:
            pairs.append((first[key], member.name))
        first.setdefault(key, member.name)
    return pairs


def same_content(members: Sequence[Checkpoint]) -> list[tuple[str, str]]:
    """Pairs of members with equal digests; reads what has no digest yet."""
    first: dict[str, str] = {}
    pairs = []
    for member in members:
        if member.digest in first:
            pairs.append((first[member.digest], member.name))
        first.setdefault(member.digest, member.name)
    return pairs


def _compare_tensors(reference: Checkpoint, member: Checkpoint, dtype: str | None) -> list[Problem]:
    problems = []
    for name, expected in reference.tensors.items():
        found = member.tensors.get(name)
        if found is None:
            problems.append(
                Problem(
                    member.name,
                    f"tensor {name}",
                    _describe(expected),
                    "nothing",
                    _tying_hint(name, reference, member),
                )
            )
        elif found.shape != expected.shape:
            problems.append(
                Problem(
                    member.name,
                    f"tensor {name}",
                    _describe(expected),
                    _describe(found),
                    _shape_hint(name, expected, found),
                )
            )
        elif found.dtype != expected.dtype and not (dtype and found.is_float and expected.is_float):
            problems.append(
                Problem(
                    member.name,
                    f"tensor {name}",
                    expected.dtype,
                    found.dtype,
                    "give the output's dtype with --dtype to blend them"
                    if found.is_float and expected.is_float
                    else "",
                )
            )
    for name, extra in member.tensors.items():
        if name not in reference.tensors:
            problems.append(
                Problem(
                    member.name,
                    f"tensor {name}",
                    f"nothing ({reference.name} has no such tensor)",
                    _describe(extra),
                    _tying_hint(name, member, reference),
                )
            )
    return problems


def _describe(info: TensorInfo) -> str:
    return f"{info.dtype} {list(info.shape)}"


def _tying_hint(name: str, having: Checkpoint, lacking: Checkpoint) -> str:
    """Explain the commonest reason why one member stores a tensor that another does not."""
    tied = is_tied(having.config) is not False
    if name.endswith(("lm_head.weight", "embed_tokens.weight")) and tied:
        return (
            f"it may be tied to the embedding and stored by {having.name} alone; "
            f"save {having.name} and {lacking.name} with the same transformers version"
        )
    return ""


def _shape_hint(name: str, expected: TensorInfo, found: TensorInfo) -> str:
    is_vocabulary = "embed" in name or "lm_head" in name or name.endswith("wte.weight")
    if is_vocabulary and expected.shape[1:] == found.shape[1:]:
        return (
            f"the vocabularies have {expected.shape[0]} and {found.shape[0]} rows: tokens were "
            "added (or padding rows differ) in one of them; resize them to the same tokenizer"
        )
    return "are they fine-tuned from the same base?"


def _compare_files(reference: Checkpoint, member: Checkpoint) -> list[Problem]:
    problems = []
    for key in ("model_type", "architectures"):
        expected, found = reference.config.get(key), member.config.get(key)
        if expected != found:
            problems.append(Problem(member.name, f"config.json {key}", f"{expected}", f"{found}"))
    return problems + _compare_tokens(reference.tokenizer_home, member.tokenizer_home, member)


def _compare_tokens(reference: Path, directory: Path, member: Checkpoint) -> list[Problem]:
    """Whether the tokenizers in two directories, where there are such, mean the same."""
    found = tokens.compare(reference, directory)
    if found is None or not found.clashes:
        return []
    clashes = found.clashes[:3]
    return [
        Problem(
            member.name,
            f"tokenizer ({words.counted(len(found.clashes), 'token')} with another meaning)",
            ", ".join(f"{_token(token)} in row {ours}" for token, ours, _ in clashes),
            ", ".join(_there(theirs) for _, _, theirs in clashes),
            "the same embedding row would mean different tokens",
        )
    ]


def _there(found: int | str) -> str:
    return f"row {found}" if isinstance(found, int) else f"{_token(found)} there"


def _token(token: str) -> str:
    return words.shown(repr(token), 40)


def _added_tokens(reference: Checkpoint, member: Checkpoint) -> list[str]:
    """Tokens that only one of two has, in rows that the other has no token for."""
    found = tokens.compare(reference.tokenizer_home, member.tokenizer_home)
    if found is None or found.clashes:
        return []
    return [
        f"{having}: its tokenizer has {words.counted(len(entries), 'token')} that {lacking}'s "
        + "has not ("
        + ", ".join(f"{_token(token)} in {row}" for row, token in entries[:3])
        + (", …" if len(entries) > 3 else "")
        + f"); the rows of all others agree, and the soup gets {reference.name}'s tokenizer"
        for having, lacking, entries in (
            (member.name, reference.name, found.extra),
            (reference.name, member.name, found.missing),
        )
        if entries
    ]


def _uncompared(reference: Checkpoint, member: Checkpoint) -> list[str]:
    """Tokenizers whose files differ and are of no kind that is read here."""
    ours, theirs = reference.companions, member.companions
    if not (ours.has("tokenizer") and theirs.has("tokenizer")):
        return []
    one, other = ours.vocabulary, theirs.vocabulary
    if one == other or tokens.compare(reference.tokenizer_home, member.tokenizer_home) is not None:
        return []
    which = min(name for name in {*one, *other} if one.get(name) != other.get(name))
    return [
        f"{member.name}: its tokenizer cannot be compared with {reference.name}'s ({which} differs "
        "and cannot be read here): be sure that their ids mean the same tokens"
    ]


def _compare_to_base(member: Checkpoint) -> list[Problem]:
    """An adapter's own tokenizer, which the result does not get, against its base's."""
    return [] if member.base is None else _compare_tokens(member.home, member.path, member)


def _adapter_warnings(member: Checkpoint) -> list[str]:
    """Where an adapter's merged model is not quite what was trained."""
    if member.base is None:
        return []
    warnings = []
    changed = [name for name in member.updates if name.endswith("embed_tokens.weight")]
    if (
        changed
        and not member.ties
        and not any(name.endswith("lm_head.weight") for name in member.tensors)
    ):
        warnings.append(
            f"{member.name}: changes {changed[0]}, to which the output layer is tied in "
            f"{member.base.name}: merged, the change reaches both, in training it may not have"
        )
    own = sorted(brought(member.path))
    if own and member.companions.digest != gather(member.home).digest:
        warnings.append(
            f"{member.name}: brings {' and '.join(own)} of its own, which differ from those of its "
            f"base {member.base.name}; it is asked with its own"
        )
    return warnings


def _compare_configs(reference: Checkpoint, member: Checkpoint) -> list[str]:
    """Settings that shapes do not show (rope_theta, number of heads) and that differ."""
    found = differences(reference.config, member.config)
    if not found:
        return []
    return [
        f"{member.name}: config.json differs from {reference.name}'s: "
        f"{described(found, reference.name)}; by default each member is scored with its own, a "
        f"soup of several with {reference.name}'s"
    ]


def _batchnorm_warnings(reference: Checkpoint) -> list[str]:
    names = [name for name in reference.tensors if name.endswith(".running_var")]
    if not names:
        return []
    return [
        f"{names[0]} and {len(names) - 1} more are BatchNorm statistics: the average of "
        "statistics is not the statistics of the average; recompute them on data if they matter"
    ]
