"""The command line's words: types in soup.toml, completion, JSON, and hostile names."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from soup.cli.app import application
from soup.cli.values import options_of
from tests.cli.test_cli import fails, run
from tests.conftest import CONFIG, make_checkpoint, random_tensors
from tests.test_words import harmless

HOSTILE = "\x1b[31m[red]x[/red]|<b>\nerror: fake \u202e"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("work = 5", "soup.toml: work: expected a path in quotes, found 5"),
        ("bench = 3", "bench: expected text in quotes, or a list of such, found 3"),
        ("bench = ['a', 3]", "bench: expected text in quotes, or a list of such, found 3"),
        ("bench = [['a']]", "bench: expected text in quotes, or a list of such, found a list"),
        ("[greedy]\nout = 2024-01-01", "[greedy] out: expected a path in quotes, found 2024-01-01"),
        ("dtype = {a = 1}", "dtype: expected text in quotes, found a table"),
        ("quiet = 'yes'", "quiet: expected true or false, found 'yes'"),
        ("quiet = 1", "quiet: expected true or false, found 1"),
        ("batch-size = 0", "batch-size: expected a whole number, 1 or more, found 0"),
        ("batch-size = 1.5", "batch-size: expected a whole number, 1 or more, found 1.5"),
        ("batch-size = true", "batch-size: expected a whole number, 1 or more, found true"),
        ("[greedy]\nmin-gain = -1", "[greedy] min-gain: expected a number, 0 or more, found -1"),
        ("[blend]\nweight = ['x']", "[blend] weight: expected a number, or a list of such"),
        ("family = 4", "family: expected text in quotes, found 4"),
        ("benhc = 'x'", "unknown option benhc; did you mean bench?"),
        ("work = '\\u001b[31m'\nquiet = '\\u001b[31m'", "quiet: expected true or false"),
    ],
)
def test_soup_toml_says_where_and_what_is_wanted(tmp_path: Path, text: str, message: str) -> None:
    """File, table, key, the type by the option's own, what was found; exit code 2."""
    (tmp_path / "soup.toml").write_text(text)
    assert message in fails(run(tmp_path, "greedy", "ckpts/*"), 2)


def test_every_option_has_a_type_that_is_checked() -> None:
    """A new option of a type that soup.toml cannot have would be seen here."""
    for command in application().registered_commands:
        assert command.callback is not None
        for name, option in options_of(command.callback).items():
            assert option.wanted, name


def test_values_of_a_range_reach_the_command(pool_paths: list[Path], tmp_path: Path) -> None:
    """One value where several are allowed is a list of one; whole numbers are numbers."""
    (tmp_path / "soup.toml").write_text("weight = 2\n[blend]\nquiet = true\nout = 'x'\n")
    done = run(tmp_path, "blend", "ckpts/a")
    assert done.returncode == 0, done.stderr
    assert "the weights sum to 2" in done.stderr


COMPLETED = {
    "soup greedy --method ": "ties",
    "soup greedy --bench MMB": "MMBench_DEV_EN",
    "soup greedy --holdout exam": "exam.tsv",
    "soup greedy --family qwen": "qwen2.5-vl",
    "soup greedy --suite ": "points",
    "soup greedy --compute-dtype b": "bfloat16",
    "soup greedy --dtype f": "float16",
    "soup greedy --device c": "cpu",
    "soup greedy --engine v": "vllm",
    "soup blend --set d": "density=",
    "soup gre": "greedy",
    "soup check --js": "--json",
}


@pytest.mark.parametrize("line", COMPLETED)
def test_a_shell_completes_values_without_torch(tmp_path: Path, line: str) -> None:
    """Methods, benchmarks, families, dtypes; nothing that takes long is imported for it."""
    (tmp_path / "exam.tsv").touch()
    code = (
        "import sys, atexit; sys.argv = ['soup'];"
        "atexit.register(lambda: print('imported', sorted({'torch', 'numpy', 'rich', 'pandas', "
        "'transformers'} & set(sys.modules))));"
        "from soup.cli.app import main; main()"
    )
    words = line.split()
    environment = {
        **os.environ,
        "_SOUP_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) if line.endswith(" ") else len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    *values, imported = done.stdout.split("\n")[:-1]
    assert COMPLETED[line] in values, done.stderr
    assert imported == "imported []"


def test_completion_can_be_installed(tmp_path: Path) -> None:
    """For the shell that is running; the script asks this command."""
    shown = run(tmp_path, "--help").stdout
    assert "--install-completion" in shown


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Standard output is one JSON document of version 1, and nothing else."""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["version"] == 1
    return found


def test_check_as_json(pool_paths: list[Path], tmp_path: Path) -> None:
    """Members, each problem by itself, and whether they blend; the exit code says so, too."""
    found = document(run(tmp_path, "check", "ckpts/*", "--json", "-"))
    assert (found["command"], found["blendable"], found["problems"]) == ("check", True, [])
    assert [member["name"] for member in found["members"]] == ["a", "b", "c", "d"]
    assert found["members"][0].keys() >= {
        "path",
        "kind",
        "tensors",
        "parameters",
        "dtypes",
        "bytes",
    }
    floats = {name: tensor.float() for name, tensor in random_tensors(9).items()}
    make_checkpoint(tmp_path / "ckpts" / "odd", floats)
    done = run(tmp_path, "check", "ckpts/*", "--json", "found.json")
    assert "problem: odd: all 5 tensors: expected BF16, found F32" in done.stdout
    assert "5 problems, listed above" in fails(done, 1)
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["problems"]) == 5
    assert found["problems"][0].keys() == {"member", "tensor", "expected", "found", "hint"}
    done = run(tmp_path, "check", "nowhere", "--json", "-")
    assert "nowhere: expected a model directory" in document(done)["error"]
    assert done.returncode == 1


def test_a_plan_as_json(pool_paths: list[Path], tmp_path: Path) -> None:
    """What would be blended, scored and written; and why it would fail, where that is known."""
    done = run(tmp_path, "average", "ckpts/*", "--dry-run", "--json", "-", "-o", "out")
    found = document(done)
    assert (found["command"], found["dry_run"]) == ("average", True)
    assert (found["out"], found["method"]) == (str(tmp_path / "out"), "linear")
    assert found["pool"]["blendable"] is True
    assert (found["results"], found["error"]) == (None, None)
    for path in (file for member in pool_paths for file in member.glob("tokenizer*")):
        path.unlink()
    asked = ["greedy", "ckpts/*", "--bench", "MMStar", "--dry-run", "--json", "plan.json"]
    done = run(tmp_path, *asked)
    assert "would write" in done.stdout
    found = json.loads((tmp_path / "plan.json").read_text())
    assert "no tokenizer beside the weights" in found["error"]
    done = run(tmp_path, "average", "ckpts/*", "-o", "ckpts/a", "--dry-run", "--json", "-")
    assert "is a member of the pool" in document(done)["error"]
    assert done.returncode == 1
    assert not (tmp_path / "out").exists()


def test_hostile_names_reach_neither_terminal_nor_markup(tmp_path: Path) -> None:
    """Of members, tensors, config values, tokens and files: spelled, short, in one line each."""
    first = make_checkpoint(
        tmp_path / "a", random_tensors(0), files={"tokenizer.json": vocabulary({"x": 0})}
    )
    tensors = {**random_tensors(1), HOSTILE: torch.ones(2), "n" * 100_000: torch.ones(2)}
    config = {**CONFIG, "model_type": HOSTILE, HOSTILE: HOSTILE * 1000}
    second = make_checkpoint(
        tmp_path / HOSTILE.replace("/", ""),
        {},
        config=config,
        files={"tokenizer.json": vocabulary({HOSTILE: 0})},
    )
    save_file(tensors, second / "model.safetensors", metadata={"format": "pt"})
    done = run(tmp_path, "check", first, second)
    assert fails(done, 1) == "error: the pool cannot be blended: 4 problems, listed above"
    for text in (done.stdout, done.stderr):
        assert all(harmless(line) for line in text.splitlines())
        assert not any(line.startswith("error: fake") for line in text.splitlines())
        assert max(map(len, text.splitlines())) < 2000
    assert "[red]x[red]" in done.stdout, "shown as it is, not as a colour"
    assert done.stdout.count("problem: ") == 3, "two tensors are of one kind"


@pytest.mark.parametrize(
    "file",
    ["model.safetensors.index.json", "adapter_config.json", "config.json"],
)
def test_hostile_names_in_errors_are_one_line(tmp_path: Path, file: str) -> None:
    """Whatever is wrong with a file, the line that says so is ours."""
    path = make_checkpoint(tmp_path / "a", random_tensors(0))
    content = {
        "model.safetensors.index.json": {"weight_map": {HOSTILE: HOSTILE}},
        "adapter_config.json": {"base_model_name_or_path": HOSTILE, "peft_type": "LORA"},
        "config.json": {"tie_word_embeddings": HOSTILE},
    }[file]
    (path / file).write_text(json.dumps(content))
    if file != "config.json":
        (path / "model.safetensors").rename(path / "adapter_model.safetensors")
    line = fails(run(tmp_path, "check", path), 1)
    assert harmless(line)
    assert "\\x1b[31m" in line or "\\n" in line


def vocabulary(ids: dict[str, int]) -> str:
    """A tokenizer.json of these tokens."""
    return json.dumps({"model": {"vocab": ids}})
