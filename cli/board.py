"""The leaderboard on a screen or in a log: one table, whatever its width, and every digit of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from soup.blending.methods import describe
from soup.choosing.figures import aligned, gained, number, percent
from soup.choosing.leaderboard import Leaderboard, Row, SoupRow
from soup.cli.escaping import escape
from soup.watching.lines import shortened
from soup.words import folded

MOST = 8
"""Benchmarks that are columns; more of them are rows."""
NAMES = (24, 16, 11)
"""Characters of a name, tried in this order where not all fits."""
HEAD = 5
"""Characters of a shortened head: as many as a score has."""
ANY = 1 << 16  # columns
HELD = "magenta"  # of hold-outs
BAR = 12  # columns of a bar
EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class _Column:
    head: str
    cells: list[str]
    style: str = ""
    short: str = ""


@dataclass(frozen=True)
class _Layout:
    """What is printed: a table, or lines, and what is to be known about it."""

    table: Table | None
    lines: Sequence[str] = ()
    legend: Sequence[str] = ()
    holdouts: Table | None = None

    @property
    def tables(self) -> list[Table]:
        return [table for table in (self.table, self.holdouts) if table is not None]

    def fits(self, console: Console) -> bool:
        options = console.options.update(max_width=ANY)
        widths = [Measurement.get(console, options, table).maximum for table in self.tables]
        return max(widths, default=0) <= console.width


def leaderboard(board: Leaderboard, console: Console, others: Sequence[Leaderboard] = ()) -> None:
    """Print the ranking, the soups' rows and the path.

    Args:
        board: the run to show.
        console: where to.
        others: earlier runs over the same members, whose soups are shown, too.
    """
    soups = [run.soup for run in (*others, board) if run.soup is not None]
    rows: list[Row | SoupRow] = [*board.members, *soups]
    if rows and (board.benchmarks or board.holdouts):
        bars = console.is_terminal  # a pipe has any room, and no use for them
        layouts = _layouts(board, rows, console.width, bars)
        layout = next(each for each in layouts if each.fits(console))
        for table in layout.tables:
            console.print(table)
        for line in (*layout.lines, *layout.legend):
            console.print(line, highlight=False)
    if len(board.path) > 1:
        paths = [_path(board, most) for most in (2 * NAMES[0], *NAMES)]
        console.print(next((path for path in paths if _narrowest(path, console)), paths[-1]))
    for line in board.footer():
        console.print(line, style="dim", markup=False, highlight=False)
    for soup in soups:
        width = console.width if console.is_terminal else None
        console.print(_summary(board, soup, width), highlight=False, soft_wrap=True)
    if board.error is not None:
        text = f"this {board.command} run failed: {board.error}"
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    if not board.finished:
        console.print("[yellow]this run did not finish; the same command goes on from here[/]")


def _narrowest(table: Table, console: Console) -> bool:
    """Whether it fits with what may be folded folded."""
    options = console.options.update(max_width=ANY)
    return Measurement.get(console, options, table).minimum <= console.width


def _layouts(
    board: Leaderboard, rows: Sequence[Row | SoupRow], width: int, bars: bool
) -> Iterator[_Layout]:
    """From the one that shows most to the one that always fits."""
    members = len(board.members)
    names = [row.name if isinstance(row, Row) else f"{row.kind} soup" for row in rows]
    ranks = [str(k) if row.mean is not None else "" for k, row in enumerate(board.members, 1)]
    ranks += [""] * (len(rows) - members)
    columns = list(_columns(board, rows))
    if len(board.benchmarks) + len(board.holdouts) <= MOST:
        different, equal = _different(columns)
        if bars and (bar := _bars(rows)):
            yield _upright(ranks, names, [columns[0], bar, *columns[1:]], members)
        yield _upright(ranks, names, columns, members)
        yield _upright(ranks, names, different, members, equal)
        for most in NAMES[:-1]:
            yield _upright(ranks, distinct(names, most), different, members, equal)
        held = [column for column in different if column.style == HELD]
        if held and len(held) < len(different):
            first = [column for column in different if column.style != HELD]
            for most in NAMES[:-1]:
                short = distinct(names, most)
                upper = _upright(ranks, short, first, members, equal)
                lower = _upright(ranks, short, held, members)
                yield replace(upper, holdouts=lower.table)
        heads = distinct([c.short or c.head for c in different], HEAD, _abbreviated)
        said = [f"{h} = {c.head}" for h, c in zip(heads, different, strict=True) if h != c.head]
        narrow = [replace(c, head=h) for h, c in zip(heads, different, strict=True)]
        legend = [*equal, *([f"[dim]{escape(', '.join(said))}[/]"] if said else [])]
        for most in NAMES:
            short = distinct(names, most)
            yield _upright(ranks, short, narrow, members, legend, gap=0)
    yield _on_its_side(names, columns, members)
    yield _records(ranks, names, columns, members, width)


def _columns(board: Leaderboard, rows: Sequence[Row | SoupRow]) -> Iterator[_Column]:
    if board.benchmarks:
        differences = [
            gained(row.mean - board.best, row.difference)
            if row.mean is not None and board.best is not None
            else "–"
            for row in rows
        ]
        yield _Column("mean", [number(row.mean) for row in rows], "bold")
        yield _Column("Δ best", aligned(differences), "cyan", "Δ")
    for name in board.benchmarks:
        yield _Column(name, [number(row.scores.get(name)) for row in rows])
    for name in board.holdouts:
        cells = [number(row.holdouts.get(name)) for row in rows]
        yield _Column(f"{name} (h)", cells, HELD)
    worst = [percent(max(row.unparsed.values(), default=None)) for row in rows]
    yield _Column("unparsed", worst, "dim")
    missing = [sum(row.unjudged.values()) for row in rows]
    if any(missing):
        yield _Column("unjudged", [str(count) for count in missing], "yellow")


def _bars(rows: Sequence[Row | SoupRow]) -> _Column | None:
    """A bar for each mean, from the lowest to the highest; None where they tell nothing."""
    means = [row.mean for row in rows if row.mean is not None]
    if len(set(means)) < 2:
        return None
    low, high = min(means), max(means)

    def bar(mean: float | None) -> str:
        if mean is None:
            return " " * BAR
        eighths = 1 + round((8 * BAR - 1) * (mean - low) / (high - low))
        return ("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()).ljust(BAR)

    return _Column(f"{low:.1f} – {high:.1f}", [bar(row.mean) for row in rows], "blue")


def _different(columns: Sequence[_Column]) -> tuple[list[_Column], list[str]]:
    """The columns that tell rows apart, and a line about each of the others."""
    if len(columns[0].cells) < 2:
        return list(columns), []
    kept, said = [], []
    for column in columns:
        if column.head in ("mean", "Δ best") or len(set(column.cells)) > 1:
            kept.append(column)
        else:
            said.append(f"[dim]{escape(column.head)}: {escape(column.cells[0])} in all rows[/]")
    return kept, said


def _upright(
    ranks: Sequence[str],
    names: Sequence[str],
    columns: Sequence[_Column],
    members: int,
    legend: Sequence[str] = (),
    gap: int = 1,
) -> _Layout:
    """A row for each member and soup."""
    table = _table(gap)
    table.add_column("#", justify="right", style="dim", no_wrap=True)
    table.add_column("member", no_wrap=True)
    for column in columns:
        table.add_column(escape(column.head), justify="right", style=column.style, no_wrap=True)
    for k, name in enumerate(names):
        table.add_row(
            ranks[k],
            escape(name),
            *(escape(column.cells[k]) for column in columns),
            style="bold green" if k >= members else "",
            end_section=k == members - 1,
        )
    return _Layout(table, legend=legend)


def _on_its_side(names: Sequence[str], columns: Sequence[_Column], members: int) -> _Layout:
    """A row for each benchmark; members are numbers, which the legend explains."""
    table = _table()
    table.add_column("", no_wrap=True)
    heads = [str(k) for k in range(1, members + 1)]
    heads += [name.removesuffix(" soup") for name in names[members:]]
    for k, head in enumerate(heads):
        style = "bold green" if k >= members else ""
        table.add_column(escape(head), justify="right", style=style, no_wrap=True)
    shown = distinct([column.head for column in columns], NAMES[0])
    for head, column in zip(shown, columns, strict=True):
        table.add_row(escape(head), *map(escape, column.cells), style=column.style)
    wide = len(str(members))
    legend = [f"[dim]{k:{wide}}[/]  {escape(name)}" for k, name in enumerate(names[:members], 1)]
    return _Layout(table, legend=legend)


def _records(
    ranks: Sequence[str],
    names: Sequence[str],
    columns: Sequence[_Column],
    members: int,
    width: int,
) -> _Layout:
    """For many benchmarks of many members: a paragraph for each member, of facts in a grid."""
    heads = max(cell_len(column.head) for column in columns)
    cells = max(cell_len(cell) for column in columns for cell in column.cells)
    each = max((width - 5) // (heads + cells + 4), 1)
    found = []
    for k, (rank, name) in enumerate(zip(ranks, names, strict=True)):
        style = "bold green" if k >= members else "bold"
        found.append(f"[dim]{rank:>3}[/]  [{style}]{escape(name)}[/]")
        facts = [f"{c.head:{heads}} {c.cells[k]:>{cells}}" for c in columns]
        for start in range(0, len(facts), each):
            found.append("     " + escape("   ".join(facts[start : start + each])))
    return _Layout(None, found)


def _path(board: Leaderboard, most: int) -> Table:
    table = _table()
    table.add_column("tried", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    known = any(step.difference for step in board.path)
    for head in ("gain", "95% interval", "p") if known else ():
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("kept")
    names = distinct([step.tried for step in board.path], most)
    for k, (name, step) in enumerate(zip(names, board.path, strict=True)):
        kept = "[green]yes[/]" if step.kept else f"[dim]{step.verdict}[/]"
        shown = escape(name if k == 0 else f"+ {name}")
        table.add_row(shown, number(step.mean), *(step.sure if known else ()), kept)
    return table


def _summary(board: Leaderboard, soup: SoupRow, width: int | None) -> str:
    share = f"{len(soup.members)} of {len(board.members)} members"
    if soup.merging["method"] != "linear":
        share += f" by {describe(soup.merging['method'], soup.merging['parameters'])}"
    head = f"{soup.kind} soup"
    text = f"{head}: {share}"
    if soup.mean is not None and board.best is not None:
        text += f", mean {soup.mean:.2f} ({soup.mean - board.best:+.2f} to the best single)"
    text += f", written to {soup.out}" if soup.out else ", not written"
    return f"[bold green]{head}[/]{escape(folded(text, width).removeprefix(head))}"


def _table(gap: int = 1) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0))


def distinct(
    names: Sequence[str], width: int, shorten: Callable[[str, int], str] = shortened
) -> list[str]:
    """Names in that many characters, or in as few more as it takes to tell them apart."""
    for each in range(width, max(map(cell_len, names), default=0) + 1):
        for found in ([shorten(name, each) for name in names], _apart(names, each)):
            if len(set(found)) == len(set(names)):
                return found
    return list(names)


def _apart(names: Sequence[str], width: int) -> list[str]:
    """Long names as where they begin, what they differ in, and where they end."""
    long = [name for name in names if cell_len(name) > width]
    before = _common(long)
    after = _common([name[before:][::-1] for name in long])

    def cut(name: str) -> str:
        middle = name[before : len(name) - after]
        room = max(width - len(middle) - 2, 0)
        start, end = name[:before], name[len(name) - after :]
        head, tail = start[: room - room // 2], end[len(end) - min(room // 2, len(end)) :]
        return f"{head}{'…' if head != start else ''}{middle}{'…' if tail != end else ''}{tail}"

    return [cut(name) if name in long else name for name in names]


def _common(names: Sequence[str]) -> int:
    """How many characters all names begin with."""
    return sum(
        1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    )


def _abbreviated(name: str, width: int) -> str:
    """A head's first letters; a hold-out's in brackets."""
    if len(name) <= width:
        return name
    if name.endswith(" (h)"):
        return f"({name[: max(width - 2, 1)]})"
    return name[:width].rstrip(" _-.")
