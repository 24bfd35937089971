"""`soup demo`: build the pool, make all three soups, in a directory where one can go on.

What it does is imported when it does it: help and mistakes need none of it.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import soup
from soup.cli import config, console, report
from soup.cli.options import Device, Quiet
from soup.errors import OutputError, UsageError
from soup.events import Note, Observer, Progress
from soup.holding import unfinished

if TYPE_CHECKING:
    from soup import Leaderboard


def demo(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("soup-demo"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a real small pool, make all three soups of it, show the leaderboard, write a report.

    Takes about two minutes on two cores, without a GPU or a network.

    Example: soup demo && cd soup-demo && soup greedy ckpts/*
    """
    import shutil

    from soup.cli import board
    from soup.cli.progress import Watch

    with Watch(console.err, quiet) as watch:
        boards = run(directory, device, watch)
    if not quiet:
        board.leaderboard(boards[-1], console.out, others=boards[:-1])
    said = report.written_or_why_not(directory / "report.html", directory / ".soup")
    # `make demo` leaves the user outside the environment: then only the whole path works.
    command = "soup" if shutil.which("soup") else Path(sys.executable).with_name("soup")
    text = f"\n{said}\nNext, in the same pool:  cd {directory} && {command} greedy ckpts/*"
    console.out.print(text, highlight=False, soft_wrap=True)


def run(directory: Path, device: str, observe: Observer) -> "list[Leaderboard]":
    """Build the demo pool in ``directory`` unless it is there, then make all three soups.

    Returns:
        A leaderboard for each: maximum, average, greedy.

    Raises:
        OutputError: the directory holds something else.
        UsageError: what training the pool needs is not installed.
    """
    from soup.evaluators import VLMEvalKitScorer

    root = Path(os.path.abspath(directory))
    if not (root / "ckpts").is_dir() or not (root / "soup.toml").is_file():
        _build(root, observe)
    told = config.read(root / "soup.toml")
    ckpts = sorted(path for path in (root / "ckpts").iterdir() if path.is_dir())
    pool = soup.Pool.open(*ckpts)
    boards = []
    with VLMEvalKitScorer(
        work=root / ".soup", device=device, max_new_tokens=told["max-new-tokens"]
    ) as scorer:
        for kind in ("max", "average", "greedy"):
            settings = soup.Settings(
                benchmarks=[str(root / name) for name in told["bench"]],
                holdouts=[str(root / name) for name in told["holdout"]],
                out=root / f"soup-{kind}",
                work=root / ".soup",
            )
            boards.append(soup.make(kind, pool, scorer, settings, observe))
    return boards


def _build(root: Path, observe: Observer) -> None:
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise OutputError(f"{root}: exists and is not a demo; choose another directory")
    try:
        from soup.evaluators.demo import build
    except ImportError as error:
        raise _missing(error) from error
    root.parent.mkdir(parents=True, exist_ok=True)
    # Complete or not at all, like every directory we make.
    with unfinished(root, lambda text: observe(Note(text))) as temporary:
        temporary.chmod(0o755)
        try:
            build(temporary, lambda what, done, of: observe(Progress(what, done, of, "models")))
        except ImportError as error:
            raise _missing(error) from error
        try:
            if root.exists():
                root.rmdir()
            temporary.rename(root)
        except OSError as error:  # another command filled it meanwhile
            raise OutputError(
                f"{root}: cannot be written: {error.strerror}; choose another directory, or run "
                "the command again to go on with what is there"
            ) from error


def _missing(error: ImportError) -> UsageError:
    return UsageError(
        f"the demo needs {error.name}, which is not installed here; "
        "run: pip install 'vlm-soup[demo]'"
    )
