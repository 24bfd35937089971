"""The published soup on a model hub: one commit, private unless it is asked otherwise.

Beside what lies in the soup's directory goes ``.eval_results/soup.yaml``: its scores in the form in
which the hub collects them (https://huggingface.co/docs/hub/eval-results), for benchmarks whose
data set has a name there. huggingface_hub is imported where something is sent.
"""

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import yaml

from soup.blending.card import HUB
from soup.errors import UsageError
from soup.events import Observer, ignore
from soup.markup import size
from soup.publishing.shelf import manifest
from soup.remote.address import HUB as SCHEME
from soup.remote.address import Address
from soup.remote.committing import Commit, commit
from soup.words import counted

RESULTS = ".eval_results/soup.yaml"


def require_repository(name: str) -> str:
    """A repository's name, where it is one.

    Raises:
        UsageError: it is not, or huggingface_hub is not installed.
    """
    if find_spec("huggingface_hub") is None:
        raise UsageError(
            "--push needs huggingface_hub, which is not installed here; run: "
            "pip install 'vlm-soup[hub]'"
        )
    if not HUB.fullmatch(name):
        raise UsageError(f"--push {name}: expected org/name")
    return name


def files(soup: Path) -> Iterator[tuple[str, int]]:
    """What would be sent of a soup's directory: names and bytes."""
    for root, folders, names in os.walk(soup):
        folders.sort()
        for name in sorted(names):
            file = Path(root) / name
            yield file.relative_to(soup).as_posix(), file.stat().st_size


def results(soup: Path, datasets: Mapping[str, str]) -> str:
    """``.eval_results/soup.yaml`` of a soup; empty where none of its benchmarks is known there.

    Args:
        soup: its directory.
        datasets: a hub's data set by benchmark.
    """
    scores = manifest(soup).get("scores") or {}
    found = [
        {
            "dataset": {"id": datasets[name], "task_id": "default"},
            "value": round(value, 4),
            "notes": f"VLMEvalKit {name}",
        }
        for name, value in scores.items()
        if name in datasets
    ]
    return yaml.safe_dump(found, sort_keys=False) if found else ""


def foretell(soup: Path | None, repository: str, datasets: Mapping[str, str]) -> list[str]:
    """What ``push`` would do, in lines; ``soup`` is the one in use, None where there is none."""
    to = f"would send a published soup to {repository}, private where it is made anew"
    if soup is None:
        return [f"{to}: weights, companion files, README.md, soup.json and {RESULTS}"]
    there = list(files(soup))
    total = sum(many for _, many in there)
    lines = [f"{to}; as {soup.name} has them, {counted(len(there), 'file')}, {size(total)}:"]
    lines += [f"  {name} ({size(many)})" for name, many in there]
    if text := results(soup, datasets):
        lines.append(f"  {RESULTS} ({size(len(text))})")
    return lines


def push(
    soup: Path,
    repository: str,
    datasets: Mapping[str, str],
    *,
    private: bool = True,
    observe: Observer = ignore,
) -> str:
    """Send a soup in one commit; files of an earlier one that it replaces go.

    Args:
        soup: its directory.
        repository: ``org/name``; made where there is none.
        datasets: as for ``results``.
        private: whether one that is made anew is; one that is there stays as it is.
        observe: told of progress.

    Returns:
        The address of the commit.

    Raises:
        OutputError: it could not be sent; a commit is whole or not at all.
    """
    there: dict[str, Path | bytes] = {name: soup / name for name, _ in files(soup)}
    if text := results(soup, datasets):
        there[RESULTS] = text.encode()
    title = f"{soup.name}: {manifest(soup).get('kind', 'a')} soup"
    what = Commit(Address(SCHEME, repository), title, there, private)
    return str(commit(what, observe, f"--push {repository}").commit_url)
