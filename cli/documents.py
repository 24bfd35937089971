"""What `check` and `--dry-run` found, as JSON for machines; see docs/json.md."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soup.cli.results import write_text

if TYPE_CHECKING:
    from soup import Checkpoint, Report

VERSION = 1


def pool_found(report: "Report") -> dict[str, Any]:
    """A pool: its members, and all that is wrong with it, each problem by itself."""
    from soup.checkpoints.sharing import shares

    return {
        "blendable": not report.problems,
        "members": [
            {
                "name": member.name,
                "path": str(member.path),
                "kind": member.kind or "full",
                "tensors": len(member.tensors),
                "parameters": member.parameters,
                "dtypes": list(member.dtypes),
                "bytes": member.nbytes,
                "files": len(member.shards),
                "source": _source(member),
            }
            for member in report.members
        ],
        "problems": [asdict(problem) for problem in report.problems],
        "warnings": list(report.warnings),
        "duplicates": [list(pair) for pair in report.duplicates],
        "shared": [] if report.problems else [asdict(one) for one in shares(report.members)],
        "error": None,
    }


def _source(member: "Checkpoint") -> str | None:
    from soup.checkpoints.origins import origin_of

    origin = origin_of(member.path)
    return None if origin is None else str(origin)


def failed(error: object) -> dict[str, Any]:
    """A pool that could not be opened at all."""
    return {
        "blendable": False,
        "members": [],
        "problems": [],
        "warnings": [],
        "duplicates": [],
        "shared": [],
        "error": str(error),
    }


def put(file: Path, command: str, content: Mapping[str, Any]) -> None:
    """Write a document whole, or to standard output where ``file`` is ``-``.

    Raises:
        OutputError: it cannot be written.
    """
    text = json.dumps({"version": VERSION, "command": command, **content}, indent=2) + "\n"
    if str(file) == "-":
        sys.stdout.write(text)
        return
    write_text(file, text)
