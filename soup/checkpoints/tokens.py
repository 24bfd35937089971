"""What each row of an embedding means: a tokenizer's tokens by their ids, whatever files say so.

One vocabulary may be in ``tokenizer.json``, or in ``vocab.json`` and ``added_tokens.json``, or in a
SentencePiece model, or in tiktoken's or Mistral's (``tekken.json``) lists of byte strings, or in
BERT's ``vocab.txt``; added tokens also in ``tokenizer_config.json``. Here all of them become the
same thing.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from soup.checkpoints.json_text import parse
from soup.checkpoints.safe import read_bounded
from soup.errors import CheckpointError

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "added_tokens.json",
    "tokenizer_config.json",
)
PATTERNS = ("*.model", "*.spm", "*.tiktoken", "vocab*.txt", "tekken*.json")
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
"""First rows of XLM-RoBERTa's and its kin's; the pieces of ``sentencepiece.bpe.model`` from the
fourth on have the rows behind them."""

LARGEST = 200_000_000  # bytes of a file that is looked into; the largest known have 40 million

Tokens = Mapping[str, int]
"""Token to embedding row. Byte-level tokens are spelled as in ``vocab.json``, a character a byte.
"""


@dataclass(frozen=True)
class Difference:
    """How two tokenizers differ.

    Attributes:
        clashes: token, its row in the one, and its row in the other; or, where that one does not
            have it, the token that it has in the row.
        missing: tokens that only the first has, by row; the other has nothing else in that row.
        extra: tokens that only the second has.
    """

    clashes: tuple[tuple[str, int, int | str], ...] = ()
    missing: tuple[tuple[int, str], ...] = ()
    extra: tuple[tuple[int, str], ...] = ()


def compare(ours: Path, theirs: Path) -> Difference | None:
    """How the tokenizers beside two models differ; None where one cannot be read, or is not there.

    Raises:
        CheckpointError: a token's id is no row.
    """
    if _same_files(ours, theirs):
        return Difference()
    one, other = tokens_of(ours), tokens_of(theirs)
    return None if one is None or other is None else difference(one, other)


def difference(one: Tokens, other: Tokens) -> Difference:
    """How two tokenizers differ: ids that both use must mean the same."""
    rows, others = _by_row(one), _by_row(other)
    clashes: list[tuple[str, int, int | str]] = []
    for token, row in one.items():
        if token in other and other[token] != row:
            clashes.append((token, row, other[token]))
        elif token not in other and row in others and not rows[row] & others[row]:
            clashes.append((token, row, min(others[row])))
    clashing = {row for _, row, _ in clashes}
    return Difference(
        tuple(sorted(clashes, key=lambda clash: (clash[1], clash[0]))),
        *(
            tuple(
                sorted(
                    (row, token)
                    for token, row in having.items()
                    if token not in lacking and row not in clashing
                )
            )
            for having, lacking in ((one, other), (other, one))
        ),
    )


def _by_row(tokens: Tokens) -> dict[int, set[str]]:
    rows: dict[int, set[str]] = {}
    for token, row in tokens.items():
        rows.setdefault(row, set()).add(token)
    return rows


def tokens_of(directory: Path) -> Tokens | None:
    """A tokenizer's tokens; None where there is none, or none that is known how to read.

    Raises:
        CheckpointError: a token's id is no row.
    """
    try:
        state = tuple(
            (str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in _files(directory)
        )
        return _read(directory, state)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError):
        return None  # not a tokenizer we can read; transformers will say so when it loads it


@lru_cache(maxsize=4)
def _read(directory: Path, state: tuple[tuple[str, int, int], ...]) -> Tokens | None:
    found: dict[str, int] = {}
    fast = _json(directory / "tokenizer.json")
    if fast is not None:
        _add(found, directory / "tokenizer.json", _vocabulary(fast["model"].get("vocab") or {}))
        added = ((token["content"], token["id"]) for token in fast.get("added_tokens") or ())
        _add(found, directory / "tokenizer.json", added)
        if found:
            # Transformers adds what only the settings name, behind all others.
            rows = set(found.values())
            for token, row in _decoder(directory):
                if token not in found and row not in rows:
                    _add(found, directory / "tokenizer_config.json", [(token, row)])
            return found
    files = [file for pattern in PATTERNS for file in sorted(directory.glob(pattern))]
    files.sort(key=lambda file: file.name != "tokenizer.model")
    if (vocab := _json(directory / "vocab.json")) is not None:
        _add(found, directory / "vocab.json", vocab.items())
    elif files:
        same = [file for file in files if file.suffix == files[0].suffix]
        for file in same if files[0].suffix == ".tiktoken" else files[:1]:
            _add(found, file, ((token, row) for row, token in _listed(file)))
    if not found:
        return None
    if (added_tokens := _json(directory / "added_tokens.json")) is not None:
        _add(found, directory / "added_tokens.json", added_tokens.items())
    _add(found, directory / "tokenizer_config.json", _decoder(directory))
    return found


def _decoder(directory: Path) -> list[tuple[str, int]]:
    """Added tokens that a tokenizer's settings name."""
    settings = _json(directory / "tokenizer_config.json") or {}
    decoder = settings.get("added_tokens_decoder") or {}
    return [(token["content"], int(row)) for row, token in decoder.items()]


def _listed(file: Path) -> Iterator[tuple[int, str]]:
    """Rows and tokens of a file that is no JSON object of them."""
    content = _content(file)
    if file.suffix == ".txt":
        lines = content.decode().removesuffix("\n").split("\n")
        return enumerate(line.removesuffix("\r") for line in lines)
    if file.suffix == ".json":
        return _tekken(parse(content))
    if file.suffix == ".tiktoken" or _is_ranks(content):
        return _ranks(content)
    if file.name != "sentencepiece.bpe.model":
        return enumerate(_pieces(content))
    return enumerate([*FAIRSEQ, *list(_pieces(content))[3:]])


def _tekken(settings: Any) -> Iterator[tuple[int, str]]:
    """Mistral's: special tokens come first, byte strings by their ranks behind them.

    https://github.com/mistralai/mistral-common, ``tokens/tokenizers/tekken.py``
    """
    config, letters = settings["config"], _letters()
    special = config["default_num_special_tokens"]
    for token in settings.get("special_tokens") or ():
        yield token["rank"], token["token_str"]
    for token in settings["vocab"][: config["default_vocab_size"] - special]:
        text = base64.b64decode(token["token_bytes"])
        yield special + token["rank"], "".join(letters[byte] for byte in text)


def _add(found: dict[str, int], file: Path, entries: Iterable[tuple[str, Any]]) -> None:
    for token, row in entries:
        if type(row) is not int or row < 0:
            raise CheckpointError(
                f"{file}: token {str(token)[:40]!r} has the id {str(row)[:40]}, expected a whole "
                "number from 0 on"
            )
        found[str(token)] = row


def _vocabulary(vocab: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(vocab, list):  # Unigram: [[piece, score], ...] by row
        return ((entry[0], row) for row, entry in enumerate(vocab))
    return vocab.items()  # type: ignore[no-any-return]


def _pieces(content: bytes) -> Iterator[str]:
    """The pieces of a SentencePiece model, by row: field 1 of the message, whose field 1 is text.

    https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
    """
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            yield next(text for field, text in _fields(value) if field == 1).decode()  # type: ignore[union-attr]


def _fields(content: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Numbers and values of a protocol buffer's fields.

    https://protobuf.dev/programming-guides/encoding/

    Raises:
        ValueError, IndexError: it is none.
    """
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(content, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + size > len(content):
            raise ValueError("ends inside a field")
        yield number, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (content[at] & 127) << shift
        at += 1
        if content[at - 1] < 128:
            return value, at
    raise ValueError("a number without end")


def _is_ranks(content: bytes) -> bool:
    """Whether a file is tiktoken's: a line has a byte string in base64 and its rank."""
    first = content.split(b"\n", 1)[0].split()
    return len(first) == 2 and first[1].isdigit()


def _ranks(content: bytes) -> Iterator[tuple[int, str]]:
    letters = _letters()
    for line in content.splitlines():
        if line.strip():
            text, rank = line.split()
            try:
                token = base64.b64decode(text, validate=True)
            except binascii.Error as error:
                raise ValueError(str(error)) from error
            yield int(rank), "".join(letters[byte] for byte in token)


@lru_cache(maxsize=1)
def _letters() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies, as GPT-2 chose them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    found = {byte: chr(byte) for byte in shown}
    for byte in range(256):
        found.setdefault(byte, chr(256 + len(found) - len(shown)))
    return [found[byte] for byte in range(256)]


def _json(file: Path) -> Any:
    return parse(_content(file)) if file.is_file() else None


def _content(file: Path) -> bytes:
    return read_bounded(file, LARGEST)


def _files(directory: Path) -> list[Path]:
    named = [directory / name for name in FILES]
    others = [file for pattern in PATTERNS for file in sorted(directory.glob(pattern))]
    return [file for file in dict.fromkeys((*named, *others)) if file.is_file()]


def _same_files(one: Path, other: Path) -> bool:
    """Whether two directories have the same tokenizer to the byte, which costs no parsing."""
    files, others = _files(one), _files(other)
    if not files or [file.name for file in files] != [file.name for file in others]:
        return False
    try:
        return all(
            a.samefile(b) or (a.stat().st_size == b.stat().st_size and _content(a) == _content(b))
            for a, b in zip(files, others, strict=True)
        )
    except (OSError, ValueError):
        return False
