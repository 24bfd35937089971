"""`soup status`: what a run in ``--work`` is doing, asked from another terminal."""

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import soup
from soup.cli import console
from soup.cli.options import WORK, Work
from soup.errors import JournalError
from soup.words import folded

if TYPE_CHECKING:
    from soup.watching.state import State


def status(
    work: Work = WORK,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="The same as JSON; - is stdout.")
    ] = None,
) -> None:
    """Say what a run is doing now: progress, speed, time left. Ask from any terminal.

    Example: watch soup status
    """
    from soup.watching.state import running

    states = running(work)
    last = _last(work)
    if json is not None:
        from soup.cli.documents import put

        put(json, "status", {"running": [state.to_dict() for state in states], "last": last})
        if str(json) == "-":
            return
    for state in states:
        for line in _lines(state):
            _say(line)
    if states:
        return
    if last is None:
        _say(f"nothing runs in {work}, and no run is recorded there")
        return
    _say(f"nothing runs in {work}; the last run: {last['title']}: {last['state']}")


def _say(line: str) -> None:
    out = console.out
    text = folded(line, out.width if out.is_terminal else None)
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def _lines(state: "State") -> list[str]:
    from soup.watching.lines import duration

    began = datetime.fromisoformat(state.began)
    since = duration((datetime.now(timezone.utc) - began).total_seconds())
    head = f"{state.command}: for {since}, process {state.pid} on {state.host}"
    if state.alive is False:
        head += "; that process is gone: run its command again, it goes on from there"
    found = [head, *(f"  {word}" for word in state.words)]
    if not state.words and state.note:
        found.append(f"  {state.note}")
    return [*found, f"  as of {duration(state.age)} ago"]


def _last(work: Path) -> dict[str, Any] | None:
    """The last run that is recorded, and how it ended."""
    try:
        records = soup.Journal.open(work, create=False).last_run()
    except JournalError as error:
        return {"title": "unknown", "state": str(error)}
    if not records:
        return None
    start = records[0]
    failed = [record["error"] for record in records if record["kind"] == "failed"]
    ended = any(record["kind"] in ("soup", "end") for record in records)
    state = "done" if ended else f"failed: {failed[-1]}" if failed else "not finished"
    begun = str(start.get("time", ""))[:16].replace("T", " ")
    title = f"{start['command']} of {len(start['members'])} members, begun {begun} UTC"
    return {"title": title, "state": state, "run": start["run"], "command": start["command"]}
