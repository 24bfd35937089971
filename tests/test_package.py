"""What is published: a wheel for all Pythons, and a source archive that builds it and has tests."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, of a copy of this repository, and the wheel that is built from it."""
    source = tmp_path_factory.mktemp("package") / "source"
    shutil.copytree(
        ROOT,
        source,
        symlinks=True,
        ignore=shutil.ignore_patterns(
            ".*", "*.so", "__pycache__", "*.egg-info", "build", "dist", "soup-*"
        ),
    )
    out = source.with_name("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return archive, wheel


def test_the_wheel_is_one_for_all_pythons(built: tuple[Path, Path]) -> None:
    """Tagged abi3, with the licence, the types and all three wings; no test, no C source."""
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = wheel.read(metadata).decode()
    assert "-cp310-abi3-" in built[1].name
    assert "License-Expression: Apache-2.0" in about
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    wanted = {"soup/py.typed", "soup/cli/app.py", "soup/evaluators/workers/scorer.py"}
    wanted |= {f"soup/reporting/page.{kind}" for kind in ("html", "css", "js")}
    assert wanted <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"soup"}
    assert not [name for name in names if "test" in name.split("/") or name.endswith(".c")]


def test_the_source_archive_runs_its_tests(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Unpacked somewhere: its folders hold everything that the tests need, and no link is left."""
    with tarfile.open(built[0]) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
        archive.extractall(tmp_path, filter="data")
    (place,) = tmp_path.iterdir()
    assert (place / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    for folder in ("tests", "docs", "benchmarks"):
        ours = {file.relative_to(ROOT) for file in (ROOT / folder).rglob("*") if _kept(file)}
        theirs = {file.relative_to(place) for file in (place / folder).rglob("*") if _kept(file)}
        assert theirs == ours
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/test_architecture.py", "tests/checkpoints/test_checkpoint.py"],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def _kept(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts and file.suffix != ".so"
