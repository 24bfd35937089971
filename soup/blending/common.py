"""Tensors that are equal in all members: frozen towers, untouched layers, a LoRA pool's base.

The average of n equal values is that value, bit for bit, where it is stored in 24 significant bits
or less (float32, bfloat16, float16) and n is below 2^29. The sums on the way are x, 2x, …, nx: kx
is a whole multiple of x's last place, and below 2^29 times x, so it has at most 24 + 29 = 53
significant bits and is a float64; its exponent is far from float64's ends, as x's is a float32's.
So every sum is exact, nx/n is x, which a correctly rounded division then returns, and x rounded to
its own dtype is x. The same holds of zeros of either sign: -0 + -0 is -0, and -0/n is -0. Weights
other than equal ones are left out: the float64 nearest to 1/3 times x is not a third of x.
"""

from collections.abc import Iterable

from soup.blending.blend import Blend, role

NARROW = frozenset({"F32", "BF16", "F16"})
"""Dtypes of at most 24 significant bits."""

MOST = 1 << 29
"""Members, fewer than which there must be."""


def equal(blend: Blend) -> frozenset[str]:
    """Tensors of a blend whose result is known to be any one member's value.

    Known from where they lie (members of one base, one file under several names), or from the roots
    of their values (``soup.checkpoints.digests``), where those were read or are remembered.
    """
    if blend.method != "linear" or blend.coefficients is not None or len(blend.members) >= MOST:
        return frozenset()
    return frozenset(
        info.name
        for info in blend.reference.tensors.values()
        if info.dtype in NARROW
        and role(info) == "blend"
        and blend.dtype_of(info) == info.dtype
        and _equal(blend, info.name)
    )


def roots(blend: Blend, names: Iterable[str]) -> dict[str, bytes]:
    """Of tensors that are ``equal`` those that may be copied unread: their roots are known, and it
    is known that no member holds NaN or Inf.
    """
    if not all(m.soundness and not (m.soundness.nan or m.soundness.inf) for m in blend.members):
        return {}
    first = blend.members[0]
    known = {name: first.root_of(first.tensors[name]) for name in names}
    return {name: bytes.fromhex(root) for name, root in known.items() if root is not None}


def _equal(blend: Blend, name: str) -> bool:
    if any(name in member.updates for member in blend.members):
        return False
    first, *others = (member.tensors[name] for member in blend.members)
    if any(other.dtype != first.dtype for other in others):
        return False
    if all((other.file, other.offset) == (first.file, first.offset) for other in others):
        return True
    root = blend.members[0].root_of(first)
    return root is not None and all(
        member.root_of(member.tensors[name]) == root for member in blend.members[1:]
    )
