"""Files into a repository of a hub, in one commit, with progress: through huggingface_hub.

The client's own way for folders makes several commits of large ones, and its bars are drawn on
standard error. So each file is handed to it open, as an object that tells how far it has been read
(which every version of the client takes), and one commit is asked for. Such files go by plain HTTP,
not by Xet.
"""

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from logging import CRITICAL
from pathlib import Path
from typing import Any, TypeVar

from soup.errors import OutputError
from soup.events import Observer, Progress
from soup.remote.address import Address
from soup.remote.hub import TRANSPORTS, endpoint
from soup.remote.ranges import timeout

STALE = ("*.safetensors", "*.safetensors.index.json")
"""What an earlier soup with other shards may have left."""

HASHED = 4
"""Files whose SHA-256 is taken at the same time, which a hub wants before it takes them."""

PATIENCE = 10
"""A hub that has all may take so many times longer to answer than one that is to send."""

T = TypeVar("T")


@dataclass(frozen=True)
class Commit:
    """What is to be committed.

    Attributes:
        address: the repository, and a branch or a folder of it.
        title: of the commit.
        files: by name, relative to the address, where their content is.
        private: whether a repository that is made anew is.
    """

    address: Address
    title: str
    files: Mapping[str, Path | bytes]
    private: bool = True


def commit(what: Commit, observe: Observer, said: str = "") -> Any:
    """Send files in one commit; those of ``STALE`` that are not among them go.

    The repository and the branch are made where there are none. What of large files the hub has is
    not sent again.

    Args:
        what: to commit.
        observe: told of bytes, first those that were read, then those that were sent.
        said: what messages begin with; by default the address.

    Returns:
        The client's ``CommitInfo``.

    Raises:
        OutputError: it was not committed; nothing of it is seen there.
    """
    return ask(what.address, lambda api: _commit(api, what, observe), said)


def files_there(address: Address) -> set[str]:
    """The names of files at an address, relative to it; none where there is no such place.

    Raises:
        OutputError: the hub does not say.
    """
    return ask(address, lambda api: _there(api, address))


def require_token(address: Address) -> None:
    """There is a token, and as far as the hub tells it may write.

    Raises:
        OutputError: there is none, it is not known, or may only read.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    def look(api: Any) -> Any:
        try:
            return api.whoami()
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code == 404:
                return {}  # a hub of one's own need not know such a thing
            raise

    if not get_token():
        raise OutputError(
            f"{address}: no token to send with: set HF_TOKEN to one that may write there, or log "
            "in (hf auth login)"
        )
    found = ask(address, look)
    role = (found.get("auth", {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise OutputError(
            f"{address}: the token of {found.get('name', 'this user')} may only read: set HF_TOKEN "
            "to one that may write there"
        )


def _there(api: Any, address: Address) -> set[str]:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        names = api.list_repo_files(address.place, revision=address.revision or None)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return set()
    before = f"{address.folder}/" if address.folder else ""
    return {name.removeprefix(before) for name in names if name.startswith(before)}


def _commit(api: Any, what: Commit, observe: Observer) -> Any:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    address = what.address
    before = f"{address.folder}/" if address.folder else ""
    api.create_repo(address.place, private=what.private, exist_ok=True)
    if address.revision:
        api.create_branch(address.place, branch=address.revision, exist_ok=True)
    stale = sorted(
        name
        for name in _there(api, address) - set(what.files)
        if any(fnmatch(name, pattern) for pattern in STALE)
    )
    with ExitStack() as opened:
        stop = threading.Event()
        given = {
            name: content
            if isinstance(content, bytes)
            else opened.enter_context(Told(content, stop))
            for name, content in what.files.items()
        }

        def addition(name: str) -> Any:
            return CommitOperationAdd(path_in_repo=before + name, path_or_fileobj=given[name])

        def additions() -> list[Any]:
            with ThreadPoolExecutor(HASHED) as threads:
                return list(threads.map(addition, given))

        def send() -> Any:
            return api.create_commit(
                repo_id=address.place,
                operations=[
                    *(CommitOperationDelete(path_in_repo=before + name) for name in stale),
                    *ready,
                ],
                commit_message=what.title,
                revision=address.revision or None,
            )

        files = [one for one in given.values() if isinstance(one, Told)]
        with _counting(files, f"read what goes to {address}", observe):
            ready = _aside(additions, stop)
        with _counting(files, f"send to {address}", observe):
            return _aside(send, stop)


class Told(io.BufferedReader):
    """A file that tells how far it has been read, and can be made to stop.

    Attributes:
        far: bytes from its beginning up to where it was read, since ``again``.
        size: in bytes.
        tell_of: called, by whoever reads, when ``far`` has grown.
    """

    def __init__(self, file: Path, stop: threading.Event) -> None:
        super().__init__(io.FileIO(file))
        self.size = os.fstat(self.fileno()).st_size
        self.far = 0
        self.tell_of: Callable[[], None] = lambda: None
        self._stop_asked = stop

    def again(self, tell: Callable[[], None]) -> None:
        """Count from the beginning."""
        self.far, self.tell_of = 0, tell

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file does.

        Raises:
            OutputError: nobody waits for it any more.
        """
        if self._stop_asked.is_set():
            raise OutputError("stopped")
        found = super().read(size)
        here = self.tell()
        if here > self.far:  # a part that is sent a second time counts once
            self.far = here
            self.tell_of()
        return found


@contextmanager
def _counting(files: list[Told], task: str, observe: Observer) -> Iterator[None]:
    """Progress of what is read of files; all of it in the end: what a hub has is not sent."""
    total, lock = sum(file.size for file in files), threading.Lock()

    def tell() -> None:
        with lock:  # no step back
            observe(Progress(task, min(sum(file.far for file in files), total), total, "B"))

    for file in files:
        file.again(tell)
    observe(Progress(task, 0, total, "B"))
    yield
    observe(Progress(task, total, total, "B"))


def _aside(work: Callable[[], T], stop: threading.Event) -> T:
    """Do it in another thread: the client waits for all of its own, however we are asked to end."""
    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(work)
        try:
            return job.result()
        except BaseException:
            stop.set()
            raise


def ask(address: Address, work: Callable[[Any], T], said: str = "") -> T:
    """One thing that the hub's client is to do.

    Args:
        address: of what; messages begin with it, unless ``said``.
        work: called with the client.
        said: what messages begin with instead.

    Raises:
        OutputError: it could not be done.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    about = said or str(address)
    try:
        with _quiet(), _impatient():
            return work(HfApi(endpoint=endpoint(), library_name="vlm-soup"))
    except OutputError:
        raise
    except OfflineModeIsEnabled:
        raise OutputError(f"{about}: HF_HUB_OFFLINE forbids to send anything") from None
    except Exception as error:
        http = next((e for e in _causes(error) if isinstance(e, HfHubHTTPError)), None)
        if http is not None:
            raise OutputError(f"{about}: {_answered(address, http)}") from None
        first = _causes(error)[-1]  # the client puts its own words around what went wrong
        module = type(first).__module__.partition(".")[0]
        if not isinstance(first, (OSError, ValueError)) and module not in (*TRANSPORTS, "hf_xet"):
            raise
        text = address.scrubbed(first) or type(first).__name__
        raise OutputError(f"{about}: cannot be sent to the hub ({text})") from None


def _answered(address: Address, error: Any) -> str:
    """What a hub's refusal says, and what may help."""
    status = error.response.status_code if error.response is not None else None
    why = address.scrubbed(getattr(error, "server_message", None) or "")
    hint = "; is HF_TOKEN set, and may it write there?" if status in (401, 403, 404) else ""
    return f"the hub answered {status or 'nothing'}{f' ({why})' if why else ''}{hint}"


def _causes(error: BaseException) -> list[BaseException]:
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of the client's on standard error: its bars, and addresses that are signed."""
    from huggingface_hub import logging, utils

    bars: Any = utils
    shown, level = not bars.are_progress_bars_disabled(), logging.get_verbosity()
    try:
        logging.set_verbosity(CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if shown:
                bars.disable_progress_bars()
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            bars.enable_progress_bars()


@contextmanager
def _impatient() -> Iterator[None]:
    """No waiting for ever, where the client is one of httpx (1.0 and later)."""
    from huggingface_hub import utils

    client: Any = utils
    session = client.get_session()
    before = getattr(session, "timeout", None)
    if not hasattr(session, "timeout"):
        yield
        return
    import httpx

    session.timeout = httpx.Timeout(timeout(), read=PATIENCE * timeout())
    try:
        yield
    finally:
        session.timeout = before
