"""evaluators/engines/vllm_words.py and vllm_tiles.py: what is kept of questions, and its places."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from soup.errors import ScoringError
from soup.evaluators.engines import vllm_words
from soup.evaluators.engines.vllm_questions import Heard, require_equal, show_own
from soup.evaluators.engines.vllm_tiles import runs_of
from soup.evaluators.engines.vllm_words import Words, name_of, read
from soup.evaluators.models.wrapper import Prepared

SETTINGS = {"engine": "vllm", "vllm": "1.0"}
PROCESSOR = SimpleNamespace(image_token_id=9, image_seq_length=2)


def test_settings_that_are_alike_are_kept_once(tmp_path: Path) -> None:
    """And come back question by question."""
    asked = [{"max_tokens": n} for n in (4, 8, 4)]
    vllm_words.write(tmp_path, "name", Words.of([7, 9, 9], 1, asked))
    found = read(tmp_path, "name", 3)
    assert found is not None
    assert [found.settings(k) for k in range(3)] == asked
    assert len(found.kinds) == 2
    assert (found.longest, found.at, found.images) == (9, 1, 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"longest": 1}'])
def test_what_cannot_be_read_is_not_known(tmp_path: Path, text: str) -> None:
    """Nor is what is of other questions: then all are checked again."""
    vllm_words.write(tmp_path, "name", Words.of([7], 1, [{}]))
    assert read(tmp_path, "other", 1) is None
    assert read(tmp_path, "name", 2) is None
    assert read(None, "name", 1) is None
    (tmp_path / vllm_words.PLACE / "name.json").write_text(text)
    assert read(tmp_path, "name", 1) is None


def test_the_name_changes_with_all_that_words_depend_on(tmp_path: Path) -> None:
    """A picture by its content, wherever it lies; versions, companion files, the question."""
    (one, same, other) = (tmp_path / name for name in ("one", "same", "other"))
    for file, content in ((one, b"1"), (same, b"1"), (other, b"2")):
        file.write_bytes(content)

    def name(picture: Path = one, text: str = "What?", **more: str) -> str:
        message = [{"type": "image", "value": str(picture)}, {"type": "text", "value": text}]
        dataset = more.pop("dataset", "MMStar")
        return name_of(SETTINGS | more, "files", dataset, [message])

    assert name() == name(same)
    names = [
        name(),
        name(other),
        name(text="Who?"),
        name(vllm="1.1"),
        name(dataset="MMBench"),
        name_of(SETTINGS, "other files", "MMStar", []),
        name_of(SETTINGS, "files", "MMStar", []),
    ]
    assert len(set(names)) == len(names)


def prepared(ids: list[int], tiles: int) -> Prepared:
    """A question with so many tiles."""
    inputs = {"input_ids": torch.tensor([ids])}
    if tiles:
        inputs["pixel_values"] = torch.zeros(tiles, 3, 4, 4)
    return Prepared(inputs)


def test_each_picture_has_a_run_of_tokens() -> None:
    """Of as many tiles as it was cut into; a question may have none."""
    assert runs_of(prepared([1, 9, 9, 9, 9, 2, 9, 9, 3], 3), PROCESSOR) == [(1, 4), (6, 2)]
    assert runs_of(prepared([1, 2], 0), PROCESSOR) == []


def test_tokens_and_tiles_that_do_not_fit_are_an_error() -> None:
    """Else a picture would be read in another's place."""
    with pytest.raises(ScoringError, match="made 3 tiles of pictures, of 2 tokens each"):
        runs_of(prepared([1, 9, 9, 2], 3), PROCESSOR)


def test_another_kind_of_wrapper_is_not_taken_for_one_that_tiles() -> None:
    """Without InternVL's processor, or with other tensors."""
    assert runs_of(prepared([9, 9], 1), SimpleNamespace()) is None
    more = Prepared({**prepared([9, 9], 1).inputs, "image_grid_thw": torch.ones(1)})
    assert runs_of(more, PROCESSOR) is None


def rendered(pixels: torch.Tensor) -> dict[str, Any]:
    """What vLLM's processing makes of a question with two pictures; one tensor of each."""
    items = [{"pixel_values": SimpleNamespace(data=part)} for part in pixels.split(1)]
    return {"prompt_token_ids": [9, 9], "mm_kwargs": {"image": items}}


def shown(inputs: dict[str, Any]) -> torch.Tensor:
    """The pixels in it."""
    return torch.cat([item["pixel_values"].data for item in inputs["mm_kwargs"]["image"]])


def test_pixels_that_the_wrapper_rounds_are_shown_as_it_rounds_them() -> None:
    """LLaVA-OneVision's makes them half as exact; no other difference passes."""
    exact = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[9, 9]])
    for own in (exact.half(), exact):
        heard = Heard("", (), None, Prepared({"input_ids": tokens, "pixel_values": own}, {}))
        inputs = rendered(exact)
        require_equal(inputs, heard, "here", str)
        show_own(inputs, heard)
        assert torch.equal(shown(inputs), own.float())
        with pytest.raises(ScoringError, match="pixel_values differs"):
            require_equal(rendered(exact * 1.01), heard, "here", str)
    heard = Heard("", (), None, Prepared({"input_ids": tokens, "pixel_values": exact}, {}))
    with pytest.raises(ScoringError, match="24 of 24 values"):  # nothing here says that it rounds
        require_equal(rendered(exact + 1e-4), heard, "here", str)
