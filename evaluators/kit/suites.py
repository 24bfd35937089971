"""Benchmarks that are known by name, without VLMEvalKit: suites, and which of them need a judge."""

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from soup.errors import UsageError
from soup.words import did_you_mean

SUITES = {
    "points": (
        "MMBench_DEV_EN",
        "MMStar",
        "AI2D_TEST",
        "MMMU_DEV_VAL",
        "HallusionBench",
        "MathVista_MINI",
        "MMVet",
        "OCRBench",
    ),
}
"""By name, the benchmarks in the order of their columns. ``points``: those of the POINTS paper."""

QUESTIONS = {
    "MMBench_DEV_EN": 4329,  # 1,164 in all their rotations
    "MMStar": 1500,
    "AI2D_TEST": 3088,
    "MMMU_DEV_VAL": 1050,
    "HallusionBench": 951,
    "MathVista_MINI": 1000,
    "MMVet": 218,
    "OCRBench": 1000,
}
"""Rows of the suites' benchmarks: for plans, before VLMEvalKit has been asked."""

NEEDS_JUDGE = ("MathVista_MINI", "MMVet", "MMVet_Hard")
"""Benchmarks whose headline is known here, and which have none without a judge's verdicts."""

LONGEST = 1 << 26
"""Characters of a line, at most: a row with its images."""

TABLES = (".tsv", ".csv", ".jsonl", ".json", ".parquet", ".xlsx")
"""Ends of the names of files that are read as tables of questions."""

ADD_A_JUDGE = "add --judge MODEL --judge-url URL (any OpenAI-compatible endpoint)"


def with_suite(suite: str | None, names: Iterable[str]) -> tuple[str, ...]:
    """A suite's benchmarks, then those of ``names`` that it does not have already.

    Raises:
        UsageError: no such suite.
    """
    if suite is None:
        return tuple(names)
    if suite not in SUITES:
        raise UsageError(f"--suite {suite}: no such suite; {did_you_mean(suite, SUITES)}")
    return SUITES[suite] + tuple(name for name in names if name not in SUITES[suite])


def questions_in(source: str) -> int | None:
    """Rows of a benchmark, by its name or its TSV's path; None where that is not known yet."""
    if source in QUESTIONS:
        return QUESTIONS[source]
    if not source.endswith(".tsv") or not Path(source).is_file():
        return None
    with open(source, newline="", encoding="utf-8", errors="replace") as lines:
        before = csv.field_size_limit(1 << 30)
        try:
            return sum(1 for _ in csv.reader(_bounded(lines), delimiter="\t")) - 1
        except csv.Error:
            return None  # scoring says what is wrong with it
        finally:
            csv.field_size_limit(before)


def _bounded(stream: TextIO) -> Iterator[str]:
    """Its lines.

    Raises:
        csv.Error: one is longer than a row with its images can be.
    """
    while line := stream.readline(LONGEST):
        if len(line) == LONGEST:
            raise csv.Error("a line without an end")
        yield line


def judged_only(sources: Iterable[str]) -> list[str]:
    """Those of names or paths that cannot be scored without a judge."""
    return [source for source in sources if benchmark_name(source) in NEEDS_JUDGE]


def is_table(source: str) -> bool:
    """Whether a benchmark is the path of a file; else it is a name of VLMEvalKit's."""
    return os.sep in source or source.lower().endswith(TABLES)


def benchmark_name(source: str) -> str:
    """What a benchmark is called: a table's file without its end, else the name itself."""
    return Path(source).stem if is_table(source) else source


def distinct_names(sources: Iterable[str]) -> list[str]:
    """The names of benchmarks; tables of one name get as much of their paths as tells them apart.

    What is given twice keeps one name.
    """
    given = list(sources)
    names = [benchmark_name(source) for source in given]
    files = [Path(os.path.abspath(s)) if is_table(s) else Path(s) for s in given]
    for name in {name for name in names if names.count(name) > 1}:
        same = [k for k, other in enumerate(names) if other == name]
        count = len({files[k] for k in same})
        depths = range(1, max(len(files[k].parts) for k in same) + 1)
        for depth, ending in ((depth, ending) for depth in depths for ending in (False, True)):
            made = {k: _end_of(files[k], depth, ending or not is_table(given[k])) for k in same}
            if len(set(made.values())) == count:
                break
        for k in same:
            names[k] = made[k] if count > 1 else name
    return names


def _end_of(file: Path, depth: int, ending: bool) -> str:
    """The last parts of a path, with or without the end of the file's name."""
    return "/".join([*file.parts[:-1], file.name if ending else file.stem][-depth:])
