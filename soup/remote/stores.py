"""Models in object stores: ``s3://…``, ``gs://…``, and whatever else fsspec knows.

Credentials are those of its libraries: environment variables, profiles, fsspec's own settings.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from soup.errors import CheckpointError, UnreachableError, UsageError
from soup.remote.address import Address
from soup.remote.place import Cut, Entry, changed, is_plain, missing_package
from soup.remote.ranges import TIMEOUT, patiently, timeout

DEEPEST = 3
MOST = 20_000

VERSION = ("ETag", "etag", "md5Hash", "generation", "version_id", "checksum")
"""What stores call a file's version; else its time counts."""

TIME = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
DENIED = (
    "NoCredentialsError",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "RefreshError",
)


LISTING = "its listing"
TIMED_OUT = ("FSTimeoutError", "ConnectTimeoutError", "ReadTimeoutError")

FIRST, SMALLEST, LARGEST = 1 << 20, 1 << 18, 1 << 24
"""Bytes of the first request of a file, and of the smallest and the largest ones later."""

SOON, LATE = 0.5, 2.0
"""Seconds: requests that take less grow, those that take more shrink."""


class Nothing(UnreachableError):
    """What was asked for is not there."""


class Store:
    """A folder of an object store."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._fs: Any = None
        self._root = ""
        self._entries: dict[str, Entry] | None = None
        self._step = FIRST

    @property
    def patience(self) -> dict[str, float]:
        """How long a request may take, for the file systems that fsspec can end."""
        return {"timeout": timeout()} if getattr(self._fs, "async_impl", False) else {}

    def names(self) -> Sequence[str]:
        """All files in it, three folders deep."""
        return list(self._known())

    def stat(self, names: Sequence[str]) -> Mapping[str, Entry]:
        """What the store says of them."""
        known = self._known()
        return {name: known[name] for name in names if name in known}

    def revision(self) -> str:
        """None: each file has its own."""
        return ""

    def read(self, entry: Entry, start: int, end: int | None) -> Iterator[bytes]:
        """Bytes of a file, in requests of about a second each: what is small is seen to move."""
        path = f"{self._root}/{entry.name}"
        while end is not None and end - start > self._step:
            upto, began = start + self._step, time.monotonic()
            yield self._range(entry.name, path, start, upto)
            self._pace(time.monotonic() - began)
            start = upto
        yield self._range(entry.name, path, start, end)

    def _range(self, name: str, path: str, start: int, end: int | None) -> bytes:
        def ask() -> Any:
            return self._fs.cat_file(path, start=start, end=end, **self.patience)

        try:
            found: bytes = self.do(name, ask)
        except Cut:
            self._step = SMALLEST
            raise
        return found

    def _pace(self, seconds: float) -> None:
        """Larger requests where they are fast, smaller ones where they are slow."""
        if seconds < SOON:
            self._step = min(2 * self._step, LARGEST)
        elif seconds > LATE:
            self._step = max(self._step // 2, SMALLEST)

    def require_same(self, entry: Entry) -> None:
        """A store does not say with a range which version it is of: it is asked again."""
        try:
            path = f"{self._root}/{entry.name}"
            now = self.do(entry.name, lambda: self._fs.info(path, **self.patience))
        except (CheckpointError, Cut):
            raise changed(self.address, entry.name) from None
        if _entry(entry.name, now) != entry:
            raise changed(self.address, entry.name)

    def _known(self) -> dict[str, Entry]:
        if self._entries is None:
            self._entries = dict(patiently(self.address, LISTING, self._listed))
        return self._entries

    def _listed(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        folders = [""]
        _, root = self.opened()
        for folder in folders:
            at = f"{root}/{folder}".rstrip("/")
            for info in self.do(LISTING, partial(self._fs.ls, at, detail=True, **self.patience)):
                name = str(info["name"]).rstrip("/")[len(root) :].lstrip("/")
                if not name and info.get("type") == "file" and info.get("size"):
                    where = str(self.address).rpartition("/")[0]
                    raise CheckpointError(
                        f"{self.address}: a file; expected the folder that it is in: {where}"
                    )
                if not name or not is_plain(name):
                    continue  # the folder itself
                if info.get("type") == "directory":
                    hidden = name.rpartition("/")[2].startswith((".", "checkpoint-"))
                    if not hidden and name.count("/") < DEEPEST - 1 and name not in folders:
                        folders.append(name)
                else:
                    found[name] = _entry(name, info)
            if len(found) > MOST:
                raise CheckpointError(f"{self.address}: more than {MOST:,} files; is it a model?")
        return found

    def opened(self) -> tuple[Any, str]:
        """The file system, and the place's path in it."""
        if self._fs is not None:
            return self._fs, self._root
        try:
            import fsspec
        except ImportError:
            raise missing_package(self.address, "fsspec") from None
        try:
            self._fs, root = fsspec.core.url_to_fs(self.address.url, use_listings_cache=False)
        except ImportError:
            package = PACKAGES.get(self.address.scheme, f"fsspec's {self.address.scheme}")
            raise missing_package(self.address, package) from None
        except ValueError as error:
            raise UsageError(
                f"{self.address}: expected hf://, s3://, gs://, https:// or what fsspec knows: "
                f"{self.address.scrubbed(error)}"
            ) from None
        self._root = str(root).rstrip("/")
        return self._fs, self._root

    def do(self, name: str, work: Callable[[], Any]) -> Any:
        """One question to the store.

        Raises:
            Cut: it may work in a moment.
            CheckpointError: it will not.
        """
        try:
            return work()
        except (FileNotFoundError, NotADirectoryError) as error:
            about = "" if name == LISTING else f"{name}: "
            raise Nothing(f"{self.address}: {about}nothing there{self._why(error)}") from None
        except PermissionError as error:
            raise self._denied(name, error) from None
        except Exception as error:  # the libraries' own, and their transports'
            kind = type(error).__name__
            if kind in DENIED:
                raise self._denied(name, error) from None
            if kind in TIMED_OUT:
                said = f"it was silent for {timeout():g} s ({TIMEOUT})"
                raise Cut(f"the store failed: {said}") from None
            said = self.address.scrubbed(error) or type(error).__name__
            raise Cut(f"the store failed ({said})") from None

    def _why(self, error: OSError) -> str:
        """What a library says of what is missing, where that is more than its name."""
        said = error.strerror or ""
        return f" ({self.address.scrubbed(said)})" if said and error.filename is None else ""

    def _denied(self, name: str, error: Exception) -> CheckpointError:
        said = self.address.scrubbed(error) or "no credentials"
        return UnreachableError(f"{self.address}: {name}: the store refused it ({said})")


def _entry(name: str, info: Mapping[str, Any]) -> Entry:
    said = [f"{key}={info[key]}" for key in VERSION if info.get(key)]
    said = said or [f"{key}={_moment(info[key])}" for key in TIME if info.get(key)][:1]
    size = info.get("size")
    return Entry(name, None if size is None else int(size), " ".join(said))


def _moment(value: Any) -> Any:
    """A time, the same however it is given: listings and single answers have it differently."""
    return value.timestamp() if isinstance(value, datetime) else value
