"""Repositories of the hub that is a fake: what lies there, and what comes of what is sent.

As much of its HTTP interface as a push by huggingface_hub uses; what was sent can be read.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

MAIN = "main"


@dataclass
class Model:
    """A repository of the hub.

    Attributes:
        commits: by commit, the directory with its files.
        refs: by branch, the commit.
        gated: whether its terms must be accepted.
        private: whether only its token's holder sees it.
        titles: of what was sent, in order.
    """

    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    titles: list[str] = field(default_factory=list)

    def files(self, revision: str = MAIN) -> dict[str, bytes]:
        """By name, the content."""
        root = self.commits[self.refs.get(revision, revision)]
        found = [path for path in sorted(root.rglob("*")) if path.is_file()]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}

    def put(self, files: Mapping[str, bytes], root: Path, branch: str = MAIN) -> str:
        """A commit on a branch; its files lie below ``root`` from now on."""
        text = json.dumps([len(self.commits), *sorted(files)])
        commit = hashlib.sha1(text.encode()).hexdigest()
        for name, content in files.items():
            file = root / commit / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (root / commit).mkdir(parents=True, exist_ok=True)
        self.commits[commit], self.refs[branch] = root / commit, commit
        return commit


@dataclass
class Hub:
    """All repositories.

    Attributes:
        models: by name.
        root: where what is sent is put.
        address: of its interface.
        blobs: large files that were sent, by their SHA-256.
        part: bytes of the parts in which large files are to be sent; 0: in one.
        parts: what has arrived of a large file, by its SHA-256 and the part's number.
        refused: why a large file is not taken; empty: it is.
        lost: whether large files are refused where they arrive.
        role: what the token may do.
    """

    models: dict[str, Model] = field(default_factory=dict)
    root: Path = Path()
    address: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    part: int = 0
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    refused: str = ""
    lost: bool = False
    role: str = "write"

    def who(self) -> Any:
        """Whose token it is."""
        return {"type": "user", "name": "me", "auth": {"accessToken": {"role": self.role}}}

    def blob(self, path: str, content: bytes) -> None:
        """A large file, or a part of one, has arrived."""
        _, _, oid, *number = path.split("/")
        if number:
            self.parts[oid, int(number[0])] = content
        else:
            self.blobs[oid] = content

    def posted(self, path: str, content: bytes) -> tuple[Any, int]:
        """The answer to a POST, as JSON, and its status."""
        if path == "/api/repos/create":
            return self._create(json.loads(content))
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(content)["objects"]), 200
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}, 200
        if path.startswith("/whole/"):
            oid = path.removeprefix("/whole/")
            count = len(json.loads(content)["parts"])
            self.blobs[oid] = b"".join(self.parts.pop((oid, k + 1)) for k in range(count))
            return {}, 200
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path)
        if match is None:
            return {"error": path}, 404
        repository, what, branch = match[1], match[2], unquote(match[3])
        if what == "branch":
            model = self.models[repository]
            if branch in model.refs:
                return {"error": "exists"}, 409
            model.refs[branch] = model.refs[MAIN]
            return {}, 200
        if what == "preupload":
            there = self.models[repository].files(branch)
            asked = [one["path"] for one in json.loads(content)["files"]]
            return {"files": [_way(name, there.get(name)) for name in asked]}, 200
        lines = [json.loads(line) for line in content.splitlines()]
        return self._commit(repository, branch, lines), 200

    def _create(self, asked: Mapping[str, Any]) -> tuple[Any, int]:
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.address}/{name}"
        if name in self.models:
            return {"url": url, "error": "exists"}, 409
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.models[name] = Model(private=private)
        self.models[name].put({}, self.root / name)
        return {"url": url}, 200

    def _batch(self, objects: list[dict[str, Any]]) -> Any:
        def upload(one: dict[str, Any]) -> dict[str, Any]:
            oid, size = one["oid"], one["size"]
            if self.refused:
                return {**one, "error": {"code": 403, "message": self.refused}}
            if oid in self.blobs:
                return one
            way: dict[str, Any] = {"href": f"{self.address}/blob/{oid}?signature=hidden"}
            if self.part and size > self.part:
                numbers = range(1, -(-size // self.part) + 1)
                way = {
                    "href": f"{self.address}/whole/{oid}",
                    "header": {
                        "chunk_size": str(self.part),
                        **{str(k): f"{self.address}/blob/{oid}/{k}" for k in numbers},
                    },
                }
            return {**one, "actions": {"upload": way}}

        return {"transfer": "basic", "objects": [upload(one) for one in objects]}

    def _commit(self, repository: str, branch: str, lines: list[dict[str, Any]]) -> Any:
        model = self.models[repository]
        files = model.files(branch)
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "header":
                model.titles.append(value["summary"])
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        commit = model.put(files, self.root / repository, branch)
        url = f"{self.address}/{repository}/commit/{commit}"
        return {"success": True, "commitOid": commit, "commitUrl": url}


def _way(name: str, there: bytes | None) -> dict[str, Any]:
    """How a file is to be sent, and what is there by its name."""
    mode = "lfs" if name.endswith(".safetensors") else "regular"
    found: dict[str, Any] = {"path": name, "shouldIgnore": False, "uploadMode": mode}
    if there is not None:
        blob = b"blob %d\0%b" % (len(there), there)
        large = mode == "lfs"
        found["oid"] = (
            hashlib.sha256(there).hexdigest() if large else hashlib.sha1(blob).hexdigest()
        )
    return found
