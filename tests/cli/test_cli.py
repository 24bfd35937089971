"""cli: options become one call, errors one line, tables fit the terminal."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import soup
from soup.blending.methods import METHODS
from soup.checkpoints.opening import open_checkpoint
from soup.cli import config
from soup.cli.app import main
from soup.cli.merging import parameters
from soup.cli.stopping import TEXT
from soup.cli.values import Option
from soup.errors import UsageError
from soup.events import Note, ignore
from soup.watching.state import stated
from tests.conftest import make_checkpoint, random_tensors


def run(cwd: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a directory, piped; in this process, which has torch imported already."""
    out, err = io.StringIO(), io.StringIO()
    before, argv, code = Path.cwd(), sys.argv, 0
    variables = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["soup", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        os.chdir(before)
        sys.argv = argv
        for name, value in variables.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


def fails(done: subprocess.CompletedProcess[str], code: int) -> str:
    """One line on stderr, the given exit code, no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_average_writes_a_soup_and_needs_nothing_of_vlmevalkit(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """The result stands at -o; commands that score nothing do not import the evaluation stack."""
    done = run(tmp_path, "average", "ckpts/*", "-o", "out", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")
    assert len(open_checkpoint(tmp_path / "out").tensors) == 5
    code = (
        "import sys; sys.argv = ['soup', 'average', 'ckpts/*', '-o', 'two'];"
        "import atexit; atexit.register(lambda: print("
        "sorted({'vlmeval', 'transformers', 'pandas'} & sys.modules.keys())));"
        "from soup.cli.app import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_check_describes_the_pool(pool_paths: list[Path], tmp_path: Path) -> None:
    """Members, sizes, and what a greedy run would cost; exit code 0."""
    done = run(tmp_path, "check", "ckpts/*")
    assert done.returncode == 0
    assert "these 4 can be blended" in done.stdout
    assert "scores 4 members and up to 3 trials" in done.stdout
    assert not (tmp_path / ".soup").exists(), "check reads, it leaves nothing"


def test_check_lists_every_problem_and_fails(pool_paths: list[Path], tmp_path: Path) -> None:
    """Tensor, member, expected, found; exit code 1."""
    tensors = random_tensors(9)
    tensors["norm.weight"] = torch.ones(9, dtype=torch.bfloat16)
    del tensors["scale"]
    make_checkpoint(tmp_path / "ckpts" / "odd", tensors)
    done = run(tmp_path, "check", *pool_paths, "ckpts/odd")
    assert "2 problems, listed above" in fails(done, 1)
    assert "problem: odd: tensor norm.weight: expected BF16 [4], found BF16 [9]" in done.stdout
    assert "problem: odd: tensor scale: expected BF16 [], found nothing" in done.stdout


def test_check_finds_equal_content_when_asked(pool_paths: list[Path], tmp_path: Path) -> None:
    """--digest reads the bytes; afterwards it is known without."""
    make_checkpoint(tmp_path / "ckpts" / "e", random_tensors(1))
    line = "duplicate: e holds the same weights as b"
    assert line not in run(tmp_path, "check", "ckpts/*").stdout
    assert line in run(tmp_path, "check", "ckpts/*", "--digest").stdout
    assert line in run(tmp_path, "check", "ckpts/*").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["greedy", "ckpts/*"], 2, "--bench MMBench_DEV_EN"),
        (["score", "ckpts/*"], 2, "--bench MMBench_DEV_EN"),
        (["average"], 2, "Missing argument 'CKPT...'"),
        (["average", "nowhere"], 1, "nowhere: expected a model directory"),
        (["average", "nothing-*"], 2, "matches no directory"),
        (["average", "ckpts/*", "--dtype", "int3"], 2, "expected float32, float16 or bfloat16"),
        (["average", "ckpts/*", "-o", "ckpts"], 1, ", which is read for it; choose another place"),
        (["average", "ckpts/*", "-o", "ckpts/a"], 1, "is a member of the pool"),
        (["average", "ckpts/*", "--work", "file"], 1, "choose another --work"),
        (["leaderboard"], 1, "no run is recorded there yet"),
        (["greedy", "ckpts/*", "--batch-size", "0"], 2, "batch-size"),
        (["blend", "ckpts/*", "--method", "ties"], 2, "name it with --base"),
        (["blend", "ckpts/*", "--weight", "1", "--dry-run"], 2, "expected 4 weights"),
        (["blend", "ckpts/*", "--weight", "x"], 2, "'--weight'"),
        (["blend", "ckpts/*", "--set", "t"], 2, "--set t: expected NAME=VALUE"),
        (["blend", "ckpts/a", "ckpts/b", "--method", "slerp", "--set", "t=2"], 2, "in [0, 1]"),
        (["greedy", "ckpts/*", "--bench", "MMStar", "--method", "slerp"], 2, "exactly 2 members"),
        (["score", "ckpts/*", "--suite", "soups"], 2, "no such suite; expected one of points"),
        (["score", "ckpts/*", "--suite", "points"], 1, "MathVista_MINI, MMVet: scored by a judge"),
        (["score", "ckpts/*", "--suite", "points"], 1, "add --judge MODEL --judge-url URL"),
        (["score", "ckpts/*", "--bench", "b", "--judge", "m"], 2, "both --judge MODEL and --judge"),
        (
            ["score", "ckpts/*", "--bench", "b", "--judge", "m", "--judge-url", "host:80"],
            2,
            "--judge-url host:80: expected an address like http://localhost:8000/v1",
        ),
        (
            ["score", "ckpts/*", "--bench", "b", "--judge", "", "--judge-url", "http://h/v1"],
            2,
            "both --judge MODEL and --judge-url URL",
        ),
        (["score", "ckpts/*", "--bench", "b", "--json", "no/b.json"], 1, "no: no such directory"),
        (["average", "ckpts/*", "--markdown", "ckpts"], 1, "ckpts: cannot be written: it is a dir"),
        (["greedy", "ckpts/*", "--bench", "b", "--confident", "1"], 2, "less than 1, e.g. 0.95"),
        (["average", "ckpts/*", "--confident", "0.9"], 2, "--confident"),
        (["stew"], 2, "No such command"),
    ],
)
def test_mistakes_end_in_one_line(
    pool_paths: list[Path], tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    """What, where, and what to do; nothing is written."""
    (tmp_path / "file").write_text("")
    before = sorted(path for path in tmp_path.rglob("*") if ".soup" not in path.parts)
    assert message in fails(run(tmp_path, *arguments), code)
    assert sorted(path for path in tmp_path.rglob("*") if ".soup" not in path.parts) == before


def test_the_package_runs_as_a_module_in_a_fresh_process(pool_paths: list[Path]) -> None:
    """`python -m soup`: output, exit code and error as the command's."""
    module = [sys.executable, "-m", "soup"]
    done = subprocess.run([*module, "--version"], capture_output=True, text=True)
    assert done.stdout == f"soup {soup.__version__}\n"
    done = subprocess.run([*module, "average", "nowhere"], capture_output=True, text=True)
    assert "nowhere: expected a model directory" in fails(done, 1)


STOP = """
import os, signal, sys
class Stop:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Stop)
sys.argv[1:] = {arguments!r}
from soup.cli.__main__ import main
main()
"""


def test_ctrl_c_while_python_imports_leaves_no_traceback(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """Neither while the command line comes up, nor while torch does."""

    def stopped(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        code = STOP.format(module=module, arguments=list(arguments))
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = stopped("typer", "--help")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.splitlines() == [f"error: {TEXT}"]
    assert fails(stopped("torch", "average", "ckpts/*"), 130).startswith("error: stopped; ")


ENDING = """
import atexit, os, signal, sys
from soup.cli import __main__, app
{before}
sys.argv[1:] = ["--version"]
__main__.main()
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_when_all_is_done_changes_nothing(number: str) -> None:
    """While Python would take itself apart: the command has ended, with its own exit code."""
    sent = f"atexit.register(lambda: os.kill(os.getpid(), signal.{number}))"
    command = [sys.executable, "-c", ENDING.format(before=sent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"soup {soup.__version__}\n"


def test_ctrl_c_while_text_of_code_runs_ends_as_ever(tmp_path: Path) -> None:
    """As dataclasses are made: Python would end itself by SIGINT, whatever is asked of it."""
    stop = 'app.application = lambda asked: exec("raise KeyboardInterrupt")'
    (tmp_path / "stops.py").write_text(ENDING.format(before=stop))
    command = [sys.executable, "-m", "stops"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, f"error: {TEXT}\n")


def test_help_shows_examples(tmp_path: Path) -> None:
    """For the whole and for each command."""
    assert "soup greedy ckpts/* --bench MMStar" in run(tmp_path, "--help").stdout
    for command in (
        "max",
        "average",
        "greedy",
        "blend",
        "score",
        "check",
        "leaderboard",
        "doctor",
        "demo",
    ):
        assert f"Example: soup {command}" in run(tmp_path, command, "--help").stdout
    assert run(tmp_path, "--version").stdout == f"soup {soup.__version__}\n"


def test_options_may_stand_in_soup_toml(pool_paths: list[Path], tmp_path: Path) -> None:
    """The command line wins; a command's own table comes before the common keys."""
    (tmp_path / "soup.toml").write_text(
        'out = "common"\ndtype = "float32"\nquiet = true\n[average]\nout = "own"\n'
    )
    done = run(tmp_path, "average", "ckpts/*")
    assert done.stdout.strip() == str(tmp_path / "own"), done.stderr
    assert open_checkpoint(tmp_path / "own").dtypes == ("F32",)
    done = run(tmp_path, "average", "ckpts/*", "-o", "mine", "--dtype", "float16")
    assert done.stdout.strip() == str(tmp_path / "mine")
    assert open_checkpoint(tmp_path / "mine").dtypes == ("F16",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("benhc = ['x']", "unknown option benhc; did you mean bench?"),
        ("[average]\nmin-gain = 1", "unknown option [average] min-gain"),
        ("bench = [", "cannot be read as TOML"),
        ("bench = " + "[" * 10_000, "cannot be read as TOML: nested too deeply"),
        ("batch-size = " + "9" * 5_000, "cannot be read as TOML: Exceeds the limit"),
        (f"[{'a.' * 50_000}b]", "cannot be read as TOML: a key of more than 20 names"),
        ("#" * 300_000, "cannot be read as TOML: 300,000 bytes, expected 262,144 at most"),
        ("batch-size = 'many'", "batch-size"),
        ("confident = 95", "confident 95: expected more than 0.5 and less than 1"),
    ],
)
def test_soup_toml_is_checked(
    pool_paths: list[Path], tmp_path: Path, text: str, message: str
) -> None:
    """A misspelt key is not silently ignored."""
    (tmp_path / "soup.toml").write_text(text)
    assert message in fails(run(tmp_path, "greedy", "ckpts/*"), 2)


def test_a_soup_toml_that_is_no_file_is_told(tmp_path: Path) -> None:
    """A pipe is not waited for, and none is passed over: its options would be missing."""
    os.mkfifo(tmp_path / "soup.toml")
    assert "expected a regular file, found a pipe" in fails(run(tmp_path, "leaderboard"), 2)


def test_a_work_directory_that_cannot_be_is_one_line(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """A name that is too long for any file system, wherever it is looked for first."""
    for command in (["average", "ckpts/*"], ["leaderboard"], ["status"]):
        done = run(tmp_path, *command, "--work", "x" * 300)
        assert "Traceback" not in done.stderr
    assert "File name too long" in fails(
        run(tmp_path, "average", "ckpts/*", "--work", "x" * 300), 1
    )


@pytest.mark.parametrize("arguments", [["leaderboard"], ["check", "x"], ["status"]])
def test_a_working_directory_that_is_gone_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    """Somebody has deleted where the shell stands."""
    shell = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m soup {' '.join(arguments)}"
    done = subprocess.run(["/bin/sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    assert fails(done, 1).startswith("error: the working directory is not there any more")


def test_text_that_is_no_markup_commands_no_terminal(tmp_path: Path) -> None:
    """Neither a directory's name nor what stands in another command's state."""
    name = "\x1b[31mx"
    assert run(tmp_path, "status", "--work", name).stdout.startswith(r"nothing runs in \x1b[31mx")
    with stated(ignore, tmp_path / "w", "greedy") as told:
        told(Note("\x1b]8;;http://x\x07a"))
        (tmp_path / "w").mkdir()
        told.write()  # type: ignore[attr-defined]
        said = run(tmp_path, "status", "--work", "w").stdout
    assert r"\x1b]8;;http://x\x07a" in said and "\x1b" not in said


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["check", "HTTPS://user:SECRET@host/m"], 1),
        (["check", "hf://user:SECRET@org/name"], 2),
        (["check", "http://user:SECRET@[::1/m"], 2),
        (["check", "ckpts/*", "--reference", "https://user:SECRET@host/m"], 2),
    ],
)
def test_no_mistake_shows_a_password(
    pool_paths: list[Path], tmp_path: Path, arguments: list[str], code: int
) -> None:
    """An address that is taken for something else, or is none: one line, without what is secret."""
    assert "SECRET" not in fails(run(tmp_path, *arguments), code)


def test_a_suite_is_short_for_its_benchmarks(pool_paths: list[Path], tmp_path: Path) -> None:
    """In the order of the table, before other benchmarks, none twice; also from soup.toml."""
    (tmp_path / "soup.toml").write_text('suite = "points"\nbench = ["MMStar", "more"]\n')
    done = run(tmp_path, "greedy", "ckpts/*", "--dry-run")
    points = (
        "MMBench_DEV_EN, MMStar, AI2D_TEST, MMMU_DEV_VAL, HallusionBench, MathVista_MINI, MMVet"
    )
    assert f"plan: greedy of 4 members on {points}, OCRBench, more\n" in done.stdout, done.stderr


def test_dry_run_shows_the_plan_and_leaves_nothing(pool_paths: list[Path], tmp_path: Path) -> None:
    """Members, benchmarks, cost and place; nothing is scored or written."""
    done = run(tmp_path, "greedy", "ckpts/*", "--bench", "MMStar", "--holdout", "h", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "plan: greedy of 4 members on MMStar, h (hold-out)" in done.stdout
    assert f"would write {tmp_path / 'soup-greedy'}" in done.stdout
    assert "end early" not in done.stdout
    done = run(tmp_path, "greedy", "ckpts/*", "--bench", "b", "--confident", ".9", "--dry-run")
    assert "losing trials end early; with a chance of 0.9 none would have won" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpts"]


def test_machine_readable_output_goes_to_files_or_stdout(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """--json FILE, --markdown FILE, and - for a pipe."""
    done = run(tmp_path, "average", "ckpts/*", "--json", "b.json", "--markdown", "b.md")
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "b.json").read_text())
    assert document["soup"]["members"] == {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}
    title, _, head, *_ = (tmp_path / "b.md").read_text().splitlines()
    assert title.startswith("## average soup of 4 members on no benchmark, 20")
    assert title.endswith(" UTC")
    assert head.startswith("| # | member |")
    done = run(tmp_path, "leaderboard", "--json", "-")
    assert json.loads(done.stdout) == document
    assert "cannot be written" in fails(run(tmp_path, "leaderboard", "--json", "no/b.json"), 1)


def test_blend_merges_by_a_method(pool_paths: list[Path], base_path: Path, tmp_path: Path) -> None:
    """By default to soup-blend; method, weights and parameters are in the manifest."""
    asked = ["--method", "ties", "--base", "base", "--set", "density=0.5", "--set", "lambda=0.7"]
    weights = [part for w in (1, 2, 3, 4) for part in ("--weight", str(w))]
    done = run(tmp_path, "blend", "ckpts/*", *asked, *weights, "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "soup-blend")
    manifest = json.loads((tmp_path / "soup-blend" / "soup.json").read_text())
    assert (manifest["kind"], manifest["method"]) == ("blend", "ties")
    assert manifest["parameters"] == {"density": 0.5, "lambda": 0.7}
    shares = {m["name"]: m["coefficient"] for m in manifest["members"]}
    assert shares == {"a": 1, "b": 2, "c": 3, "d": 4}
    shown = " ".join(run(tmp_path, "leaderboard").stdout.split())
    assert "blend soup: 4 of 4 members by ties (density 0.5, lambda 0.7), written to" in shown
    document = json.loads(run(tmp_path, "leaderboard", "--json", "-").stdout)
    assert document["soup"]["method"] == "ties"
    done = run(tmp_path, "blend", "ckpts/*", *asked, "--dry-run")
    assert "plan: blend of 4 members by ties (density 0.5, lambda 0.7) on no" in done.stdout


def test_workers_are_a_number_or_auto(pool_paths: list[Path], tmp_path: Path) -> None:
    """In soup.toml, too, where a number needs no quotes; a mistake is told before anything else."""
    asked = ("score", "ckpts/*", "--bench", "MMStar", "--device", "cpu", "--dry-run")
    for text in ("workers = 2", 'workers = "auto"'):
        (tmp_path / "soup.toml").write_text(text)
        done = run(tmp_path, *asked)
        assert done.returncode == 0, done.stderr
    line = fails(run(tmp_path, *asked, "--workers", "many"), 2)
    assert line == "error: --workers many: expected a number of workers, or auto"
    (tmp_path / "soup.toml").write_text("workers = 2.5")
    line = fails(run(tmp_path, *asked), 2)
    assert line == 'error: soup.toml: workers: expected a whole number, or "auto", found 2.5'


def test_blend_reads_its_options_from_soup_toml(pool_paths: list[Path], tmp_path: Path) -> None:
    """Weights and parameters are lists there; the command line replaces them."""
    (tmp_path / "soup.toml").write_text(
        'quiet = true\n[blend]\nweight = [0.5, 0.5]\n[average]\nmethod = "slerp"\nset = "t=0.3"\n'
    )
    pair = ["ckpts/a", "ckpts/b"]
    assert run(tmp_path, "blend", *pair).returncode == 0
    assert run(tmp_path, "average", *pair).returncode == 0
    weights = ["--weight", "1", "--weight", "0"]
    assert run(tmp_path, "blend", *pair, *weights, "-o", "a").returncode == 0
    manifests = [
        json.loads((tmp_path / out / "soup.json").read_text())
        for out in ("soup-blend", "soup-average", "a")
    ]
    assert [m["coefficient"] for m in manifests[0]["members"]] == [0.5, 0.5]
    assert manifests[1]["parameters"] == {"t": 0.3}
    shares = {m["name"]: m["coefficient"] for m in manifests[2]["members"]}
    assert shares == {"a": 1, "b": 0}


def test_parameters_are_names_with_numbers() -> None:
    """Spaces do not matter; anything else is one line with what was expected and found."""
    assert parameters(["density=0.3", " lambda = 1e-1"]) == {"density": 0.3, "lambda": 0.1}
    assert parameters(None) == {}
    for given, message in (
        (["density"], "--set density: expected NAME=VALUE, e.g. --set density=0.2"),
        (["=1"], "--set =1: expected NAME=VALUE"),
        (["t=x"], "--set t=x: expected a number after =, found 'x'"),
        (["t=1", "t=0"], "--set t=0: t is given twice"),
    ):
        with pytest.raises(UsageError, match=message):
            parameters(given)


def test_blend_help_lists_the_methods(tmp_path: Path) -> None:
    """Each with its parameters and whether it needs a base."""
    text = " ".join(run(tmp_path, "blend", "--help", COLUMNS="200").stdout.split())
    for name, method in METHODS.items():
        assert f"{name}: {method.summary}" in text
    assert "(density=0.2, lambda=1, needs --base)" in text


def test_the_interpreter_that_scores_is_looked_for_first(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """By option or from soup.toml; before anything is digested."""
    asked = ["score", "ckpts/*", "--bench", "MMStar"]
    done = run(tmp_path, *asked, "--worker-python", "no/python")
    assert "no/python: no such Python interpreter" in fails(done, 1)
    (tmp_path / "soup.toml").write_text('worker-python = "toml/python"')
    assert "toml/python: no such Python interpreter" in fails(run(tmp_path, *asked), 1)
    recorded = (tmp_path / ".soup" / "journal.jsonl").read_text()
    assert '"kind":"failed"' in recorded
    assert '"kind":"digest"' not in recorded


def test_families_have_tables_in_soup_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a dot need not be quoted; values may be of any kind but a table."""
    monkeypatch.chdir(tmp_path)
    assert config.families() == {}
    (tmp_path / "soup.toml").write_text(
        '[family.ovis1.6]\nworker-python = "old/bin/python"\nmax-new-tokens = 9\n'
        '[family."points-1.5"]\nlist = [1]\n'
    )
    assert config.families() == {
        "ovis1.6": {"worker_python": "old/bin/python", "max_new_tokens": 9},
        "points-1.5": {"list": [1]},
    }
    assert config.defaults({"score": {"bench": Option(str, several=True)}}) == {"score": {}}
    (tmp_path / "soup.toml").write_text("[family]\nworker-python = 'x'\n")
    with pytest.raises(UsageError, match=r"\[family\] worker-python: expected a table \[family.N"):
        config.families()
