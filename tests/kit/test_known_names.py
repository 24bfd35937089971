"""evaluators/kit/known_names.py; ``python -m tests.kit.test_known_names`` writes it anew."""

import importlib.metadata
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from soup.evaluators.kit import known_names
from soup.evaluators.kit.suites import NEEDS_JUDGE, SUITES

LATER = ("datasets", "jieba", "networkx", "openai")
"""Packages that take most of a second to import."""


def names_of(*kinds: str) -> list[str]:
    """What the VLMEvalKit that is installed knows of some modalities, in alphabetical order."""
    from soup.evaluators.kit.importing import kit

    url = {cls: set(cls.supported_datasets()) for cls in kit.DATASET_CLASSES}
    known = set().union(*url.values())
    return sorted(
        (name for name in known if kit.DATASET_MODALITY(name) in kinds),
        key=lambda name: (name.lower(), name),
    )


def test_the_names_are_those_of_the_version_that_is_named() -> None:
    """Every benchmark of images and of text can be completed; no other is offered.

    What only a few of them use is not imported for that.
    """
    if importlib.metadata.version("ms-vlmeval") != known_names.VERSION:
        pytest.skip("another version may know others; the list is of the pinned one")
    # In a fresh process: user's tables that other tests have registered are not VLMEvalKit's.
    names = "t.names_of('IMAGE', 'TEXT'), t.names_of('VIDEO')"
    loaded = "sorted({*t.LATER} & sys.modules.keys())"
    code = "import tests.kit.test_known_names as t, json, sys;"
    code += f"print(json.dumps([{names}, {loaded}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known, video, loaded = json.loads(done.stdout.splitlines()[-1])
    assert sorted(known) == sorted(known_names.NAMES)
    assert set(video) == known_names.VIDEO
    assert loaded == []


def test_suites_and_judged_benchmarks_are_among_them() -> None:
    """A name that we know otherwise is one of VLMEvalKit's."""
    ours = {name for suite in SUITES.values() for name in suite} | set(NEEDS_JUDGE)
    assert ours <= set(known_names.NAMES)


def write() -> None:
    """Put the installed version's names into the module."""
    file = Path(known_names.__file__)
    text = file.read_text()
    for name, kinds in (("_NAMES", ("IMAGE", "TEXT")), ("_VIDEO", ("VIDEO",))):
        joined = " ".join(names_of(*kinds))
        lines = textwrap.fill(joined, 96, break_long_words=False, break_on_hyphens=False)
        text = re.sub(rf'({name} = """\n).*?(\n""")', rf"\g<1>{lines}\g<2>", text, flags=re.S)
    version = importlib.metadata.version("ms-vlmeval")
    file.write_text(re.sub(r'VERSION = ".*"', f'VERSION = "{version}"', text))


if __name__ == "__main__":
    write()
