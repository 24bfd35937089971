"""Models on a hub: ``hf://org/name@revision``, through huggingface_hub.

Token, endpoint and offline mode are the client's own (``HF_TOKEN`` or its login, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``). Files are read by ranges from the addresses that it gives, so that a download
that was cut goes on, which that of the client itself does not in all of its versions.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from soup.errors import CheckpointError, UnreachableError, UsageError
from soup.remote.address import Address
from soup.remote.place import Cut, Entry, is_plain, missing_package
from soup.remote.ranges import Ranges, patiently, timeout

COMMIT = re.compile(r"[0-9a-f]{40}")
TRANSPORTS = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "ssl", "socket")
LOG_IN = "is the model private or gated? accept its terms on the hub, and set HF_TOKEN"


def offline() -> bool:
    """Whether the client is told to stay off the network."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


class Hub:
    """One repository of models, at one commit from the first question on."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._commit = ""
        self._entries: dict[str, Entry] | None = None
        self._ranges: Ranges | None = None

    def names(self) -> Sequence[str]:
        """All files of the repository, or of the folder that was asked for."""
        return list(self._known())

    def stat(self, names: Sequence[str]) -> Mapping[str, Entry]:
        """What the hub says of them."""
        known = self._known()
        return {name: known[name] for name in names if name in known}

    def revision(self) -> str:
        """The commit."""
        self._known()
        return self._commit

    def read(self, entry: Entry, start: int, end: int | None) -> Iterator[bytes]:
        """Bytes of a file of the commit."""
        from huggingface_hub import hf_hub_url, utils

        if self._ranges is None:
            headers = utils.build_hf_headers(library_name="vlm-soup")  # type: ignore[attr-defined]
            self._ranges = Ranges(self.address, headers, LOG_IN)
        path = f"{self.address.folder}/{entry.name}" if self.address.folder else entry.name
        url = hf_hub_url(self.address.place, path, revision=self._commit, endpoint=endpoint())
        return self._ranges.read(url, entry, start, end, pinned=True)

    def require_same(self, entry: Entry) -> None:
        """A commit's files do not change."""

    def _known(self) -> dict[str, Entry]:
        if self._entries is None:
            found = patiently(self.address, "the hub", self._ask)
            self._commit = str(found.sha or "")
            if not COMMIT.fullmatch(self._commit):
                raise CheckpointError(f"{self.address}: the hub did not say which commit it is")
            before = f"{self.address.folder}/" if self.address.folder else ""
            self._entries = {
                name: _entry(name, one)
                for one in found.siblings or ()
                if one.rfilename.startswith(before)
                and is_plain(name := one.rfilename.removeprefix(before))
            }
            if before and not self._entries:
                raise CheckpointError(f"{self.address}: the repository has no such folder")
        return self._entries

    def _ask(self) -> Any:
        try:
            from huggingface_hub import HfApi
            from huggingface_hub import errors as known
        except ImportError:
            raise missing_package(self.address, "huggingface_hub") from None
        wanted = self.address.revision or None
        try:
            return HfApi(endpoint=endpoint(), library_name="vlm-soup").model_info(
                self.address.place, revision=wanted, files_metadata=True, timeout=timeout()
            )
        except known.OfflineModeIsEnabled:
            raise UnreachableError(
                f"{self.address}: not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
            ) from None
        except known.GatedRepoError:
            raise UnreachableError(
                f"{self.address}: gated: accept its terms on the hub, and set HF_TOKEN"
            ) from None
        except known.RevisionNotFoundError:
            raise UnreachableError(
                f"{self.address}: the repository has no revision {wanted or 'main'}"
            ) from None
        except known.RepositoryNotFoundError:
            raise UnreachableError(
                f"{self.address}: no such repository, or a private one that HF_TOKEN may not read"
            ) from None
        except known.HFValidationError as error:
            raise UsageError(
                f"{self.address}: no name of a model: {self.address.scrubbed(error)}"
            ) from None
        except known.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status >= 500 or status == 429:
                raise Cut(f"the hub answered {status}") from None
            hint = f"; {LOG_IN}" if status in (401, 403) else ""
            raise UnreachableError(f"{self.address}: the hub answered {status}{hint}") from None
        except Exception as error:  # its transport's own
            if type(error).__module__.partition(".")[0] not in (*TRANSPORTS, "builtins"):
                raise
            if isinstance(error, (TypeError, AttributeError, KeyError, IndexError)):
                raise
            said = self.address.scrubbed(error) or type(error).__name__
            raise Cut(f"the hub cannot be reached ({said})") from None


def _entry(name: str, one: Any) -> Entry:
    lfs = one.lfs
    size = lfs.size if lfs is not None else one.size
    return Entry(name, size, str(one.blob_id or ""), lfs.sha256 if lfs is not None else "")


def endpoint() -> str | None:
    """Of the hub, where it is not the client's own."""
    return os.environ.get("HF_ENDPOINT") or None
