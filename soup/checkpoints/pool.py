"""Several checkpoints that can be blended with each other, or exactly why they cannot."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soup import markup
from soup.checkpoints import comparing, shown
from soup.checkpoints.bases import other_bases
from soup.checkpoints.buffers import leave_out
from soup.checkpoints.calling import expand as expand  # known from here, too
from soup.checkpoints.calling import index_of
from soup.checkpoints.calling import unique_names as unique_names
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.differing import differing
from soup.checkpoints.files import require_readable
from soup.checkpoints.fitting import fit_all
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.problems import (
    Problem as Problem,  # known from here, too: what a report is made of
)
from soup.checkpoints.problems import summary, together
from soup.checkpoints.supplying import supply
from soup.errors import CheckpointError, PoolError, UsageError
from soup.events import Observer, ignore
from soup.remote.address import elsewhere


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
        cache: str | os.PathLike[str] | None = None,
        observe: Observer = ignore,
    ) -> "Pool":
        """Open directories (quoted globs are expanded) and prove from headers that they blend.

        What is elsewhere is fetched, when the headers of all have shown that they blend.

        Args:
            paths: model directories, and addresses: ``hf://org/name``, ``https://…``.
            dtype: the output dtype, a key of ``tensors.ITEMSIZES``; with it, members may
                differ in floating-point dtype.
            base: the model that the members were fine-tuned from: for methods that need it, and
                the one that LoRA adapters among the members change. It supplies tokenizer,
                processor, template and code to members that lack them.
            reference: the name (or path) of the member whose files the result takes after; by
                default the first.
            processor: a directory that supplies what members lack, before the base.
            cache: where to keep what is fetched, see ``soup.remote.cache``.
            observe: told of what is fetched.

        Raises:
            UsageError: no path given, a glob that matches nothing, or a reference that is none.
            CheckpointError: a directory is not a readable checkpoint.
            PoolError: they do not fit; the message names tensor, member, expected and found.
        """
        given = (paths, dtype, base, reference, processor, cache, observe)
        report = inspect(*given)
        if not report.problems and elsewhere(*paths, base):
            report = inspect(*given, whole=True)
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


def inspect(
    paths: Sequence[str | os.PathLike[str]],
    dtype: str | None = None,
    base: str | os.PathLike[str] | None = None,
    reference: str | None = None,
    processor: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    observe: Observer = ignore,
    whole: bool = False,
) -> Report:
    """Open checkpoints and compare them with one of them; of weights nothing but headers is read.

    Args:
        paths: model directories, and LoRA adapters'.
        dtype: the output dtype; with it, members may differ in floating-point dtype.
        base: the model that they were fine-tuned from; compared like a member. Adapters change
            it, rather than the base that they name.
        reference: the name or path of the member to compare with; by default the first.
        processor: a directory with tokenizer, processor, template or code for members without.
        cache: where to keep what is fetched, see ``soup.remote.cache``.
        observe: told of what is fetched.
        whole: fetch members that are elsewhere; else their headers alone, and the report's members
            cannot be blended.

    Raises:
        UsageError: see ``expand``; or a reference that is no member.
        CheckpointError: a directory is not a readable checkpoint, or a file that the soup would
            get from it cannot be copied.
    """
    if elsewhere(*paths, base, reference, processor):
        from soup.checkpoints.arriving import arrive  # only where something is to be fetched

        paths, base, reference, processor = arrive(
            paths, base, reference, processor, whole=whole, cache=cache, observe=observe
        )
    directories = expand(paths)
    names = unique_names(directories)
    chosen = index_of(reference, directories, names)
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
    every_file = [file for member in fitted for file in member.companions.files.values()]
    for file in dict.fromkeys(file for file in every_file if isinstance(file, Path)):
        require_readable(file)
    warnings = [f"{m.name}: {note}" for m in fitted for note in m.notes]
    warnings += [*said, *left_out, *other_bases(members, parent[0] if parent else None)]
    found = [comparing.of_reference(first)]
    found += [comparing.of_others(first, member, dtype) for member in others]
    found += [comparing.of_any(member) for member in members]
    problems = [problem for some, _ in found for problem in some]
    warnings += [line for _, lines in found for line in lines]
    warnings += differing(first, members)
    return Report(
        members,
        tuple(problems),
        tuple(together(warnings, [member.name for member in members])),
        tuple(same_files(members)),
        fitted[-1] if base is not None else None,
        first,
    )


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


def same_files(members: Sequence[Checkpoint]) -> list[tuple[str, str]]:
    """Pairs of members whose files are the same files (links, or a path given twice).

    Raises:
        CheckpointError: one is not there any more.
    """
    first: dict[str, str] = {}
    pairs = []
    for member in members:
        try:
            stats = [file.stat() for file in (*member.shards, *member.settings)]
        except OSError as error:
            raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from error
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
