"""soup/checkpoints/sharing.py: what share of a pool is the same in all members, by part."""

from pathlib import Path

import pytest
import torch

from soup.checkpoints.pool import Pool
from soup.checkpoints.sharing import Share, in_words, part_of, shares
from soup.choosing.journal import Journal
from soup.cli.app import main
from soup.identifying import identify
from tests.conftest import make_checkpoint

FROZEN = torch.arange(600.0)


def paths(tmp_path: Path) -> list[Path]:
    """Two members with a frozen tower, a connector that differs, and half of a language model."""
    found = []
    for k in range(2):
        tensors = {
            "visual.blocks.0.attn.proj.weight": FROZEN.view(20, 30),
            "visual.merger.mlp.0.weight": torch.full((10, 10), float(k + 1)),
            "model.layers.0.weight": torch.ones(10, 10),
            "model.layers.1.weight": torch.full((10, 10), float(k + 2)),
        }
        found.append(make_checkpoint(tmp_path / f"run-{k}", tensors, shards=1 + k))
    return found


def test_it_is_known_once_bytes_were_read(tmp_path: Path) -> None:
    """From headers nothing is known; then each part's bytes; then from the journal alone."""
    given = paths(tmp_path)
    pool = Pool.open(*given)
    assert shares(pool.members) == []
    identify(pool.members, Journal.open(tmp_path / "work"), lambda event: None)
    found = shares(pool.members)
    assert found == [
        Share("vision", 2400, 2400),
        Share("connector", 400, 0),
        Share("language", 800, 400),
    ]
    again = Pool.open(*given)
    assert all(map(Journal.open(tmp_path / "work").recall, again.members))
    assert shares(again.members) == found
    assert in_words(found) == (
        "78% of the bytes are the same in all members (vision 100%, connector 0%, language 50%)"
    )
    assert in_words([]) == in_words([Share("language", 5, 0)]) == ""
    assert in_words([Share("language", 1000, 999)]).startswith("99% ")
    assert shares(pool.members[:1]) == []


def test_check_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --digest at once."""
    names = [str(path) for path in paths(tmp_path)]
    line = ["soup", "check", *names, "--digest", "--no-model", "--work", str(tmp_path / "work")]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "78% of the bytes are the same in all members (vision 100%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.visual.merger.mlp.0.weight", "connector"),
        ("mlp1.1.weight", "connector"),
        ("vision_model.encoder.layers.0.weight", "vision"),
        ("model.mm_projector.0.weight", "connector"),
        ("language_model.model.layers.0.mlp.gate_proj.weight", "language"),
    ],
)
def test_parts_are_told_by_names(name: str, part: str) -> None:
    """Qwen's, InternVL's, LLaVA's."""
    assert part_of(name) == part
