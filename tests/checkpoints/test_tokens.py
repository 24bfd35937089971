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


def tekken(words: list[bytes]) -> bytes:
    """Mistral's tekken.json: two special tokens before all others."""
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(word).decode()}
        for rank, word in enumerate(words)
    ]
    special = [{"rank": 0, "token_str": "<s>"}, {"rank": 1, "token_str": "</s>"}]
    config = {"default_vocab_size": 2 + len(words), "default_num_special_tokens": 2}
    return json.dumps({"config": config, "vocab": vocab, "special_tokens": special}).encode()


SWAPPED = ["<unk>", "b", "a", "Ġc", "é"]
PAIRS: dict[str, tuple[bytes, bytes]] = {
    "spiece.model": (sentencepiece(WORDS), sentencepiece(SWAPPED)),
    "tokenizer.spm": (sentencepiece(WORDS), sentencepiece(SWAPPED)),
    "vocab.txt": (b"[PAD]\na\nb\n", b"[PAD]\nb\na\n"),
    "tekken.json": (tekken([b"a", b"b"]), tekken([b"b", b"a"])),
}


@pytest.mark.parametrize("name", PAIRS)
def test_vocabularies_of_every_kind_of_file_are_compared(tmp_path: Path, name: str) -> None:
    """Two tokens that changed places are a problem, whatever file says so."""
    ours, theirs = PAIRS[name]
    paths = [
        make_checkpoint(
            tmp_path / str(k), random_tensors(k), files={name: content.decode("latin1")}
        )
        for k, content in enumerate((ours, ours, theirs))
    ]
    for path, content in zip(paths, (ours, ours, theirs), strict=True):
        (path / name).write_bytes(content)
    assert not inspect(paths[:2]).problems
    (problem,) = inspect(paths[1:]).problems
    assert "'a' in row" in str(problem) and "the same embedding row" in str(problem)


def test_pieces_of_fairseq_are_one_row_further_down(tmp_path: Path) -> None:
    """``sentencepiece.bpe.model`` and the tokenizer.json that is made of it are equal."""
    pieces = ["<unk>", "<s>", "</s>", "a", "b"]
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow/sentencepiece.bpe.model").write_bytes(sentencepiece(pieces))
    (tmp_path / "fast").mkdir()
    rows = ["<s>", "<pad>", "</s>", "<unk>", "a", "b"]
    (tmp_path / "fast/tokenizer.json").write_bytes(fast(rows, {}))
    assert tokens.compare(tmp_path / "slow", tmp_path / "fast") == tokens.Difference()


def test_tokens_that_only_the_settings_of_a_fast_tokenizer_name_count(tmp_path: Path) -> None:
    """Transformers adds them behind all others."""
    for name, token in (("a", "<x>"), ("b", "<y>")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_bytes(fast(WORDS))
        (tmp_path / name / "tokenizer_config.json").write_bytes(decoder({**ADDED, token: 7}))
    found = tokens.compare(tmp_path / "a", tmp_path / "b")
    assert found is not None and found.clashes == (("<x>", 7, "<y>"),)


def test_tokenizers_that_cannot_be_read_and_differ_are_told(tmp_path: Path) -> None:
    """What is not compared is never silent; equal files need no word."""
    paths = [
        make_checkpoint(tmp_path / name, random_tensors(k), files={"vocab.own": content})
        for k, (name, content) in enumerate((("a", "1"), ("b", "1"), ("c", "2")))
    ]
    assert not inspect(paths[:2]).warnings
    (warning,) = inspect(paths[1:]).warnings
    assert warning.startswith("c: its tokenizer cannot be compared with b's (vocab.own differs")
