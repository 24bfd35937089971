"""workers/early.py and kit/early.py: cheap mistakes are named before anything is imported."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from soup.checkpoints.opening import open_checkpoint
from soup.errors import BenchmarkError, ScoringError, UsageError
from soup.evaluators.kit import early as tables
from soup.evaluators.kit.early import require_sources
from soup.evaluators.kit.known_names import NAMES
from soup.evaluators.workers import early
from soup.evaluators.workers.early import require_beside, require_compute_dtype, require_device
from tests.cli.test_cli import fails, run
from tests.conftest import make_checkpoint, random_tensors

HEAD = "index\timage\tquestion\tanswer\n0\t\tq\ta\n"


@pytest.mark.parametrize(
    ("name", "content", "source", "message"),
    [
        ("exam.tsv", HEAD, "exma.tsv", "no such file; .*; did you mean exam.tsv?"),
        ("exam.tsv", HEAD, "nowhere/exam.tsv", "no such file"),
        ("exam.tsv/x", "", "exam.tsv", "found a directory"),
        ("exam.tsv", "", "exam.tsv", "the file is empty"),
        (
            "exam.tsv",
            "index\tquestion\tanswer\n",
            "exam.tsv",
            "no column 'image'; .*found index, q",
        ),
        ("exam.tsv", "index\timage\tanswer\n", "exam.tsv", "no column 'question'"),
        ("exam.tsv", "index,image,question,answer\n", "exam.tsv", "commas\\? Then call it .csv"),
        ("exam.tsv", "\x1b[31m\tb\n", "exam.tsv", r"found \\x1b\[31m, b"),
    ],
)
def test_a_wrong_table_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str,
    source: str,
    message: str,
) -> None:
    """A path that is not there, with what was meant; a column that is missing, with those found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(BenchmarkError, match=message):
        require_sources([source])


@pytest.mark.parametrize(
    "head",
    [
        HEAD.encode(),
        HEAD.replace("\n", "\r\n").encode(),
        HEAD.encode("utf-8-sig"),
        HEAD.encode("utf-16"),
        HEAD.replace("index", '"index"').replace("image", " Image ").encode(),
        HEAD.replace("image", "image_path").encode(),
    ],
)
def test_a_table_that_may_be_read_is_left_to_who_reads_it(tmp_path: Path, head: bytes) -> None:
    """However it is written; only its first line is looked at."""
    (tmp_path / "exam.tsv").write_bytes(head + b"x" * (3 << 20))
    require_sources([str(tmp_path / "exam.tsv")])


def test_a_name_is_looked_up_without_vlmevalkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Misspelt, of a video, a suite's; a table in its data directory counts."""
    monkeypatch.setenv("LMUData", str(tmp_path))
    require_sources(["MMStar", *NAMES])
    with pytest.raises(BenchmarkError, match=r"MMStr: .*; did you mean MMStar, .* or "):
        require_sources(["MMStr"])
    with pytest.raises(BenchmarkError, match="a video benchmark"):
        require_sources(["MVBench"])
    with pytest.raises(BenchmarkError, match="name it with --suite points"):
        require_sources(["points"])
    (tmp_path / "MMStr.tsv").touch()
    require_sources(["MMStr"])
    monkeypatch.setattr(tables, "VERSION", "0.0.1")
    require_sources(["of-another-version"])


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_devices_that_are_everywhere(name: str) -> None:
    """They are not looked for."""
    require_device(name)


@pytest.mark.parametrize(
    ("found", "name", "message"),
    [
        (0, "cuda", "no GPU is seen here; use --device cpu"),
        (2, "cuda:2", "2 seen here; expected cuda:0 to cuda:1"),
        (1, "cuda:1", "1 seen here; expected cuda:0"),
        (0, "gpu", "did you mean cuda?"),
        (0, "cdua", "did you mean cuda?"),
        (0, "mps", "expected auto, cpu, cuda or cuda:N"),
        (4, "cuda:x", "expected|did you mean"),
        (4, "", "expected auto, cpu"),
        (4, "cuda:" + "9" * 5000, "expected|did you mean"),
    ],
)
def test_a_device_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, found: int, name: str, message: str
) -> None:
    """Nonsense, a kind that is not used, and more than there are: a usage error."""
    monkeypatch.setattr(early, "gpus", lambda: found)
    with pytest.raises(UsageError, match=message):
        require_device(name)


@pytest.mark.parametrize(("found", "name"), [(None, "cuda:7"), (2, "cuda"), (2, "cuda:1")])
def test_a_device_that_may_be(
    monkeypatch: pytest.MonkeyPatch, found: int | None, name: str
) -> None:
    """Where the driver's files do not tell, torch is asked later."""
    monkeypatch.setattr(early, "gpus", lambda: found)
    require_device(name)


def test_hidden_gpus_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA takes the variable."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert early.gpus() == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("bf16", "did you mean bfloat16?"), ("float23", "did you mean"), ("int3", "expected one of")],
)
def test_a_dtype_that_is_none(name: str, message: str) -> None:
    """What people write for one is understood, and corrected."""
    with pytest.raises(UsageError, match=message):
        require_compute_dtype(name)
    require_compute_dtype("bfloat16")


def test_files_beside_the_weights_are_looked_for(tmp_path: Path) -> None:
    """A tokenizer always; a processor for a model that sees and is not of custom code."""
    path = make_checkpoint(tmp_path / "a", random_tensors(0), config={"vision_config": {}})
    with pytest.raises(ScoringError, match="no tokenizer beside the weights"):
        require_beside(open_checkpoint(path))
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(ScoringError, match="no image processor beside the weights"):
        require_beside(open_checkpoint(path))
    (path / "preprocessor_config.json").write_text("{}")
    require_beside(open_checkpoint(path))
    custom = {"vision_config": {}, "auto_map": {"AutoModel": "m.M"}}
    path = make_checkpoint(
        tmp_path / "b", random_tensors(0), config=custom, files={"tokenizer.model": ""}
    )
    require_beside(open_checkpoint(path))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--bench", "nowhere.tsv"], 1, "nowhere.tsv: no such file"),
        (["--bench", "MMStr"], 1, "did you mean MMStar"),
        (["--bench", "MMStar", "--compute-dtype", "bf16"], 2, "did you mean bfloat16?"),
        (["--bench", "MMStar", "--device", "gpu"], 2, "did you mean cuda?"),
        (["--bench", "MMStar"], 1, "no tokenizer beside the weights"),
        (["--bench", "MMStar", "--judge", "m"], 2, "a judge is a model and an address"),
        (["--bench", "MMStar", "--json", "nowhere/b.json"], 1, "nowhere: no such directory"),
        (["--bench", "MMStar", "--work", "file/x"], 1, "choose another --work"),
    ],
)
def test_no_worker_starts_for_a_mistake(
    pool_paths: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    """Nor is an interpreter asked what it has; one line, and its exit code."""
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    (tmp_path / "file").touch()
    for path in (tmp_path / "ckpts").glob("*/tokenizer*"):  # one member's would serve all
        path.unlink()
    begun = time.monotonic()
    assert message in fails(run(tmp_path, "score", "ckpts/*", *arguments), code)
    assert time.monotonic() - begun < 30, "a hang"
    assert not (tmp_path / ".soup" / "worker.log").exists()


def test_early_checks_import_nothing_that_takes_long() -> None:
    """Neither torch nor what reads tables."""
    code = (
        "import sys; import soup.evaluators.kit.early, soup.evaluators.workers.early;"
        "print(sorted({'torch', 'numpy', 'pandas', 'transformers', 'vlmeval'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
