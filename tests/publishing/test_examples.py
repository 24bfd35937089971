"""examples/nightly: the script part of each is run, with a scorer that is a fake."""

import configparser
import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from soup.cli import nightly
from tests.cli.test_cli import run
from tests.publishing.pool import ReadingScorer, member

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "nightly"


CLIENT = """
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({address!r})
asked.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
asked.shutdown(socket.SHUT_WR)
out, err, code = json.load(asked.makefile("rb"))
sys.stdout.write(out), sys.stderr.write(err), sys.exit(code)
"""
"""What the scripts call ``soup``: it has the command run by the test's own process, which has
imported everything already."""

PASSED_ON = ("SOUP_NOTIFY", "GITHUB_STEP_SUMMARY")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pool, and ``soup`` and ``sbatch`` on the path."""
    monkeypatch.setattr(nightly, "scorer_of", lambda *_: ReadingScorer())
    monkeypatch.setattr("soup.reporting.card.can_draw", lambda: False)  # seconds
    member(tmp_path / "ckpts" / "a", range(0, 90))
    member(tmp_path / "ckpts" / "b", range(60, 150))
    for path in tmp_path.glob("ckpts/*/*"):
        os.utime(path, (1, 1))  # these are settled
    programs = tmp_path / "bin"
    programs.mkdir()
    client = CLIENT.format(address=str(tmp_path / "socket"))
    script(programs / "soup", f"#!{sys.executable} -S\n{client}")
    script(programs / "sbatch", f'#!/bin/sh\necho "$@" >> {tmp_path}/submitted\n')
    return tmp_path


def script(path: Path, text: str) -> None:
    """A program."""
    path.write_text(text)
    path.chmod(0o755)


def shell(place: Path, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A script as a CI system runs it; the commands that it runs are run here."""
    environment = {
        **os.environ,
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "CKPTS": "ckpts/*",
        "PUBLISH": "published",
        "SOUP_NOTIFY": "",
        "GITHUB_STEP_SUMMARY": str(place / "summary.md"),
        "SLURM_SUBMIT_DIR": str(place),
    }
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(place / "socket"))
        door.listen()
        door.settimeout(0.05)
        process = subprocess.Popen(
            ["bash", *flags, "-c", text],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None:
            with contextlib.suppress(TimeoutError):
                asked, _ = door.accept()
                with asked, asked.makefile("rb") as stream:
                    words, cwd, variables = json.load(stream)
                    given = {name: variables[name] for name in PASSED_ON}
                    done = run(Path(cwd), *words, **given)
                    answer = [done.stdout, done.stderr, done.returncode]
                    asked.sendall(json.dumps(answer).encode())
    (place / "socket").unlink()
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_the_github_workflow(place: Path) -> None:
    """A verdict is a green job, an error a red one; the summary page has the verdict."""
    job = yaml.safe_load((EXAMPLES / "github.yml").read_text())["jobs"]["soup"]
    (text,) = [step["run"] for step in job["steps"] if "run" in step]
    done = shell(place, text, "-e")
    assert done.returncode == 0, done.stderr
    assert (place / "published" / "latest" / "model.safetensors").is_file()
    assert "## Nightly soup" in (place / "summary.md").read_text()
    assert shell(place, text, "-e").returncode == 0, "not better is a verdict, too"
    assert json.loads((place / "night.json").read_text())["verdict"]["word"] == "not better"
    uploaded = job["steps"][-1]["with"]["path"].split()
    assert all((place / name).is_file() for name in uploaded)
    shutil.rmtree(place / "published")
    (place / "published").write_text("a file")
    assert shell(place, text, "-e").returncode == 1


def test_the_gitlab_job(place: Path) -> None:
    """Its exit code is the verdict's; what it collects is there."""
    job = yaml.safe_load((EXAMPLES / "gitlab.yml").read_text())["nightly-soup"]
    done = shell(place, "\n".join(job["script"]), "-e")
    assert done.returncode == 0, done.stderr
    named = [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]
    assert all((place / name).is_file() for name in named)
    assert job["allow_failure"]["exit_codes"] == [3, 4]


def test_the_slurm_script_submits_itself_until_it_is_done(place: Path) -> None:
    """With exit code 75 it goes on in another job; everything is kept."""
    shutil.copy(EXAMPLES / "slurm.sh", place)
    done = shell(place, "LIMIT=0.05 ./slurm.sh")
    assert done.returncode == 0, done.stderr
    assert (place / "submitted").read_text() == f"{place}/slurm.sh\n"
    done = shell(place, "./slurm.sh")
    assert done.stdout.endswith("verdict: exit code 0\n"), done.stderr
    assert (place / "submitted").read_text().count("\n") == 1


def test_the_systemd_units(place: Path) -> None:
    """The command runs as systemd would start it; the timer is one."""
    units = {}
    for file in EXAMPLES.glob("soup-nightly.*"):
        units[file.suffix] = configparser.RawConfigParser(strict=False)
        units[file.suffix].optionxform = str  # type: ignore[assignment,method-assign]
        units[file.suffix].read_string(file.read_text())
    program, command, ckpts, *rest = shlex.split(units[".service"]["Service"]["ExecStart"])
    assert (Path(program).name, command, ckpts) == ("soup", "nightly", "/data/ckpts/*")
    words = ["soup", command, "ckpts/*", *(word.replace("/data/", "") for word in rest)]
    done = shell(place, shlex.join(words))
    assert done.returncode == 0, done.stderr
    assert units[".service"]["Service"]["SuccessExitStatus"] == "3 4"
    assert units[".timer"]["Timer"]["OnCalendar"]
    if verify := shutil.which("systemd-analyze"):
        timer = str(EXAMPLES / "soup-nightly.timer")
        assert subprocess.run([verify, "calendar", "*-*-* 03:00:00"]).returncode == 0, timer
