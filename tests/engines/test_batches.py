"""evaluators/engines/batches.py: questions kept, made ahead, put together."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soup.evaluators.engines.batches import Limit, Store, ahead, batches, by_length, collate
from soup.evaluators.models.wrapper import Prepared


def question(width: int, **other: torch.Tensor) -> Prepared:
    """A question of so many tokens."""
    ids = torch.arange(1, width + 1).unsqueeze(0)
    return Prepared({"input_ids": ids, "attention_mask": torch.ones_like(ids), **other})


def same(one: Prepared | None, other: Prepared) -> bool:
    """Bit for bit, in dtype and shape too."""
    return (
        one is not None
        and one.inputs.keys() == other.inputs.keys()
        and all(
            t.dtype == one.inputs[name].dtype and torch.equal(t, one.inputs[name])
            for name, t in other.inputs.items()
        )
        and one.generation == other.generation
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_what_does_not_fit_memory_comes_back_from_the_disk(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """Bit for bit, whatever the dtype and shape; the file has no name that could be left behind."""
    store = Store(tmp_path, memory=1000)
    made = []
    for k in range(20):
        pixels = torch.randn(k % 3, 5, 2, generator=torch.Generator().manual_seed(k)).to(dtype)
        made.append(
            Prepared({"input_ids": torch.ones(1, k + 1).long(), "pixels": pixels}, {"k": k})
        )
        store.put("set", k, made[-1])
    assert store._end > 0, "nothing was spilled"
    assert all(same(store.get("set", k), made[k]) for k in reversed(range(20)))
    assert store.get("other", 3) is None
    assert not list(tmp_path.iterdir())


def test_what_fits_nowhere_is_not_kept(tmp_path: Path) -> None:
    """No room on the disk, or none allowed: the question is prepared again, nothing fails."""
    for store in (Store(tmp_path, memory=0, disk=100), Store(None, memory=0)):
        store.put("set", 0, question(200))
        assert store.get("set", 0) is None


def test_items_are_made_ahead_and_in_order() -> None:
    """The thread works while the caller does, and stays no further ahead than it may."""
    made: list[int] = []

    def items() -> Iterator[int]:
        for k in range(50):
            made.append(k)
            yield k

    found = []
    for k in ahead(items(), 5):
        found.append(k)
        if k == 0:
            time.sleep(0.05)
            assert 1 < len(made) <= 8
    assert found == list(range(50))


def test_what_goes_wrong_ahead_is_raised_here() -> None:
    """After the items before it."""

    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    found = ahead(items(), 5)
    assert next(found) == 1
    with pytest.raises(ValueError, match="no second"):
        next(found)


def test_a_caller_that_leaves_early_leaves_no_thread() -> None:
    """Closing the iterator ends the thread that fills it."""
    before = threading.active_count()
    found = ahead(iter(range(1000)), 2)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@given(
    widths=st.lists(st.integers(1, 40), max_size=30),
    size=st.one_of(st.none(), st.integers(1, 8)),
)
def test_batches_keep_order_and_limits(widths: list[int], size: int | None) -> None:
    """Every question once, in order; no batch beyond the size, or beyond the tokens."""
    limit = Limit.of(size) if size else Limit(4, 60)
    found = list(batches(((k, question(w)) for k, w in enumerate(widths)), limit))
    assert [index for batch in found for index, _ in batch] == list(range(len(widths)))
    for batch in found:
        assert len(batch) <= limit.size
        if limit.tokens and len(batch) > 1:
            assert len(batch) * max(widths[index] for index, _ in batch) <= limit.tokens


def test_questions_that_differ_in_kind_do_not_share_a_batch() -> None:
    """Others with images, or with other settings, get batches of their own."""
    pixels = torch.zeros(1, 3, 2, 2)
    longer = Prepared(question(3).inputs, {"max_new_tokens": 9})
    mixed = [question(3), question(3), question(3, pixel_values=pixels), longer, longer]
    found = batches(enumerate(mixed), Limit.of(None))
    assert [len(batch) for batch in found] == [2, 1, 2]


def test_a_batch_is_padded_left_and_images_follow_one_another() -> None:
    """Tokens, masks and token types by row; patches, grids and crops along the first dimension."""
    one = question(
        2,
        token_type_ids=torch.tensor([[0, 1]]),
        patches=torch.ones(4, 3),
        grid=torch.tensor([[1, 2, 2]]),
        crops=torch.ones(1, 2, 3, 2, 2),
    )
    other = question(
        4,
        token_type_ids=torch.tensor([[1, 1, 0, 1]]),
        patches=torch.full((6, 3), 2.0),
        grid=torch.tensor([[1, 2, 3]]),
        crops=torch.full((1, 4, 3, 2, 2), 2.0),
    )
    found = collate([one, other], pad_token=9)
    assert found["input_ids"].tolist() == [[9, 9, 1, 2], [1, 2, 3, 4]]
    assert found["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert found["token_type_ids"].tolist() == [[0, 0, 0, 1], [1, 1, 0, 1]]
    assert found["patches"].shape == (10, 3)
    assert found["grid"].tolist() == [[1, 2, 2], [1, 2, 3]]
    assert found["crops"].shape == (2, 4, 3, 2, 2)
    assert found["crops"][0].flatten(1).sum(1).tolist() == [12, 12, 0, 0]


def test_a_mask_is_made_where_the_model_had_none() -> None:
    """Padding must never be looked at."""
    rows = [Prepared({"input_ids": torch.ones(1, n).long()}) for n in (1, 3)]
    assert collate(rows, 0)["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]


def test_the_limit_follows_the_memory() -> None:
    """Halved where a batch did not fit, doubled where twice as much is safe; a given size stays."""
    limit = Limit.of(None)
    start = limit.tokens
    assert start is not None
    limit.grow(8, start // 8, used=10, free=1000)
    assert limit.tokens == 2 * start
    limit.grow(8, start // 4, used=500, free=1000)
    assert limit.tokens == 2 * start, "twice as much would not fit"
    limit.grow(2, 4, used=1, free=1000)
    assert limit.tokens == 2 * start, "a small batch proves nothing"
    limit.shrink(8, start // 4)
    assert limit.tokens == start
    given_size = Limit.of(12)
    given_size.grow(12, 100, used=1, free=10**9)
    assert given_size.fits(12, 10**6)
    assert not given_size.fits(13, 1)
    given_size.shrink(12, 100)
    assert given_size.size == 6
    assert Limit(1, 1).fits(1, 10**9), "one question is always tried"


def test_questions_are_ordered_by_what_they_hold(tmp_path: Path) -> None:
    """By images, their pixels, then characters; the same in every run."""
    image = pytest.importorskip("PIL.Image")
    for name, size in (("small", 10), ("large", 900)):
        image.new("L", (size, size)).save(tmp_path / f"{name}.png")

    def message(text: str, picture: str = "") -> list[dict[str, str]]:
        picture = str(tmp_path / f"{picture}.png")
        images = [{"type": "image", "value": picture}] if "/." not in picture else []
        return [*images, {"type": "text", "value": text}]

    messages = [message("long" * 9, "small"), message("x", "large"), message("y", "small")]
    messages.append(message("a question without an image"))
    assert by_length(messages) == [3, 2, 0, 1]


def test_large_questions_share_smaller_batches_on_a_processor() -> None:
    """There more of them leave its caches and are slower; small ones are not held back."""
    limit = Limit.of(None, on_cpu=True)
    assert limit.fits(2, 1441) and not limit.fits(3, 1441)
    assert limit.fits(81, 100) and limit.fits(1, 9000)
    assert Limit.of(None).fits(5, 1441)
    assert Limit.of(6, on_cpu=True).fits(6, 1441)
