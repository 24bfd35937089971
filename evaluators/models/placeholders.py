"""Marks of images inside a question's text, as tables made from training data have them.

LLaVA's data says ``<image>`` where the image goes, and every model has tokens of its own for it. A
question's images are handed to the model beside its text, so that a mark inside the text is one
image too many: processors count them and fail.
"""

import re
from collections.abc import Sequence

from soup.evaluators.models.wrapper import Message

MARK = r"<image(?:[ _-]?(\d{1,3}))?>"
"""``<image>``, and ``<image 2>`` as MMMU numbers them."""


def without_placeholders(message: Message, tokens: Sequence[str]) -> Message:
    """A question whose text holds no marks of images.

    The marks of a question with one image are dropped. Where there are as many marks as images,
    each image goes to the place of its mark.

    Args:
        message: images and text, as VLMEvalKit builds it.
        tokens: what the model takes for an image, or for the edge of one, besides ``<image>``.

    Raises:
        ValueError: there are several images, and another number of marks.
    """
    texts = [item["value"] for item in message if item["type"] == "text"]
    pattern = _pattern(tokens)
    if not any(pattern.search(text) for text in texts):
        return message
    images = [item for item in message if item["type"] == "image"]
    marks = [match for text in texts for match in re.finditer(MARK, text)]
    if len(images) < 2:
        return [
            {**item, "value": without_marks(item["value"], tokens)}
            if item["type"] == "text"
            else item
            for item in message
        ]
    if len(marks) != len(images):
        found = next(match[0] for text in texts if (match := pattern.search(text)))
        raise ValueError(
            f"it has {len(images)} images and {len(marks)} marks of images, such as {found!r}, in "
            "its text; expected none, or one for each"
        )
    return _interleaved(message, images, pattern)


def without_marks(text: str, tokens: Sequence[str]) -> str:
    """A text without marks; the space or line break that set one apart goes with it."""
    pattern = _pattern(tokens).pattern
    without_last = re.sub(f"[ \\n]*(?:{pattern})\\Z", "", text)
    while without_last != text:
        text, without_last = without_last, re.sub(f"[ \\n]*(?:{pattern})\\Z", "", without_last)
    return re.sub(f"(?:{pattern})[ \\n]?", "", text)


def _pattern(tokens: Sequence[str]) -> re.Pattern[str]:
    own = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    return re.compile(f"{MARK}|{own}" if own else MARK)


def _interleaved(
    message: Message, images: Sequence[dict[str, str]], pattern: re.Pattern[str]
) -> Message:
    found: list[dict[str, str]] = []
    waiting = list(images)
    for item in message:
        if item["type"] == "image":
            continue
        if item["type"] != "text":
            found.append(item)
            continue
        at = 0
        for match in re.finditer(MARK, item["value"]):
            _add(found, item["value"][at : match.start()], pattern)
            number = int(match[1]) - 1 if match[1] else None
            if number is None or not 0 <= number < len(images):
                number = len(images) - len(waiting)
            found.append(images[number])
            waiting = waiting[1:]
            at = match.end()
        _add(found, item["value"][at:], pattern)
    return found


def _add(found: list[dict[str, str]], text: str, pattern: re.Pattern[str]) -> None:
    text = pattern.sub("", text)
    if text.strip():
        found.append({"type": "text", "value": text})


NAMES = ("image_token", "video_token", "audio_token", "boi_token", "eoi_token", "boa_token",
         "full_image_sequence", "start_image_token", "end_image_token", "image_start_token",
         "image_end_token", "vision_start_token", "vision_end_token", "fake_image_token",
         "image_break_token", "global_image_tag", "image_placeholder")  # fmt: skip
"""Attributes under which processors and tokenizers keep such tokens."""

COMMON = ("<|image|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>",
          "<|vision_pad|>", "<IMG_CONTEXT>", "<img>", "</img>", "<image_soft_token>",
          "<start_of_image>", "<end_of_image>", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<im_patch>",
          "<im_start>", "<im_end>", "<ImageHere>", "<video>", "<audio>", "<|image_1|>",
          "<fake_token_around_image>", "<global-img>", "<image_pad>")  # fmt: skip
"""Tokens of well-known models; each counts only for a tokenizer that knows it as one token."""


def image_tokens(processor: object, tokenizer: object) -> tuple[str, ...]:
    """What a model takes for an image, as its processor and tokenizer say."""
    found = {
        value
        for holder in (processor, tokenizer)
        for name in NAMES
        if isinstance(value := getattr(holder, name, None), str) and value.strip()
    }
    try:
        added = set(getattr(tokenizer, "get_added_vocab", dict)())
    except Exception:  # a tokenizer of a checkpoint's own code
        added = set()
    return tuple(sorted(found | (added & set(COMMON))))
