"""`soup journal`: what is recorded in --work, what of it can go, and how it gets elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from soup.cli.grouping import grouped
from soup.cli.options import WORK, Json, Work
from soup.errors import JournalError, UsageError
from soup.words import counted, did_you_mean

ACTIONS = ("show", "prune", "export", "import")
SHOWN = 20  # runs


@grouped
def journal(
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="One of show, prune, export, import.")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Of export and import; packed where it ends in .gz."),
    ] = None,
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", min=0, help="With prune: so many stay.")
    ] = 30,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With prune: say what would go, and keep it.")
    ] = False,
    json: Json = None,
    work: Work = WORK,
) -> None:
    """Show what is recorded, drop what is old, carry scores to another machine.

    show lists runs and results. prune drops all but the newest runs and what none of them has used;
    what a soup scored that is still there stays. export writes all scores, without runs and paths;
    import adds those that are not known here.

    Example: soup journal export scores.jsonl.gz
    """
    if action not in ACTIONS:
        raise UsageError(f"{action}: no such action; {did_you_mean(action, ACTIONS)}")
    if (file is None) != (action in ("show", "prune")):
        needs = "a FILE" if file is None else "no FILE"
        raise UsageError(f"soup journal {action}: expected {needs}")
    if action == "show":
        _show(work, json)
    elif action == "prune":
        _prune(work, runs, dry_run)
    elif action == "export":
        assert file is not None
        _export(work, file)
    else:
        assert file is not None
        _import(work, file)


def _show(work: Path, json: Path | None) -> None:
    from soup.choosing.carrying import contents
    from soup.choosing.journal import Journal
    from soup.cli.documents import put

    found = contents(Journal.open(work, create=False))
    if json is not None:
        put(json, "journal", found.to_dict())
    if str(json) == "-":
        return
    from rich.markup import escape
    from rich.table import Table

    from soup.cli import console
    from soup.markup import size
    from soup.watching.lines import duration
    from soup.words import shown

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("run", "began (UTC)", "command", "members", "end"):
        table.add_column(head)
    for run in found.runs[-SHOWN:]:
        began = run.time[:16].replace("T", " ")
        table.add_row(run.run, began, run.command, str(run.members), escape(shown(run.end)))
    if found.runs:
        console.out.print(table)
    if len(found.runs) > SHOWN:
        print(f"and {len(found.runs) - SHOWN} runs before these")
    total = sum(found.results.values())
    took = f", {duration(found.seconds)} of measuring" if found.seconds else ""
    print(f"{shown(found.path)}: {size(found.size)}, {counted(total, 'result')}{took}")
    for name, many in sorted(found.results.items()):
        print(f"  {shown(name)}: {many}")
    if found.damaged:
        print(f"{counted(found.damaged, 'damaged line')}; what they held is measured again")


def _prune(work: Path, runs: int, dry_run: bool) -> None:
    from soup.choosing.carrying import prune
    from soup.choosing.journal import Journal
    from soup.markup import size

    journal = Journal.open(work, create=False)
    if not journal.path.exists():
        raise JournalError(f"{journal.path}: there is no journal")
    gone = prune(journal, runs, dry=dry_run)
    how = "would go" if dry_run else "went"
    print(f"{_kinds(gone.records) or 'nothing'} {how}, {size(gone.size)}")


def _export(work: Path, file: Path) -> None:
    from soup.choosing.carrying import export
    from soup.choosing.journal import Journal

    counts = export(Journal.open(work, create=False), file)
    print(f"{file}: {_kinds(counts) or 'nothing'}")


def _import(work: Path, file: Path) -> None:
    from soup.choosing.carrying import take_in
    from soup.choosing.journal import Journal

    taken = take_in(Journal.open(work), file)
    print(f"{_kinds(taken.added) or 'nothing'} added, {counted(taken.known, 'record')} known")
    if taken.differing:
        many = counted(taken.differing, "result")
        print(f"{many} of other content than here; those that were here stay")
    if taken.damaged:
        print(f"{counted(taken.damaged, 'damaged line')} passed over")


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(counted(many, kind) for kind, many in sorted(counts.items()) if many)
