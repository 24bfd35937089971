"""Models on web servers: ``https://host/path/to/model``.

Where the server shows a listing of the folder (as nginx's, Apache's and Python's do), the files
are those that it names; elsewhere those of well-known names that are there.
"""

from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from soup.errors import CheckpointError
from soup.remote.address import Address
from soup.remote.place import Entry, is_plain
from soup.remote.ranges import AT_ONCE, Ranges, patiently
from soup.remote.together import together

LISTING = 1 << 22
"""Bytes of a listing that are looked at."""

DEEPEST = 3
FOLDERS = 100


class Web:
    """A folder of a web server."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._ranges = Ranges(address)
        self._refused: set[int] = set()

    def names(self) -> list[str] | None:
        """The files that the server's listing names; None where it shows none."""
        found: list[str] = []
        folders = [""]
        for folder in folders:
            page = self._page(folder)
            if page is None and not folder:
                return None
            files, below = linked(self._url(folder, "/"), page or "", self._url("", "/"))
            found += files
            if folder.count("/") < DEEPEST and len(folders) < FOLDERS:
                folders += [name for name in below if name not in folders]
        return found or None

    def stat(self, names: Sequence[str]) -> Mapping[str, Entry]:
        """What is known of files; those that are not there are left out.

        Raises:
            CheckpointError: the server does not answer, or lets nothing be read.
        """

        def look(name: str) -> Entry | None:
            def ask() -> Entry | None:
                return self._ranges.look(self._url(name), name)

            try:
                found: Entry | None = patiently(self.address, name, ask)
            except PermissionError as error:  # stores say so of what is not there
                self._refused.add(error.errno or 403)
                return None
            return found

        entries = [entry for entry in together(look, list(names), AT_ONCE) if entry is not None]
        if not entries and self._refused:
            raise self._ranges.refuse(min(self._refused), names[0] if names else "it")
        return {entry.name: entry for entry in entries}

    def revision(self) -> str:
        """None: each file has its own."""
        return ""

    def read(self, entry: Entry, start: int, end: int | None) -> Iterator[bytes]:
        """Bytes of a file; that it is still the same is seen from every answer."""
        return self._ranges.read(self._url(entry.name), entry, start, end)

    def require_same(self, entry: Entry) -> None:
        """Nothing more: ``read`` has looked."""

    def _url(self, name: str, behind: str = "") -> str:
        parts = urlsplit(self.address.url)
        path = parts.path.rstrip("/") + (f"/{quote(name)}" if name else "") + behind
        return urlunsplit((parts.scheme, parts.netloc, path.replace("//", "/"), parts.query, ""))

    def _page(self, folder: str) -> str | None:
        def ask() -> str | None:
            with self._ranges.get(self._url(folder, "/"), folder or "the folder") as answer:
                kind = answer.headers.get("Content-Type", "")
                if answer.status_code != 200 or not kind.startswith("text/html"):
                    return None
                text = b""
                for piece in answer.iter_bytes(1 << 16):
                    text += piece
                    if len(text) > LISTING:
                        return None
                return text.decode("utf-8", "replace")

        try:
            found: str | None = patiently(self.address, "its listing", ask)
        except CheckpointError:
            if folder:
                return None
            raise
        return found


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for key, value in attrs if key == "href" and value]


def linked(at: str, page: str, root: str) -> tuple[list[str], list[str]]:
    """Files and folders that a listing links to, relative to ``root``, each once.

    Args:
        at: the listing's own URL, which ends with a slash.
        page: its HTML.
        root: the URL of the whole, which ends with a slash.
    """
    links = _Links()
    links.feed(page)
    here, top = urlsplit(at), urlsplit(root)
    files: list[str] = []
    folders: list[str] = []
    for href in links.found:
        try:
            target = urlsplit(urljoin(urlunsplit((*here[:3], "", "")), href))
        except ValueError:
            continue
        outside = target.netloc.rpartition("@")[2] != here.netloc.rpartition("@")[2]
        if outside or not target.path.startswith(here.path) or target.path == here.path:
            continue
        if target.query and target.query != here.query:
            continue  # how to sort the listing
        name = unquote(target.path[len(top.path) :])
        if is_plain(name.rstrip("/")):
            (folders if name.endswith("/") else files).append(name.rstrip("/"))
    return list(dict.fromkeys(files)), list(dict.fromkeys(folders))
