"""VLMEvalKit's thirteen traps, and what their tests have in common.

There is one test or more for each, that fails where we fall into it:

- test_traps_left.py: 1 stale predictions, 2 inherited partials, 3 remembered scores, 4 spent
  dataset objects, 5 old images, 12 versions.
- test_traps_missing.py: 6 partial sets, 7 failures scored 0.
- test_traps_process.py: 8 side effects of importing, 9 the environment.
- test_traps_words.py: 10 the vanished "None".
- test_traps_batches.py: 11 one at a time.
- test_traps_code.py: 13 files that were code.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.kit.test_vlmevalkit import tsv

vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")
metrics = pytest.importorskip("soup.evaluators.kit.metrics")


def dataset(path: Path, rows: list[dict[str, Any]], name: str = "set") -> Any:
    """A data set from rows, with its images unpacked beside it."""
    return vlmevalkit.Dataset(str(tsv(path / f"{name}.tsv", rows)), path / "cache")


def counted_dumps(patch: pytest.MonkeyPatch) -> list[str]:
    """The files, by real path, that multiple choice writes from now on."""
    written: list[str] = []
    dump = metrics.dump

    def noted(data: Any, file: str, **rest: Any) -> None:
        written.append(os.path.realpath(file))
        dump(data, file, **rest)

    patch.setattr(metrics, "dump", noted)
    patch.setattr(metrics.multiple_choice, "dump", noted)
    return written
