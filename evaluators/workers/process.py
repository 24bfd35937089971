"""A worker process from our side: started, asked in JSON lines, and what is said of its end.

What it speaks is described in ``soup.evaluators.workers.protocol``.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import soup
from soup.errors import BY_NAME, ScoringError
from soup.evaluators.workers.nursery import born
from soup.evaluators.workers.protocol import PROTOCOL
from soup.events import Note, Observer, Progress, ignore

ROOT = Path(soup.__file__).resolve().parent.parent

START = """
import gc, os, sys
gc.disable()  # until the first answer: see worker.main
if sys.platform == "linux":
    try:
        import ctypes
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: no parent, no worker, even one that hangs
    except (ImportError, OSError, AttributeError):
        pass  # it ends when stdin closes
    if os.getppid() != int(sys.argv[2]):
        os._exit(0)
out = os.dup(1)
os.dup2(2, 1)  # whatever libraries print must not stand between our lines
from importlib.machinery import PathFinder

class Ours:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "soup":
            return PathFinder.find_spec(name, [sys.argv[1]])

sys.meta_path.insert(0, Ours)
sys.path[:] = [entry for entry in sys.path if entry]
from soup.evaluators.workers.worker import main
main(out)
"""
"""Runs in the worker's interpreter. Our package is found by path, and nothing else there:
where we are installed, other versions of what the worker imports may stand beside us. Nor is
anything found in the working directory."""

LAST_LINES = 12
TAIL_BYTES = 1 << 20  # of the log are looked at for them
FATAL = "Fatal Python error"  # from here on the interpreter tells where it was


class Died(Exception):
    """The process ended before it answered.

    Attributes:
        how: it ended, e.g. "was killed (signal 9), ...".
        words: the last lines that it printed, indented; or that there are none.
        greeted: whether it ever answered, or was ended by somebody else before it could: if not,
            it would end in the same way again.
    """

    def __init__(self, how: str, words: str, greeted: bool) -> None:
        super().__init__(how)
        self.how = how
        self.words = words
        self.greeted = greeted


class Process:
    """One worker process, from its start to its end."""

    def __init__(self, python: str, log: Path, variables: Mapping[str, str] = {}) -> None:
        """Start it.

        Args:
            python: the interpreter.
            log: what it prints is added there.
            variables: of its environment, besides ours.
        """
        self.python = python
        self._log = log
        self._greeted = False
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",  # its bars would fill the log
            "TRANSFORMERS_VERBOSITY": os.environ.get("TRANSFORMERS_VERBOSITY", "error"),
            "PYTHONUNBUFFERED": "1",
            # On a busy machine, threads that spin at a barrier cost far more than they save.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            **variables,
        }
        with log.open("ab") as errors:
            self._begin = errors.tell()
            self._process = born(
                lambda: subprocess.Popen(
                    [python, "-c", START, str(ROOT), str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=environment,
                    start_new_session=True,  # so that all of it can be ended
                )
            )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(self, request: dict[str, Any], observe: Observer = ignore) -> dict[str, Any]:
        """Send a request, tell of its progress, return its result.

        Raises:
            Died: the process has ended.
            SoupError: what the worker answered; it lives on.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            for line in stdout:
                if not self._greeted:
                    self._greet(line)
                    continue
                message = _message(line)
                if message is None:
                    self.kill()
                    words = last_words(self._log, self._begin)
                    raise Died(f"said what is no answer ({line[:40]!r})", words, True)
                if "progress" in message:
                    observe(Progress(*message["progress"]))
                elif "note" in message:
                    observe(Note(message["note"], message.get("warning", False)))
                elif "error" in message:
                    self._fail(message["error"])
                else:
                    return dict(message["result"])
        except BrokenPipeError:
            pass
        how = self._how_it_ended()
        by_others = self._process.returncode in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)
        words = last_words(self._log, self._begin)
        raise Died(how, words, self._greeted or by_others)

    def kill(self) -> None:
        """End it, and what it has started; whoever asks it is told so by ``Died``."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, and let go of it."""
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # closing flushes what a worker that died did not take
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _greet(self, line: str) -> None:
        """The first line says which protocol the worker speaks."""
        try:
            spoken = json.loads(line)["protocol"]
        except (ValueError, KeyError, TypeError):
            raise ScoringError(
                f"{self.python}: expected a worker's greeting, found {line.strip()[:100]!r}; "
                "something there prints when Python starts"
            ) from None
        if spoken != PROTOCOL:
            raise ScoringError(
                f"the worker speaks protocol {spoken}, this command {PROTOCOL}; both should be "
                f"the code in {ROOT}: was it updated meanwhile? Start the command again"
            )
        self._greeted = True

    def _fail(self, error: dict[str, str]) -> None:
        known = BY_NAME.get(error["type"])
        if known is not None:
            raise known(error["message"])
        raise ScoringError(f"the worker failed: {error['message']}; details are in {self._log}")

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "was killed (signal 9), perhaps for using too much memory"
        if code < 0:
            return f"was ended by signal {-code} ({signal.strsignal(-code)})"
        return f"ended with exit code {code}"


def _message(line: str) -> dict[str, Any] | None:
    """What a worker says in one line; None where it is nothing of the protocol."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    known = ("progress", "note", "error", "result")
    return message if isinstance(message, dict) and any(name in message for name in known) else None


def last_words(log: Path, begin: int) -> str:
    """The end of what a process printed, from some byte of its log on; or that there is nothing."""
    try:
        with log.open("rb") as file:
            file.seek(max(begin, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    lines = [line.rstrip()[:200] for line in text.splitlines() if line.strip()]
    fatal = [k for k, line in enumerate(lines) if line.startswith(FATAL)]
    lines = lines[fatal[-1] :][:LAST_LINES] if fatal else lines[-LAST_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    (it printed nothing)"
