"""The files beside the weights that a model is asked and written with, and what they decide.

They fall into kinds. What a checkpoint lacks of a kind another directory may supply, whole: half a
tokenizer of one and half of another would be neither's. Of what they say, that which decides
answers is flattened to keys and values: two checkpoints whose keys and values are equal are asked
in the same way, whatever files hold them and whoever wrote them.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from soup.checkpoints.configs import meaning
from soup.checkpoints.files import VOLATILE_CONFIG, companions, template_of
from soup.checkpoints.json_text import parse, read_object, shallow
from soup.checkpoints.safe import BESIDE, read_bounded
from soup.errors import CheckpointError

KINDS: Mapping[str, tuple[str, ...]] = {
    "processor": (
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
        "image_processor_config.json",
    ),
    "chat template": ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*"),
    "generation settings": ("generation_config.json",),
    "tokenizer": (
        "tokenizer*.json",
        "tokenizer*.model",
        "*.model",
        "*.tiktoken",
        "*.spm",
        "vocab*",
        "merges.txt",
        "added_tokens.json",
        "special_tokens_map.json",
        "tekken*.json",
    ),
    "code": ("*.py",),
}
"""How files of each kind are called, relative to the directory."""

VOCABULARIES = ("tokenizer.json", "*.model", "*.tiktoken", "*.spm", "vocab*", "tekken*.json")
"""Any of these makes a tokenizer of tokenizer files."""

PROCESSOR_PARTS: Mapping[str, str] = {
    "preprocessor_config.json": "image_processor.",
    "image_processor_config.json": "image_processor.",
    "video_preprocessor_config.json": "video_processor.",
}
"""What ``processor_config.json`` holds under a name where newer versions wrote it."""

VOLATILE = VOLATILE_CONFIG | {
    "processor_class",
    "_processor_class",
    "tokenizer_file",
    "special_tokens_map_file",
    "_from_model_config",
    "chat_template",  # compared by itself, wherever it stands
    "auto_map",  # the code itself is a file
    "backend",
    "is_local",
    "local_files_only",
}
"""Keys, at any depth, that say who wrote a file, and where; and what is compared elsewhere."""

TOKENS = frozenset({"added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"})
"""Keys of tokenizer_config.json that repeat what a tokenizer.json beside it says."""

ALWAYS_COUNT = ("model_type", "architectures")
"""Keys of config.json that ``configs`` leaves to others, and that decide how a model is built."""


@dataclass(frozen=True)
class Setting:
    """One thing that decides answers: the file that says it, and its value as short text."""

    file: str
    value: str


@dataclass(frozen=True, eq=False)
class Companions:
    """Files beside the weights, gathered from one directory or several.

    Attributes:
        files: by name relative to the model's directory: the file that it is, or its content where
            that is changed on the way.
        architecture: hash of what decides how a model is built; equal ones can share one model.
    """

    files: Mapping[str, Path | bytes] = field(repr=False)
    _seen: dict[str, tuple[int, int, int, str]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """What decides answers besides the weights, by key; see ``shown_key``."""
        found: dict[str, Setting] = {}
        for name in sorted(self.files):
            kind = kind_of(name)
            if name == "config.json":
                found |= _config(self._content(name))
            elif kind == "processor":
                prefix = f"processor/{PROCESSOR_PARTS.get(name, '')}"
                _add(found, name, self._content(name), prefix)
            elif kind == "generation settings":
                _add(found, name, self._content(name), "generation/")
            elif kind == "tokenizer" and self._counts(name):
                alone = "tokenizer.json" not in self.files
                _add_tokenizer(found, name, self._content(name), alone)
            elif kind == "code" or ("/" in name and kind == "chat template"):
                found[name] = Setting(name, short_digest(self._content(name)))
        template = self.template
        if template is not None:
            found["chat template"] = Setting(template[0], template[1])
        return found

    @property
    def template(self) -> tuple[str, str] | None:
        """The chat template, and the file that it stands in; None where there is none."""
        return template_of(self.read)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ``settings``: of what decides a model's answers besides its weights."""
        return _hash({key: setting.value for key, setting in self.settings.items()})

    @cached_property
    def architecture(self) -> str:
        """SHA-256 of config.json and code alone."""
        return _hash(
            {
                key: setting.value
                for key, setting in self.settings.items()
                if setting.file == "config.json" or kind_of(setting.file) == "code"
            }
        )

    @cached_property
    def files_digest(self) -> str:
        """SHA-256 of every name and byte; licence and documents, too."""
        lines = [f"{name} {hashlib.sha256(self._content(name)).hexdigest()}" for name in self.files]
        # The bytes of names as they are: they need not be text.
        return hashlib.sha256(os.fsencode("\n".join(sorted(lines)))).hexdigest()

    def read(self, name: str) -> bytes | None:
        """The content of one file; None where there is none of that name."""
        return self._content(name) if name in self.files else None

    def has(self, kind: str) -> bool:
        """Whether there is anything of a kind (of a tokenizer: more than its settings)."""
        if kind == "chat template":
            return self.template is not None
        patterns = VOCABULARIES if kind == "tokenizer" else KINDS[kind]
        return any(_matches(name, patterns) for name in self.files)

    @property
    def vocabulary(self) -> Mapping[str, str]:
        """SHA-256 of each file that holds a tokenizer's tokens, by name."""
        named = [name for name in self.files if _matches(name, VOCABULARIES)]
        return {name: hashlib.sha256(self._content(name)).hexdigest() for name in named}

    def any_of(self, kind: str) -> bool:
        """Whether there is any file of a kind."""
        return any(kind_of(name) == kind for name in self.files)

    def of_kind(self, kind: str) -> Mapping[str, str]:
        """The settings of one kind, by key."""
        return {
            key: setting.value
            for key, setting in self.settings.items()
            if (key == "chat template") == (kind == "chat template")
            and (key == "chat template" or kind_of(setting.file) == kind)
        }

    def write(self, directory: Path) -> None:
        """Copy them into a directory that is there."""
        for name in self.files:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(self._content(name))

    def require_unchanged(self) -> None:
        """Raises CheckpointError where a file is no longer what it was when it was first read."""
        for name, path in self.files.items():
            if isinstance(path, Path) and name in self._seen:
                _require_same(path, self._seen[name])

    def holds(self, others: "Companions") -> bool:
        """Whether all others are among these, to the byte."""
        return all(self.read(name) == others.read(name) for name in others.files)

    def stands_in(self, directory: Path) -> bool:
        """Whether they are that directory's own, as they lie there."""
        own = {relative.as_posix(): directory / relative for relative in companions(directory)}
        config = directory / "config.json"
        return own == dict(self.files) and self.read("config.json") == read_bounded(config, BESIDE)

    def _counts(self, name: str) -> bool:
        """Of several forms of one tokenizer, the one that is read."""
        if name in ("tokenizer.json", "tokenizer_config.json"):
            return True
        if name == "special_tokens_map.json":
            return "tokenizer_config.json" not in self.files
        return "tokenizer.json" not in self.files

    def _content(self, name: str) -> bytes:
        source = self.files[name]
        if isinstance(source, bytes):
            return source
        try:
            before = source.stat()
            content = read_bounded(source, BESIDE)
        except OSError as error:
            raise CheckpointError(f"{source}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise CheckpointError(f"{source}: cannot be copied into a soup: {error}") from error
        digest = hashlib.sha256(content).hexdigest()
        seen = (before.st_size, before.st_mtime_ns, before.st_ctime_ns, digest)
        if self._seen.setdefault(name, seen)[3] != digest:
            raise CheckpointError(_changed(source))
        return content


def gather(
    home: Path,
    supplied: Mapping[str, Path] | None = None,
    rewritten: Mapping[str, Any] | None = None,
) -> Companions:
    """The files of a directory, with those of some kinds from other directories instead.

    Args:
        home: where all that is not supplied comes from.
        supplied: by kind, the directory that has its files.
        rewritten: keys of config.json that have another value (None: that go), see ``Checkpoint``.

    Raises:
        CheckpointError: a directory cannot be read.
    """
    supplied = supplied or {}
    files: dict[str, Path | bytes] = {
        relative.as_posix(): home / relative
        for relative in companions(home)
        if kind_of(relative.as_posix()) not in supplied
    }
    for kind, place in supplied.items():
        files |= _of_kind(kind, place)
    if rewritten:
        config = {**read_object(home / "config.json"), **rewritten}
        config = {key: value for key, value in config.items() if value is not None}
        files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    return Companions(files)


def _of_kind(kind: str, place: Path) -> dict[str, Path | bytes]:
    found: dict[str, Path | bytes] = {
        relative.as_posix(): place / relative
        for relative in companions(place)
        if kind_of(relative.as_posix()) == kind
    }
    if kind == "chat template" and not found and (template := gather(place).template):
        # It stands in a tokenizer's settings; JSON may hold what is no text (half a character).
        found["chat_template.jinja"] = template[1].encode(errors="replace")
    return found


BROUGHT = ("tokenizer", "processor", "chat template")
"""Kinds of which an adapter's own, where its directory has any, count before its base's."""


def brought(adapter: Path) -> dict[str, Path]:
    """Of which kinds a LoRA adapter's directory has files of its own: its path, by kind."""
    own = gather(adapter)
    return {kind: adapter for kind in BROUGHT if own.has(kind)}


def of_adapter(adapter: Path) -> Companions:
    """The files that an adapter brings: all of the kinds of ``brought``, and no others."""
    files: dict[str, Path | bytes] = {}
    for kind, place in brought(adapter).items():
        files |= _of_kind(kind, place)
    return Companions(files)


def kind_of(name: str) -> str | None:
    """The kind of a file, by its name relative to the model's directory."""
    return next((kind for kind, patterns in KINDS.items() if _matches(name, patterns)), None)


def shown_key(key: str) -> str:
    """A key of ``Companions.settings`` for people: without what keeps kinds apart."""
    return key.rpartition("/")[2]


def short_digest(content: bytes) -> str:
    """What stands for a value that is too long to be shown."""
    return f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _add(found: dict[str, Setting], file: str, content: bytes, prefix: str) -> None:
    """Flatten a JSON file into keys; one that is none counts as a whole."""
    try:
        value = shallow(parse(content))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        found[f"{file}"] = Setting(file, short_digest(content))
        return
    for key, text in flat(value, prefix):
        if key in found and found[key].value != text:
            key = f"{file}: {key}"  # said twice, and not the same: which one counts is not ours
        found[key] = Setting(file, text)


def _config(content: bytes) -> dict[str, Setting]:
    """What computes, by its name in transformers 5, whoever wrote it."""
    try:
        config = shallow(parse(content))
        found = meaning(config) | {key: config.get(key) for key in ALWAYS_COUNT}
    except (ValueError, TypeError, AttributeError):
        return {"config.json": Setting("config.json", short_digest(content))}
    return {f"config/{key}": Setting("config.json", _text(value)) for key, value in found.items()}


def _add_tokenizer(found: dict[str, Setting], file: str, content: bytes, alone: bool) -> None:
    if file == "tokenizer.json":
        for key, text in _fast_tokenizer(content):
            found[key] = Setting(file, text)
    elif file.endswith(".json"):
        prefix = f"tokenizer/{Path(file).stem}/"
        _add(found, file, content, prefix)
        if not alone:
            repeated = [k for k in found if k.removeprefix(prefix).split(".")[0] in TOKENS]
            for key in repeated:
                del found[key]
    else:
        found[file] = Setting(file, short_digest(content))


@lru_cache(maxsize=8)  # members of a pool have the same bytes, and it is megabytes to parse
def _fast_tokenizer(content: bytes) -> tuple[tuple[str, str], ...]:
    """What a tokenizer.json does to a text, part by part."""
    try:
        parts = shallow(parse(content))
        model = parts.pop("model", None) or {}
        merges = [
            " ".join(m) if isinstance(m, list) else m for m in model.pop("merges", None) or ()
        ]
        vocabulary = model.pop("vocab", None)
        rows = sorted(vocabulary.items()) if isinstance(vocabulary, dict) else vocabulary
        long = {"vocabulary": rows, "merges": merges, "added_tokens": parts.pop("added_tokens", [])}
        named = {name: short_digest(json.dumps(value).encode()) for name, value in long.items()}
        for name in ("version", "truncation", "padding"):  # the caller's to say
            parts.pop(name, None)
        named |= {name: _text(value) for name, value in (parts | model).items()}
    except (ValueError, TypeError, AttributeError):
        return (("tokenizer.json", short_digest(content)),)
    return tuple((f"tokenizer/json/{name}", value) for name, value in named.items())


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys with dots, and their values as JSON, without what is volatile.

    A key that is null is one that is not there (versions differ in what they write), but for a
    token's: there is none then, whatever the class's default.
    """
    for key, inner in value.items():
        if key in VOLATILE or (inner is None and not key.endswith("_token")):
            continue
        if isinstance(inner, dict) and {"content", "single_word"} <= inner.keys():
            inner = inner["content"]  # a token, which some versions write with its properties
        if isinstance(inner, dict):
            yield from flat(inner, f"{prefix}{key}.")
        else:
            if key == "tokenizer_class":
                inner = str(inner).removesuffix("Fast")  # which versions write or leave out
            yield prefix + key, _text(inner)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _require_same(path: Path, seen: tuple[int, int, int, str]) -> None:
    try:
        now = path.stat()
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == seen[:3]:
            return
        same = hashlib.sha256(read_bounded(path, BESIDE)).hexdigest() == seen[3]
    except (OSError, ValueError):
        same = False
    if not same:
        raise CheckpointError(_changed(path))


def _changed(path: Path) -> str:
    return (
        f"{path}: was changed while it was used: scores so far are of what it was before; run the "
        "command again when it stays as it is"
    )
