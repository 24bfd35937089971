"""A model hub on this machine: as much of its HTTP interface as a push uses. It is a fake."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What was sent.

    Attributes:
        address: of its interface.
        private: by repository, whether it is.
        files: by repository and name, the content.
        commits: titles, in order.
        fails: the status that every request is answered with; None where it works.
    """

    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    fails: int | None = None


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub while the context lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if not self.path.startswith("/api/models/"):
                self.say({"error": self.path}, 404)
                return
            rest = self.path.removeprefix("/api/models/")
            repository, _, what = _split(rest)
            if what.startswith("tree"):
                there = hub.files.get(repository, {})
                self.say(
                    [
                        {"type": "file", "path": n, "size": len(c), "oid": "0" * 40}
                        for n, c in there.items()
                    ]
                )
            else:
                there = hub.files.get(repository, {})
                self.say(
                    {
                        "id": repository,
                        "sha": "0" * 40,
                        "private": True,
                        "siblings": [{"rfilename": name} for name in there],
                    }
                )

        def do_PUT(self) -> None:
            content = self.body()
            hub.blobs[hashlib.sha256(content).hexdigest()] = content
            self.say({})

        def do_POST(self) -> None:
            content = self.body()
            if hub.fails:
                self.say({"error": "no"}, hub.fails)
            elif self.path == "/api/repos/create":
                asked = json.loads(content)
                name = f"{asked['organization']}/{asked['name']}"
                if name in hub.private:
                    self.say({"url": f"{hub.address}/{name}", "error": "exists"}, 409)
                    return
                private = asked.get("visibility") == "private" or asked.get("private")
                hub.private[name] = bool(private)
                hub.files[name] = {}
                self.say({"url": f"{hub.address}/{name}"})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(content)["objects"]
                self.say(
                    {
                        "transfer": "basic",
                        "objects": [
                            {
                                **one,
                                "actions": {"upload": {"href": f"{hub.address}/blob/{one['oid']}"}},
                            }
                            for one in objects
                        ],
                    }
                )
            elif self.path == "/api/validate-yaml":
                self.say({"warnings": [], "errors": []})
            elif "/preupload/" in self.path:
                asked = json.loads(content)["files"]
                self.say(
                    {
                        "files": [
                            {
                                "path": one["path"],
                                "shouldIgnore": False,
                                "uploadMode": "lfs"
                                if one["path"].endswith(".safetensors")
                                else "regular",
                            }
                            for one in asked
                        ]
                    }
                )
            elif "/commit/" in self.path:
                self.commit(self.path.split("/api/models/")[1].split("/commit/")[0], content)
            else:
                self.say({"error": self.path}, 404)

        def commit(self, repository: str, content: bytes) -> None:
            there = hub.files[repository]
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    hub.commits.append(value["summary"])
                elif line["key"] == "file":
                    there[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    there[value["path"]] = hub.blobs[value["oid"]]
                elif line["key"] == "deletedFile":
                    del there[value["path"]]
            self.say(
                {
                    "success": True,
                    "commitOid": "1" * 40,
                    "commitUrl": f"{hub.address}/{repository}/commit/{'1' * 40}",
                }
            )

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def say(self, answer: Any, status: int = 200) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _split(rest: str) -> tuple[str, str, str]:
    owner, name, what = (*rest.partition("?")[0].split("/", 2), "")[:3]
    return f"{owner}/{name}", "", what
