"""Marks of images inside a question: dropped, put in their place, or an error."""

from types import SimpleNamespace

import pytest

from soup.evaluators.models.placeholders import image_tokens, without_placeholders


def message(text: str, images: int = 1, *more: str) -> list[dict[str, str]]:
    """Images first, then texts, as VLMEvalKit builds a question."""
    found = [{"type": "image", "value": f"{k}.png"} for k in range(images)]
    return found + [{"type": "text", "value": value} for value in (text, *more)]


def shown(items: object) -> list[str]:
    """What the model sees, in order."""
    return [item["value"] for item in items]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "<image>\nWhat?",
        "<image> What?",
        "What?<image>",
        "What?\n<image>",
        "<image 1>What?",
        "<|vision_start|><|image_pad|><|vision_end|>What?",
        "<image><image>What? <image>\n<image>",
    ],
)
@pytest.mark.parametrize("images", [0, 1])
def test_the_marks_of_one_image_are_dropped(text: str, images: int) -> None:
    """The image itself is handed over beside the text."""
    tokens = ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>")
    found = without_placeholders(message(text, images), tokens)
    assert shown(found) == [*["0.png"][:images], "What?"]


def test_other_words_are_left_alone() -> None:
    """Tokens of other models, and a question without marks, are just text: the same object."""
    one = message("What does <img> mean, or <|image_pad|>? <images>")
    assert without_placeholders(one, ("<im_patch>",)) is one


def test_several_images_go_where_their_marks_are() -> None:
    """In order, or by number; the marks may stand in options."""
    found = without_placeholders(message("<image>\nor <image>?", 2), ())
    assert shown(found) == ["0.png", "\nor ", "1.png", "?"]
    found = without_placeholders(message("A. <image 2>\nB. <image 1>", 2), ())
    assert shown(found) == ["A. ", "1.png", "\nB. ", "0.png"]
    found = without_placeholders(message("<image>", 2, "and", "<image>"), ())
    assert shown(found) == ["0.png", "and", "1.png"]


@pytest.mark.parametrize("text", ["<image> and?", "<image><image><image>", "<|image_pad|>?"])
def test_another_number_of_marks_than_of_images_is_an_error(text: str) -> None:
    """Nobody knows which image is meant."""
    with pytest.raises(ValueError, match="it has 2 images and . marks of images"):
        without_placeholders(message(text, 2), ("<|image_pad|>",))


def test_a_models_own_marks_are_known_by_its_processor_and_tokenizer() -> None:
    """By attribute, or as an added token of a well-known name; never by name alone."""
    tokenizer = SimpleNamespace(
        get_added_vocab=lambda: {"<IMG_CONTEXT>": 7, "<other>": 8}, image_token="<|pic|>"
    )
    processor = SimpleNamespace(image_token="<|pic|>", boi_token="<boi>", video_token=3)
    assert image_tokens(processor, tokenizer) == ("<IMG_CONTEXT>", "<boi>", "<|pic|>")
    assert image_tokens(None, None) == ()
