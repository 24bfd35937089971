"""soup/words.py: what comes from a file is made safe and short before anyone sees it."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from soup.errors import CheckpointError, ScoringError
from soup.events import Evaluation, Note, Progress
from soup.words import (
    MESSAGE,
    NAME,
    WORD,
    closest,
    counted,
    did_you_mean,
    folded,
    listed,
    markdown,
    plain,
    sentence,
    shown,
)

ANYTHING = st.text(st.characters())
"""Lone surrogates and control characters, too."""

NASTY = [
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[31mred",
    "a\nerror: fake",
    "a\r\x08\x7fb",
    "\udcff\ud800",
    "\u202egnp.exe\u2066",
    "\u2028\u2029\x85\x9b31m",
    "n" * 100_000,
    "\x1b" * 100_000,
]


def harmless(text: str) -> bool:
    """Whether no character of a text commands a terminal, breaks a line or cannot be encoded."""
    text.encode()
    return all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text)


@pytest.mark.parametrize("text", NASTY)
def test_no_name_commands_a_terminal(text: str) -> None:
    """Escape sequences, line breaks, surrogates and turned directions are spelled; all is short."""
    for made, limit in ((shown(text), NAME), (sentence(text), MESSAGE), (markdown(text), 6 * NAME)):
        assert harmless(made)
        assert len(made) <= limit
    assert harmless(plain(text))


@given(ANYTHING)
def test_whatever_a_name_holds(text: str) -> None:
    """Any text at all; what is harmless and short is left as it is, and nothing is done twice."""
    assert harmless(shown(text))
    assert harmless(sentence(text))
    assert harmless(plain(text, lines=True).replace("\n", ""))
    assert shown(shown(text)) == shown(text)
    assert sentence(sentence(text)) == sentence(text)
    if text.isprintable() and len(text) <= NAME:
        assert shown(text) == text == sentence(text)


def test_a_long_name_shows_both_ends_and_how_long_it_is() -> None:
    """What tells names apart is at either end."""
    made = shown("first" + "x" * 99_990 + "last.", 60)
    assert made.startswith("firstx")
    assert made.endswith("xlast.")
    assert "(100,000 characters)" in made
    assert len(made) == 60


def test_a_message_keeps_its_words_about_a_long_name() -> None:
    """What to do stands behind the name, and is not cut off."""
    made = sentence(f"tensor {'x' * 50_000}: expected one thing, found another; do this")
    assert made.endswith(": expected one thing, found another; do this")
    assert len(made) < WORD + 100


@given(st.text(st.characters(), max_size=200) | st.sampled_from(NASTY))
def test_no_name_is_markup_in_a_page(text: str) -> None:
    """As Markdown reads a cell of a table: one cell, nothing but its own words in it."""
    table = f"| a | b |\n|---|---|\n| {markdown(text, 2000)} | end |\n"
    cells = [
        token
        for token in MarkdownIt("gfm-like", {"linkify": False}).parse(table)
        if token.type == "inline"
    ]
    assert len(cells) == 4
    assert {child.type for child in cells[2].children or ()} <= {"text", "text_special"}
    words = "".join(child.content for child in cells[2].children or ())
    assert words.split() == shown(text, 2000).split()


@pytest.mark.parametrize(
    "text", ["<script>x</script>", "a|b", "[l](javascript:x)", "![i](x)", "`c`", "**b**", "_i_"]
)
def test_markup_is_only_text(text: str) -> None:
    """Tags, cells, links, pictures, code and emphasis."""
    made = markdown(text)
    assert "<" not in made
    assert not re.search(r"(?<!\\)[|\[`*]", made)
    assert markdown("see https://x.org, www.x.org, @you") == (
        "see https\\://x.org, www\\.x.org, \\@you"
    )
    assert markdown("MMBench_DEV_EN") == "MMBench_DEV_EN"  # an underscore inside a word


def test_errors_and_events_are_safe_by_themselves() -> None:
    """Whoever raises or tells one need not think of it."""
    assert str(CheckpointError("a\x1b[31m\nb")) == "a\\x1b[31m\\nb"
    assert str(ScoringError("end:", "    one\n    \x07two")) == "end:\n    one\n    \\x07two"
    assert Note("a\nb").text == "a\\nb"
    assert Progress("a\x1bb", 0, 1, "B").task == "a\\x1bb"
    assert Evaluation(1, 1, label="\x1b", benchmark="\x07", task="a\x1bb").task == "a\\x1bb"
    assert Evaluation(1, 1, label="\x1b", benchmark="\x07").label == "\\x1b"


def test_counts_and_lists_are_words() -> None:
    """Singular and plural; long lists end in a count."""
    assert [counted(n, "tensor") for n in (0, 1, 2, 1500)] == [
        "0 tensors",
        "1 tensor",
        "2 tensors",
        "1,500 tensors",
    ]
    assert counted(2, "entry", "entries") == "2 entries"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdefghij"), 3) == "a, b and 8 more"


def test_what_was_meant() -> None:
    """No name is offered twice, capitals and hyphens do not count; else all are named."""
    assert closest("mmstr", ["MMStar", "MMStar", "AI2D"]) == ["MMStar"]
    assert closest("qwen25vl", ["qwen2-vl", "qwen2.5-vl", "points"])[0] == "qwen2.5-vl"
    assert did_you_mean("tie", ["ties", "ties", "dare"]) == "did you mean ties?"
    assert did_you_mean("zzz", ["ties", "dare"]) == "expected one of ties, dare"
    assert did_you_mean("abcd", ["abcd1", "abcd12", "abcd123"]).endswith(" or abcd123?")


def test_lines_are_broken_between_words_for_a_terminal() -> None:
    """Paths and options stay whole, what is indented stays so; a pipe has lines of any length."""
    path = "/a/directory-with-hyphens/" + "x" * 30
    text = f"written to {path}\n  a b c d e f g h i j k l m n o p"
    assert folded(text, 20).split("\n") == [
        "written to",
        path,
        "  a b c d e f g h i",
        "  j k l m n o p",
    ]
    assert folded(text, None) == text
    assert folded("a\n\nb", 20) == "a\n\nb"
