"""soup/checkpoints/tokens.py: two tokenizers mean the same, whatever files hold them."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from soup.checkpoints import tokens
from soup.checkpoints.pool import inspect
from soup.errors import CheckpointError
from tests.conftest import make_checkpoint, random_tensors

WORDS = ["<unk>", "a", "b", "Ġc", "é"]
ADDED = {"<image>": 5, "<end>": 6}


def fast(words: list[str], added: Mapping[str, Any] = ADDED, unigram: bool = False) -> bytes:
    """A tokenizer.json."""
    vocab: Any = {word: row for row, word in enumerate(words)}
    if unigram:
        vocab = [[word, 0.0] for word in words]
    entries = [{"id": row, "content": word} for word, row in added.items()]
    return json.dumps({"model": {"vocab": vocab}, "added_tokens": entries}).encode()


def decoder(added: Mapping[str, Any] = ADDED) -> bytes:
    """A tokenizer_config.json."""
    entries = {str(row): {"content": word, "special": True} for word, row in added.items()}
    return json.dumps({"added_tokens_decoder": entries}).encode()


def sentencepiece(words: list[str]) -> bytes:
    """A tokenizer.model: its field 1 is a piece (text and score); and a setting."""
    pieces = b""
    for word in words:
        text = word.encode()
        piece = b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x80\xbf"
        pieces += b"\x0a" + bytes([len(piece)]) + piece
    return pieces + b"\x12\x02\x08\x01"


def tiktoken(words: list[bytes]) -> bytes:
    """A list of byte strings and their ranks."""
    lines = [base64.b64encode(word) + b" %d" % rank for rank, word in enumerate(words)]
    return b"\n".join(lines) + b"\n"


FORMS: dict[str, dict[str, bytes]] = {
    "fast": {"tokenizer.json": fast(WORDS)},
    "unigram": {"tokenizer.json": fast(WORDS, unigram=True)},
    "slow": {
        "vocab.json": json.dumps({word: row for row, word in enumerate(WORDS)}).encode(),
        "merges.txt": b"#version: 0.2\n",
        "tokenizer_config.json": decoder(),
    },
    "pieces": {
        "tokenizer.model": sentencepiece(WORDS),
        "added_tokens.json": json.dumps(ADDED).encode(),
    },
    "both": {"tokenizer.model": b"not read", "tokenizer.json": fast(WORDS)},
}


def member(path: Path, files: Mapping[str, bytes], seed: int = 0) -> Path:
    """A checkpoint with these tokenizer files."""
    make_checkpoint(path, random_tensors(seed))
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("one", FORMS)
@pytest.mark.parametrize("other", FORMS)
def test_one_vocabulary_in_two_forms_is_equal(tmp_path: Path, one: str, other: str) -> None:
    """No problem and no warning."""
    paths = [member(tmp_path / str(k), FORMS[form], k) for k, form in enumerate((one, other))]
    report = inspect(paths)
    assert report.problems == report.warnings == ()
    assert tokens.compare(*paths) == tokens.Difference()


def test_byte_strings_are_spelled_as_in_a_byte_level_vocabulary(tmp_path: Path) -> None:
    """Qwen's and Llama's lists of ranks, against vocab.json: a space is Ġ there."""
    ranks = tiktoken([b"a", b" b", "é".encode(), b"\n"])
    vocab = json.dumps({"a": 0, "Ġb": 1, "Ã©": 2, "Ċ": 3}).encode()
    paths = [
        member(tmp_path / "a", {"qwen.tiktoken": ranks}),
        member(tmp_path / "b", {"tokenizer.model": ranks}),
        member(tmp_path / "c", {"vocab.json": vocab}),
    ]
    assert not inspect(paths).problems
    assert tokens.tokens_of(paths[0]) == {"a": 0, "Ġb": 1, "Ã©": 2, "Ċ": 3}


def test_a_real_sentencepiece_model_is_read(tmp_path: Path) -> None:
    """Its pieces are those that the library reads."""
    library: Any = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("the quick brown fox sees lazy dogs\n" * 50)
    library.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=40,
        model_type="bpe",
        minloglevel=2,
    )
    read = library.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    expected = {read.id_to_piece(row): row for row in range(read.get_piece_size())}
    assert tokens.tokens_of(tmp_path) == expected


def test_a_token_that_only_one_has_is_a_warning(tmp_path: Path) -> None:
    """In a row that means nothing to the other; whichever is the reference."""
    few = member(tmp_path / "few", {"tokenizer.json": fast(WORDS)})
    more = member(tmp_path / "more", {"tokenizer.json": fast(WORDS, {**ADDED, "<extra>": 9})}, 1)
    for paths, first in (([few, more], "few"), ([more, few], "more")):
        report = inspect(paths)
        assert not report.problems
        (warning,) = report.warnings
        assert warning.startswith("more: its tokenizer has 1 token that few's has not ('<extra>'")
        assert warning.endswith(f"gets {first}'s tokenizer")


@pytest.mark.parametrize(
    ("added", "found"),
    [
        ({"<image>": 5, "<other>": 6}, "'<end>' in row 6, found '<other>' there"),
        ({"<image>": 6, "<end>": 5}, "'<image>' in row 5, '<end>' in row 6, found row 6, row 5"),
    ],
)
def test_a_row_that_means_two_things_is_an_error(
    tmp_path: Path, added: dict[str, int], found: str
) -> None:
    """With up to three examples, in one line."""
    one = member(tmp_path / "one", FORMS["pieces"])
    other = member(tmp_path / "other", {"tokenizer.json": fast(WORDS, added)}, 1)
    (problem,) = inspect([one, other]).problems
    assert found in str(problem)
    clash = member(tmp_path / "clash", {"tokenizer.json": fast(WORDS[::-1])}, 2)
    (problem,) = inspect([one, clash]).problems
    assert str(problem).count("row") == 7  # three examples, twice, and the hint
    assert "(4 tokens with another meaning)" in str(problem)


@pytest.mark.parametrize("row", [1.5, -1, "7", None])
def test_an_id_that_is_no_row_is_an_error(tmp_path: Path, row: Any) -> None:
    """The file, the token and the id are named."""
    bad = member(tmp_path / "bad", {"tokenizer.json": fast(WORDS, {"<image>": row})})
    good = member(tmp_path / "good", FORMS["fast"], 1)
    with pytest.raises(CheckpointError, match="tokenizer.json: token '<image>' has the id"):
        inspect([good, bad])


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": b"{"},
        {"tokenizer.json": b'{"model": []}'},
        {"tokenizer.model": b"\xff" * 40},
        {"tokenizer.model": b"\x0a\xff\x01"},
        {"vocab.json": b"[]"},
    ],
)
def test_what_is_no_tokenizer_is_not_compared(tmp_path: Path, files: dict[str, bytes]) -> None:
    """It is for transformers to say what is wrong with it."""
    assert tokens.tokens_of(member(tmp_path / "odd", files)) is None
