"""A judge: a language model behind an OpenAI-compatible endpoint, and the record of its verdicts.

VLMEvalKit's metrics ask it what an answer means or is worth. They see a ``Case``: one evaluation.
What is asked for one sample is a ``Hearing``; it ends in a verdict, or, where no reply could be
read, in none, which is counted. Verdicts are kept by content, so none is asked for twice.

The key comes from the environment and goes to the endpoint, nowhere else.
"""

import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from soup.errors import BenchmarkError, ScoringError, UsageError
from soup.evaluators.writing import write_whole

KEY = "OPENAI_API_KEY"
THREADS = 8  # questions asked at the same time
PROBE_SECONDS = 5.0
SECONDS = 120.0  # for one reply; servers queue what they cannot do at once
RETRIES = 4  # after a failed request, with growing pauses of 0.5 s and more
MAX_TOKENS = 2048  # VLMEvalKit's, where a metric asks for no other limit

NO_REPLY = "Failed to obtain answer via API."
"""What VLMEvalKit's metrics take for "ask again"."""

_TOO_MUCH = (400, 413, 422)
"""Statuses that speak of one question, e.g. of an answer longer than the judge's context."""

_REASONS = re.compile(r"(^|/)(o[134]|gpt-5)")
"""OpenAI's models that take no temperature and call the limit by another name."""


def endpoint(url: str) -> str:
    """The base address, ``…/v1``, of an endpoint given with or without ``/chat/completions``.

    Raises:
        UsageError: not an http address, or one with a password in it.
    """
    parts = urlsplit(url.strip())
    if parts.username or parts.password:
        raise UsageError(f"--judge-url: it holds a user or password; put the key into {KEY}")
    if parts.query or parts.fragment:
        raise UsageError(f"--judge-url: expected an address without ? and #; a key goes into {KEY}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"--judge-url {url}: expected an address like http://localhost:8000/v1")
    return url.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")


def named_judge(model: str | None, url: str | None) -> dict[str, str] | None:
    """A judge as a worker is told of it; None where none is wanted.

    Raises:
        UsageError: a model without an address or the other way round.
    """
    if bool(model) != bool(url) or "" in (model, url):
        raise UsageError(
            "a judge is a model and an address: give both --judge MODEL and --judge-url URL, "
            "e.g. --judge-url http://localhost:8000/v1"
        )
    return {"model": model, "url": endpoint(url)} if model and url else None


class Judge:
    """The model and how to reach it."""

    def __init__(self, model: str, url: str, directory: Path) -> None:
        """Nothing is asked yet.

        Args:
            model: as the server names it.
            url: see ``endpoint``.
            directory: where verdicts are kept.

        Raises:
            UsageError: the key in the environment cannot be one.
        """
        # Imported here: it takes a second, and most runs have no judge.
        self._openai: Any = import_module("openai")
        for library in ("httpx", "httpx2"):  # a line per request would fill the log
            logging.getLogger(library).setLevel(logging.WARNING)
        self.model = model
        self.url = endpoint(url)
        self.verdicts = Verdicts(directory / "verdicts.jsonl")
        self._key = os.environ.get(KEY, "").strip()
        if not re.fullmatch("[!-~]*", self._key):  # errors of such a header would show it
            raise UsageError(
                f"{KEY}: it holds a space, a line break or another character that no key has; "
                "set it again, the key alone"
            )
        self._client = self._openai.OpenAI(
            base_url=self.url, api_key=self._key or "none", timeout=SECONDS, max_retries=RETRIES
        )
        self._probed = False

    @property
    def settings(self) -> dict[str, Any]:
        """What of it decides a score; the address does not: the same model is the same judge."""
        return {"model": self.model}

    def probe(self) -> None:
        """Ask one short question, the first time this is called; a few seconds at most.

        Raises:
            BenchmarkError: unreachable, key refused, model unknown, or no such endpoint.
        """
        if self._probed:
            return
        client = self._client.with_options(timeout=PROBE_SECONDS, max_retries=1)
        # A reasoning model may need more than a few tokens to say anything at all.
        limit = MAX_TOKENS if _REASONS.search(self.model) else 16
        try:
            answered = _content(self._create(client, "hello", limit, 0.0))
        except (self._openai.OpenAIError, ValueError) as error:
            raise BenchmarkError(f"{self}: {self._why(error, PROBE_SECONDS)}") from None
        if answered is None:
            raise BenchmarkError(
                f"{self}: what answered there is no OpenAI-compatible endpoint; "
                "check --judge-url, e.g. http://localhost:8000/v1"
            )
        self._probed = True

    def ask(self, prompt: str, max_tokens: int, temperature: float) -> str:
        """The reply, stripped; ``NO_REPLY`` where it is empty or the question was refused.

        Raises:
            ScoringError: it cannot be reached any more, though asked several times.
        """
        try:
            reply = _content(self._create(self._client, prompt, max_tokens, temperature))
        except ValueError:
            reply = None
        except self._openai.OpenAIError as error:
            if getattr(error, "status_code", None) not in _TOO_MUCH:
                raise ScoringError(
                    f"{self}: {self._why(error, SECONDS)}; this benchmark is not recorded, the "
                    "verdicts so far are kept; the same command goes on from there"
                ) from None
            logging.getLogger(__name__).warning("%s: %s", self, self._why(error, SECONDS))
            reply = None
        return (reply or "").strip() or NO_REPLY

    def __str__(self) -> str:
        return f"judge {self.model} at {self.url}"

    def _create(self, client: Any, prompt: str, max_tokens: int, temperature: float) -> Any:
        sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        if _REASONS.search(self.model):
            sampling = {"max_completion_tokens": max_tokens}
        elif "gemini" in self.model:
            sampling = {"temperature": temperature, "reasoning_effort": "high"}
        messages = [{"role": "user", "content": prompt}]
        return client.chat.completions.create(model=self.model, messages=messages, **sampling)

    def _why(self, error: Exception, seconds: float) -> str:
        kinds = self._openai
        status = getattr(error, "status_code", None)
        if status in (401, 403):  # what the server says of a key may hold parts of it
            return f"the key was refused ({status}); set {KEY} to one that it takes"
        if isinstance(error, kinds.APITimeoutError):
            return f"no answer within {seconds:g} s; is it running, and the model loaded?"
        if isinstance(error, kinds.APIConnectionError):
            cause = self._shown(error.__cause__ or error)
            return f"cannot be reached ({cause}); check --judge-url, and that it is running"
        if status == 404:
            text = self._shown(getattr(error, "message", error))
            return f"no such model or address ({text}); check --judge and --judge-url (…/v1)"
        return f"answered with an error ({self._shown(getattr(error, 'message', error))})"

    def _shown(self, text: object) -> str:
        short = " ".join(str(text).split())
        return (short.replace(self._key, "***") if self._key else short)[:200]


def _content(completion: Any) -> str | None:
    """The text of a completion; None where this is none."""
    try:
        return completion.choices[0].message.content or ""
    except (AttributeError, IndexError, TypeError):
        return None


class Verdicts:
    """Replies that were read as verdicts, by key, in a file that only grows.

    Every line has a checksum. A damaged one is set aside, and its question asked again; one that a
    crash cut short is skipped; one that the disk lost costs one question.

    Attributes:
        note: what to tell the user of damaged lines; empty where there are none.
    """

    def __init__(self, file: Path) -> None:
        """Read what is there; the file is made with the first verdict."""
        self._file = file
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self.note = ""
        content = file.read_bytes() if file.is_file() else b""
        self._cut = not content.endswith(b"\n") and bool(content)
        whole, broken = [], []
        lines = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            record = _verdict(line)
            if record is not None:
                self._known[record["key"]] = record["reply"]
                whole.append(line)
            elif line and number < len(lines):
                broken.append(line)
        if broken:
            self._set_aside(whole, broken)

    def _set_aside(self, whole: list[bytes], broken: list[bytes]) -> None:
        aside = self._file.with_name(f"{self._file.name}.damaged")
        before = aside.read_bytes() if aside.is_file() else b""
        write_whole(aside, lambda path: path.write_bytes(before + b"\n".join(broken) + b"\n"))
        write_whole(self._file, lambda path: path.write_bytes(b"".join(b"%b\n" % w for w in whole)))
        self._cut = False
        self.note = (
            f"{self._file}: {len(broken):,} verdicts have no right checksum (they are damaged, or "
            f"of an earlier version); they are in {aside}, and will be asked for again"
        )

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> str | None:
        """The reply kept under a key."""
        return self._known.get(key)

    def keep(self, key: str, judge: str, reply: str) -> None:
        """Add one; safe to call from several threads.

        Raises:
            ScoringError: the file cannot be written.
        """
        record = {"key": key, "judge": judge, "reply": reply}
        line = json.dumps(record | {"check": _checksum(record)}).encode() + b"\n"
        with self._lock:
            if self._known.get(key) == reply:
                return
            self._known[key] = reply
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                try:
                    os.write(handle, b"\n" + line if self._cut else line)  # one write: one line
                finally:
                    os.close(handle)
            except OSError as error:
                raise ScoringError(f"{self._file}: cannot be written: {error.strerror}") from error
            self._cut = False


def _checksum(record: Mapping[str, Any]) -> str:
    content = json.dumps([record["key"], record["judge"], record["reply"]])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _verdict(line: bytes) -> Any:
    """A line's record; None where it is not as it was written."""
    try:
        record = json.loads(line)
        texts = all(isinstance(record[name], str) for name in ("key", "judge", "reply"))
        return record if texts and record["check"] == _checksum(record) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class Case:
    """One evaluation of one benchmark, as VLMEvalKit's metrics see a judge model.

    Attributes:
        max_tokens: the longest reply; a metric's own.
        unjudged: samples that ended without a verdict.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.max_tokens = MAX_TOKENS
        self.unjudged = 0
        self._lock = threading.Lock()

    def working(self) -> bool:
        """VLMEvalKit falls back to exact matching where this is False; it was probed before."""
        return True

    def generate(self, prompt: str, temperature: float = 0.0) -> str:
        """The reply to a question: the verdict that is kept for it, else a new one."""
        key = verdict_key(self.judge.model, self.max_tokens, prompt)
        reply = self.judge.verdicts.get(key)
        if reply is None:
            reply = self.judge.ask(prompt, self.max_tokens, temperature)
        hearing: Hearing | None = getattr(_here, "hearing", None)
        if hearing is not None:
            hearing.case, hearing.last = self, key
            hearing.replies[key] = reply
        return reply

    def close(self, hearing: "Hearing") -> None:
        """Keep a hearing's verdicts, and count it if one is missing."""
        for key, reply in hearing.replies.items():
            if key not in hearing.rejected:
                self.judge.verdicts.keep(key, self.judge.model, reply)
        if hearing.rejected:
            with self._lock:
                self.unjudged += 1


def verdict_key(model: str, max_tokens: int, prompt: str) -> str:
    """The content key of a verdict.

    The temperature is not in it: metrics raise it from try to try until a reply can be read, and
    that reply is the verdict.
    """
    text = json.dumps([model, max_tokens, prompt], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Hearing:
    """What was asked for one sample, in one thread.

    Attributes:
        case: whose; None as long as nothing was asked.
        replies: the last reply by verdict key.
        rejected: keys whose last reply could not be read.
        last: the key asked for last.
    """

    case: Case | None = None
    replies: dict[str, str] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    last: str = ""


_here = threading.local()


@contextmanager
def hearing() -> Iterator[Hearing]:
    """Questions asked in this thread until the end belong to one sample."""
    _here.hearing = Hearing()
    try:
        yield _here.hearing
    finally:
        _here.hearing = None


def reject() -> None:
    """The reply heard last in this thread is no verdict."""
    found: Hearing | None = getattr(_here, "hearing", None)
    if found is not None and found.case is not None:
        found.rejected.add(found.last)
