"""soup/blending/blend.py: members, coefficients, and what tells two blends apart."""

from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.opening import open_checkpoint
from soup.errors import BlendError
from tests.conftest import make_checkpoint, random_tensors


def test_digest_changes_with_members_order_coefficients_and_dtype(tmp_path: Path) -> None:
    """Whatever changes the bytes changes the digest, and names do not."""
    a, b = (
        open_checkpoint(make_checkpoint(tmp_path / str(k), random_tensors(k))) for k in range(2)
    )
    blends = [
        Blend((a,), a),
        Blend((a, b), a),
        Blend((b, a), a),
        Blend((a, b), a, coefficients=(0.25, 0.75)),
        Blend((a, b), a, dtype="F32"),
    ]
    assert len({blend.digest for blend in blends}) == len(blends)
    renamed = open_checkpoint(a.path, name="else")
    assert Blend((renamed,), renamed).digest == blends[0].digest


def test_coefficients_are_checked() -> None:
    """An empty blend, a missing factor, a factor that is not finite."""
    with pytest.raises(BlendError, match="at least one member"):
        Blend((), None)  # type: ignore[arg-type]
    with pytest.raises(BlendError, match="1 coefficients for 2"):
        Blend((None, None), None, coefficients=(1.0,))  # type: ignore[arg-type]
    with pytest.raises(BlendError, match="finite"):
        Blend((None,), None, coefficients=(float("nan"),))  # type: ignore[arg-type]
