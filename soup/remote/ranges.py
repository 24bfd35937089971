"""Ranges of bytes over HTTP, for web servers and for a hub.

RFC 9110, section 14: a server answers 206 with the range, 200 with all of it where it knows no
ranges, and 416 where the file is shorter.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soup.errors import CheckpointError, UnreachableError
from soup.remote.address import Address
from soup.remote.place import Cut, Entry, changed, missing_package

if TYPE_CHECKING:
    import httpx

TIMEOUT = "SOUP_REMOTE_TIMEOUT"
"""The environment variable that says for how many seconds a silent server is waited for."""

PAUSE = 0.3
"""Seconds before the second try; twice as many before each next one."""

AT_ONCE = 8
GONE = (404, 410)
LATER = (408, 425, 429, 500, 502, 503, 504)
"""What a server answers that may answer better in a moment."""


def timeout() -> float:
    """Seconds for which a silent server is waited for."""
    try:
        return max(float(os.environ[TIMEOUT]), 0.1)
    except (KeyError, ValueError):
        return 30.0


@dataclass
class Ranges:
    """Files behind URLs, read by ranges.

    Attributes:
        address: for people.
        headers: sent with every request; they may hold a token.
        denied: what may help where the server answers 401 or 403.
    """

    address: Address
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    denied: str = "may it be read with these credentials?"
    _client: Any = field(default=None, repr=False)

    @property
    def client(self) -> "httpx.Client":
        """Shared by all threads."""
        if self._client is None:
            try:
                import httpx
            except ImportError:
                raise missing_package(self.address, "httpx") from None
            self._client = httpx.Client(
                follow_redirects=True,
                timeout=timeout(),
                headers={"Accept-Encoding": "identity", **self.headers},
                limits=httpx.Limits(max_connections=2 * AT_ONCE),
            )
        return self._client  # type: ignore[no-any-return]

    @contextmanager
    def get(self, url: str, name: str, span: str = "") -> "Iterator[httpx.Response]":
        """Ask for a file or a range of it.

        Raises:
            Cut: the server cannot be reached now, or goes silent, or hangs up.
        """
        import httpx

        client = self.client
        try:
            with client.stream("GET", url, headers={"Range": span} if span else {}) as answer:
                if answer.status_code in LATER:
                    raise Cut(f"the server answered {answer.status_code}")
                yield answer
        except httpx.TimeoutException:
            raise Cut(f"the server was silent for {timeout():g} s ({TIMEOUT})") from None
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise Cut(f"the server cannot be reached ({self._said(error)})") from None
        except httpx.TransportError as error:
            raise Cut(f"the transfer was cut off ({self._said(error)})") from None
        except (httpx.InvalidURL, httpx.TooManyRedirects, httpx.StreamError) as error:
            text = f"{self.address}: {name}: cannot be asked for: {self._said(error)}"
            raise CheckpointError(text) from None

    def _said(self, error: Exception) -> str:
        return self.address.scrubbed(error) or type(error).__name__

    def refuse(self, status: int, name: str) -> CheckpointError:
        """The error for an answer that has no content."""
        if status in (401, 403):
            hint = f"; {self.denied}"
            return UnreachableError(
                f"{self.address}: {name}: the server refused it ({status}){hint}"
            )
        return UnreachableError(f"{self.address}: {name}: the server answered {status}")

    def look(self, url: str, name: str) -> Entry | None:
        """Size and version of a file, by asking for its first byte; None where there is none.

        Raises:
            PermissionError: the server does not let it be read; the status is its errno.
        """
        with self.get(url, name, "bytes=0-0") as answer:
            status, said = answer.status_code, answer.headers
            if status in GONE:
                return None
            if status in (401, 403):
                raise PermissionError(status, "refused")
            size: str | None = said.get("Content-Length")
            if status in (206, 416):
                size = said.get("Content-Range", "").rpartition("/")[2]
            elif status != 200:
                raise self.refuse(status, name)
            known = int(size) if size is not None and size.isdigit() else None
            return Entry(name, known, version(said), ranged=status != 200)

    def read(
        self, url: str, entry: Entry, start: int, end: int | None, pinned: bool = False
    ) -> Iterator[bytes]:
        """Bytes ``start`` up to ``end``; ``pinned``: the URL is of one version alone."""
        span = f"bytes={start}-{'' if end is None else end - 1}" if entry.ranged else ""
        wanted = None if end is None else end - start
        with self.get(url, entry.name, span) as answer:
            status = answer.status_code
            if status == 416 or (status in GONE and not pinned):
                raise changed(self.address, entry.name)
            if status not in (200, 206):
                raise self.refuse(status, entry.name)
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                text = "the server sends it compressed only, so that no range of it can be read"
                raise CheckpointError(f"{self.address}: {entry.name}: {text}")
            said = answer.headers.get("Content-Range", "")
            total = said.rpartition("/")[2]
            if status == 200:
                total = answer.headers.get("Content-Length", "")
            if total.isdigit() and entry.size is not None and int(total) != entry.size:
                raise changed(self.address, entry.name)
            if not pinned and version(answer.headers) != entry.version:
                raise changed(self.address, entry.name)
            if status == 206 and not said.startswith(f"bytes {start}-"):
                raise Cut(f"the server sent another range than was asked for ({said[:40]})")
            if status == 200 and start:
                raise Cut("the server takes no ranges, so that nothing can go on where it was")
            for piece in answer.iter_raw():  # as it comes: a size would keep back what is cut
                if wanted is not None:
                    piece = piece[:wanted]
                    wanted -= len(piece)
                yield piece
                if wanted == 0:
                    return


def version(headers: Mapping[str, str]) -> str:
    """What a server says of a file's state."""
    tag = headers.get("ETag", "")
    return re.sub(r"-(gzip|br)(?=\"$)", "", tag) or headers.get("Last-Modified", "")


def patiently(address: Address, what: str, ask: Callable[[], Any], tries: int = 3) -> Any:
    """Ask until there is an answer.

    Raises:
        UnreachableError: there is none.
    """
    for attempt in range(1, tries + 1):
        try:
            return ask()
        except Cut as error:
            if attempt == tries:
                raise UnreachableError(f"{address}: {what}: {error}, {tries} times") from None
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")
