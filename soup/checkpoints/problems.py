"""Why checkpoints cannot be blended: one reason each, and many of a kind in one line.

Another dtype concerns every tensor of a model. People want to read that once, with a count.
"""

import os.path
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from soup.words import counted, listed, shown

LINES = 10
"""Lines that a summary has, at most."""

NAMES = 10
"""Members that a line names, at most."""

LONG = 160
"""Characters of a name or a value in a line, at most."""

AS_IF = ", and are read as if they were its: "
"""What stands between that names differ and how, for each member."""

TENSOR = "tensor "
"""How what a problem is about begins, where it is a tensor."""


@dataclass(frozen=True)
class Problem:
    """One reason why a pool cannot be blended.

    Attributes:
        member: the checkpoint that differs.
        tensor: the tensor, or the file, that it is about.
        expected: what the reference member has.
        found: what this member has.
        hint: what to do about it.
    """

    member: str
    tensor: str
    expected: str
    found: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{shown(self.member)}: {self.what}"

    @property
    def what(self) -> str:
        """All of it but the member."""
        return f"{shown(self.tensor, LONG)}: {self.pair}"

    @property
    def pair(self) -> str:
        """What was expected, what found, what to do."""
        hint = f"; {self.hint}" if self.hint else ""
        return f"expected {shown(self.expected, LONG)}, found {shown(self.found, LONG)}{hint}"

    @property
    def kind(self) -> tuple[str, ...]:
        """Problems of one member that are equal in this are told together."""
        if not self.tensor.startswith(TENSOR):
            return (self.tensor, self.expected, self.found, self.hint)
        if self.found == "nothing":
            return ("missing",)
        if self.expected.startswith("nothing"):
            return ("extra",)
        if "[" in self.expected:
            return ("shape", self.hint)
        return (self.expected, self.found, self.hint)


def summary(problems: Iterable[Problem], tensors: int = 0, others: int = 0) -> list[str]:
    """Problems in few lines: those of one kind together, of tensors and of members.

    Args:
        problems: in any order; the first ones come first.
        tensors: how many the reference has, to say "all" of so many.
        others: how many members there are besides the reference, to say the same of them.
    """
    kinds: dict[tuple[str, tuple[str, ...]], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.member, problem.kind), []).append(problem)
    by_text: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for (member, _), group in kinds.items():
        text = _together(group, tensors)
        by_text.setdefault(text, []).append(member)
        counts[text] = counts.get(text, 0) + len(group)
    lines = [f"{_members(members, others)}: {text}" for text, members in by_text.items()]
    if len(lines) <= LINES:
        return lines
    rest = list(by_text)[LINES - 1 :]
    members = {member for text in rest for member in by_text[text]}
    more = counted(sum(counts[text] for text in rest), "more problem")
    return [
        *lines[: LINES - 1],
        f"and {more}, in {counted(len(members), 'member')}: `soup check … --json -` lists all",
    ]


def together(lines: Iterable[str], members: Sequence[str]) -> list[str]:
    """Lines ``member: text``: of those with the same text one, that names all its members.

    So are those one that are the same up to ``AS_IF``, with what each goes on with.

    Args:
        lines: in any order; those that begin with no member's name stay as they are.
        members: their names, the reference's first.
    """
    by_text: dict[str, list[str]] = {}
    for line in lines:
        owners = [name for name in members if line.startswith(f"{name}: ")]
        owner = max(owners, key=len, default="")
        by_text.setdefault(line.removeprefix(f"{owner}: ") if owner else line, []).append(owner)
    heads: dict[str, dict[str, list[str]]] = {}
    for text, owners in by_text.items():
        head, as_if, rest = text.partition(AS_IF)
        heads.setdefault(head + as_if, {})[rest] = owners
    others = len(members) - 1
    found = []
    for head, rests in heads.items():
        text = head + "; ".join(rests)
        if len(rests) > 1:
            text = head + "; ".join(f"{_members(o, others)}: {rest}" for rest, o in rests.items())
        names = [name for owners in rests.values() for name in owners if name]
        found.append(f"{_members(names, others)}: {text}" if names else text)
    return found


def _members(names: Sequence[str], others: int) -> str:
    names = list(dict.fromkeys(names))
    if len(names) > NAMES and len(names) == others:
        return f"all {others:,} others"
    return listed(names, NAMES)


def _together(group: Sequence[Problem], tensors: int) -> str:
    """Problems of one member and one kind, without the member."""
    first = group[0]
    if len(group) == 1:
        return first.what
    names = [problem.tensor.removeprefix(TENSOR) for problem in group]
    everything = len(group) == tensors
    where = f"all {tensors:,} tensors" if everything else counted(len(group), "tensor")
    where += "" if everything else f" ({patterns(names)})"
    if len({problem.hint for problem in group}) > 1:
        first = replace(first, hint="")  # it explains some of them at most
    alike = len({(problem.expected, problem.found) for problem in group}) == 1
    example = "" if alike else f"e.g. {shown(names[0], LONG)}: "
    return f"{where}: {example}{first.pair}"


def patterns(names: Sequence[str]) -> str:
    """Many names in few: numbers become ``*``; what is still too much is cut where names part."""
    starred = list(dict.fromkeys(re.sub(r"\d+", "*", name) for name in names))
    if len(starred) <= 3:
        return ", ".join(shown(name, 120) for name in starred)
    prefix = os.path.commonpath([name.replace(".", "/") for name in starred if name])
    if prefix:
        return f"{shown(prefix.replace('/', '.'), 120)}.*"
    heads: dict[str, int] = {}
    for name in names:
        head = name.partition(".")[0]
        heads[head] = heads.get(head, 0) + 1
    return listed([f"{shown(head)}.* {count:,}" for head, count in heads.items()], 6)
