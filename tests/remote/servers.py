"""A web server and a model hub on this machine, as much of both as reading and sending need.

The web server answers ranges, unless it is told to know none, to be slow, to hang up, to refuse or
to change its files. The hub is a fake: as much of its HTTP interface as its client uses to download
and to push (``repositories``).
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.remote.repositories import Hub, Model


@dataclass
class Web:
    """A web server, and how it behaves.

    Attributes:
        address: of its root.
        root: the directory that it shows.
        ranges: whether it knows ranges.
        listing: whether it lists folders.
        page: what it shows of a folder instead.
        versions: whether it says what version a file is of.
        shift: by how many bytes the ranges that it sends are off.
        cuts: how many answers of more than ``cut_at`` bytes it still hangs up on.
        cut_at: after how many bytes.
        silent: seconds before each answer's content.
        pace: bytes a second; 0 is as fast as it goes.
        needs: ``Authorization`` that it wants; empty: none.
        query: what must stand behind the question mark.
        asked: what it was asked: path and range.
        sent: bytes of content.
        changes: by a file's name, what it becomes when it has been asked for so often.
        status: what it answers to everything, instead of content.
        hub: its repositories.
        token: opens those that are private or gated; empty: nothing does, and anybody may send.
    """

    address: str = ""
    root: Path = Path()
    ranges: bool = True
    listing: bool = True
    page: str = ""
    versions: bool = True
    shift: int = 0
    cuts: int = 0
    cut_at: int = 1000
    silent: float = 0.0
    pace: int = 0
    needs: str = ""
    query: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    changes: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    status: int = 0
    hub: Hub = field(default_factory=Hub)
    token: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def models(self) -> dict[str, Model]:
        """Repositories of the hub, by name."""
        return self.hub.models

    def times(self, name: str) -> int:
        """How often a file was asked for."""
        return sum(path.endswith(f"/{name}") for path, _ in self.asked)


def tag(content: bytes) -> str:
    """What the server calls a content's version."""
    return f'"{hashlib.md5(content).hexdigest()}"'


@contextmanager
def serving(root: Path | None = None) -> Iterator[Web]:
    """A server while the context lasts."""
    web = Web(root=root or Path("/nowhere"))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            span = self.headers.get("Range", "")
            with web.lock:
                web.asked.append((path, span))
            if web.status:
                self.say(b"no", web.status)
            elif web.needs and self.headers.get("Authorization") != web.needs:
                self.say(b"no", 401)
            elif web.query and parts.query != web.query:
                self.say(b"no", 403)
            elif path == "/api/whoami-v2":
                who = json.dumps(web.hub.who() if self.known() else {}).encode()
                self.say(who, 200 if self.known() else 401, kind="application/json")
            elif path.startswith("/api/models/"):
                self.describe(path.removeprefix("/api/models/"))
            elif "/resolve/" in path and web.models:
                repository, _, rest = path.lstrip("/").partition("/resolve/")
                commit, _, name = rest.partition("/")
                model = web.models[repository]
                if self.allowed(model):
                    self.content(model.commits[model.refs.get(commit, commit)] / name, span)
            else:
                self.content(web.root / path.lstrip("/"), span)

        def do_POST(self) -> None:
            self.receive(lambda content: web.hub.posted(self.path, content))

        def do_PUT(self) -> None:
            def keep(content: bytes) -> tuple[object, int]:
                if web.hub.lost:
                    return {"error": "no"}, 403
                web.hub.blob(urlsplit(self.path).path, content)
                return {}, 200

            self.receive(keep)

        def receive(self, what: Callable[[bytes], tuple[object, int]]) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with web.lock:
                web.asked.append((self.path, ""))
            if web.status:
                answer, status = {"error": "no"}, web.status
            elif web.token and not self.known() and not self.path.startswith(("/blob/", "/whole/")):
                answer, status = {"error": "who are you?"}, 401
            else:
                answer, status = what(content)
            more = {"ETag": tag(content)}
            self.say(json.dumps(answer).encode(), status, more, kind="application/json")

        def known(self) -> bool:
            return bool(web.token) and self.headers.get("Authorization") == f"Bearer {web.token}"

        def allowed(self, model: Model) -> bool:
            if self.known() or not (model.gated or model.private):
                return True
            code = "GatedRepo" if model.gated else "RepoNotFound"
            self.say(b"{}", 403 if model.gated else 401, {"X-Error-Code": code})
            return False

        def describe(self, rest: str) -> None:
            repository, _, revision = rest.partition("/revision/")
            repository, tree, branch = repository.partition("/tree/")
            model = web.models.get(repository)
            if model is None:
                self.say(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
                return
            if not self.allowed(model):
                return
            commit = model.refs.get(revision or branch or "main", revision)
            if commit not in model.commits:
                self.say(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
                return
            if tree:
                there = model.files(commit)
                listed = [
                    {"type": "file", "path": name, "size": len(there[name]), "oid": "0" * 40}
                    for name in there
                ]
                self.say(json.dumps(listed).encode(), kind="application/json")
                return
            siblings = []
            for file in sorted(model.commits[commit].rglob("*")):
                if file.is_file():
                    content = file.read_bytes()
                    name = file.relative_to(model.commits[commit]).as_posix()
                    one = {"rfilename": name, "size": len(content), "blobId": tag(content)[1:-1]}
                    if name.endswith(".safetensors"):
                        sha = hashlib.sha256(content).hexdigest()
                        one["lfs"] = {"size": len(content), "sha256": sha, "pointerSize": 134}
                    siblings.append(one)
            said = {"id": repository, "sha": commit, "private": False, "siblings": siblings}
            self.say(json.dumps(said).encode(), kind="application/json")

        def content(self, file: Path, span: str) -> None:
            name = file.name
            with web.lock:
                if name in web.changes and web.times(name) > web.changes[name][0]:
                    _, became = web.changes.pop(name)
                    file.with_name("new").write_bytes(became)
                    file.with_name("new").replace(file)
            if file.is_dir():
                if web.page:
                    self.say(web.page.encode())
                    return
                if not web.listing:
                    self.say(b"no", 403)
                    return
                links = "".join(
                    f'<a href="{one.name}{"/" if one.is_dir() else ""}">{one.name}</a>'
                    for one in sorted(file.iterdir())
                )
                self.say(f'<a href="../">up</a>{links}<a href="?C=N">by name</a>'.encode())
                return
            if not file.is_file():
                self.say(b"no", 404)
                return
            content = file.read_bytes()
            more = {"ETag": tag(content)} if web.versions else {}
            status = 200
            if span and web.ranges:
                first, _, last = span.removeprefix("bytes=").partition("-")
                total = len(content)
                if int(first) >= total:
                    self.say(b"", 416, {"Content-Range": f"bytes */{total}", **more})
                    return
                end = min(int(last or total) + 1, total)
                first = str(max(int(first) - web.shift, 0))
                more["Content-Range"] = f"bytes {first}-{end - 1}/{total}"
                content, status = content[int(first) : end], 206
            self.say(content, status, more, "application/octet-stream")

        def say(
            self,
            content: bytes,
            status: int = 200,
            more: dict[str, str] | None = None,
            kind: str = "text/html",
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            for key, value in (more or {}).items():
                self.send_header(key, value)
            self.end_headers()
            if web.silent:
                self.wfile.flush()
                time.sleep(web.silent)
            with web.lock:
                cut = web.cuts > 0 and len(content) > web.cut_at
                web.cuts -= cut
            if cut:
                content = content[: web.cut_at]
            step = web.pace // 50 or len(content) or 1
            try:
                for at in range(0, len(content), step):
                    self.wfile.write(content[at : at + step])
                    with web.lock:
                        web.sent += len(content[at : at + step])
                    if web.pace:
                        time.sleep(0.02)
            except OSError:
                self.close_connection = True
            if cut:
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Clients that hang up, or are killed, are what this is for."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.address = web.hub.address = f"http://127.0.0.1:{server.server_port}"
    web.hub.root = web.root / "repositories"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
