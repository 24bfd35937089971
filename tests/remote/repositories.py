"""Repositories of the hub that is a fake: what lies there, and what comes of what is sent.

As much of its HTTP interface as a push by huggingface_hub uses; what was sent can be read.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

    def put(self, files: Mapping[str, bytes], root: Path) -> str:
        """A commit on the branch; its files lie below ``root`` from now on."""
        text = json.dumps([len(self.commits), *sorted(files)])
        commit = hashlib.sha1(text.encode()).hexdigest()
        for name, content in files.items():
            file = root / commit / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        self.commits[commit], self.refs[MAIN] = root / commit, commit
        return commit


@dataclass
class Hub:
    """All repositories.

    Attributes:
        models: by name.
        root: where what is sent is put.
        address: of its interface.
        blobs: large files that were sent, by their SHA-256.
    """

    models: dict[str, Model] = field(default_factory=dict)
    root: Path = Path()
    address: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)

    def posted(self, path: str, content: bytes) -> tuple[Any, int]:
        """The answer to a POST, as JSON, and its status."""
        if path == "/api/repos/create":
            return self._create(json.loads(content))
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(content)["objects"]), 200
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}, 200
        repository, _, what = (
            path.removeprefix("/api/models/").partition(f"/{MAIN}")[0].rpartition("/")
        )
        if what == "preupload":
            return {"files": [_way(one["path"]) for one in json.loads(content)["files"]]}, 200
        if what == "commit":
            return self._commit(
                repository, [json.loads(line) for line in content.splitlines()]
            ), 200
        return {"error": path}, 404

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
            return {**one, "actions": {"upload": {"href": f"{self.address}/blob/{one['oid']}"}}}

        return {"transfer": "basic", "objects": [upload(one) for one in objects]}

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> Any:
        model = self.models[repository]
        files = model.files()
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "header":
                model.titles.append(value["summary"])
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        commit = model.put(files, self.root / repository)
        url = f"{self.address}/{repository}/commit/{commit}"
        return {"success": True, "commitOid": commit, "commitUrl": url}


def _way(name: str) -> dict[str, Any]:
    """How a file is to be sent."""
    mode = "lfs" if name.endswith(".safetensors") else "regular"
    return {"path": name, "shouldIgnore": False, "uploadMode": mode}
