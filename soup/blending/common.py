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
from pathlib import Path

from blake3 import blake3

from soup.blending.blend import Blend, role
from soup.checkpoints.known import file_states

NARROW = frozenset({"F32", "BF16", "F16"})
"""Dtypes of at most 24 significant bits."""

MOST = 1 << 29
"""Members, fewer than which there must be."""

NAMED = 32
"""Hexadecimal digits of a root that name a value: as many that nobody finds two of one name."""

NOBODY = "-" * NAMED
"""Instead of a name where there is none."""


def equal(blend: Blend) -> frozenset[str]:
    """Tensors of a blend whose result is known to be any one member's value.

    Known from where they lie (members of one base, one file under several names), or from the roots
    of their values (``soup.checkpoints.digests``), where those were read or are remembered.
    """
    if blend.method != "linear" or blend.coefficients is not None or len(blend.members) >= MOST:
        return frozenset()
    computed = {name for member in blend.members for name in member.updates}
    first, *others = blend.members
    found = []
    for name, info in blend.reference.tensors.items():
        if info.dtype not in NARROW or name in computed or role(info) != "blend":
            continue
        one = first.tensors[name]
        rest = [(member, member.tensors[name]) for member in others]
        if blend.dtype_of(info) != info.dtype or any([o.dtype != one.dtype for _, o in rest]):
            continue
        if name in blend.values or all(
            [o.offset == one.offset and o.file == one.file for _, o in rest]
        ):
            found.append(name)
            continue
        root = first.root_of(one)
        if root is not None and all([member.root_of(o) == root for member, o in rest]):
            found.append(name)
    return frozenset(found)


def roots(blend: Blend, names: Iterable[str]) -> dict[str, bytes]:
    """Of tensors that are ``equal`` those that may be copied unread: their roots are known, and it
    is known that no member holds NaN or Inf.
    """
    if not all(m.soundness and not (m.soundness.nan or m.soundness.inf) for m in blend.members):
        return {}
    first = blend.members[0]
    known = {name: first.root_of(first.tensors[name]) for name in names}
    return {name: bytes.fromhex(root) for name, root in known.items() if root is not None}


def values(blend: Blend) -> dict[str, str]:
    """By tensor of a blend that is ``equal``, and whose root is known, a name of its value.

    Two tensors of one dtype, shape and name of a value hold the same bytes.
    """
    known: dict[str, str] | None = vars(blend).get("_values")
    if known is None:
        first = blend.members[0]
        known = dict(blend.values)
        if first.roots:
            for name in equal(blend):
                root = first.root_of(first.tensors[name])
                dtype = blend.reference.tensors[name].dtype
                if root is not None and first.tensors[name].dtype == dtype:
                    known[name] = root[:NAMED]
        vars(blend)["_values"] = known
    return known


def held(blend: Blend) -> dict[str, frozenset[str]]:
    """What is known of the values of a blend's tensors: all that names them, of those ``equal``.

    Besides by ``values`` they are named by the place in a file that all members have them from, and
    by what the file is now: so are those of the base that adapters change.
    """
    named, found = values(blend), {}
    states: dict[Path, str] = {}
    members = blend.members
    for name in equal(blend):
        first = members[0].tensors[name]
        if first.dtype != blend.reference.tensors[name].dtype:
            continue
        names = {named[name]} if name in named else set()
        if all([m.tensors[name].offset == first.offset for m in members]) and all(
            [m.tensors[name].file == first.file for m in members]
        ):
            if first.file not in states:
                states[first.file] = str(file_states([first.file]))
            names.add(f"{first.offset} {states[first.file]}")
        found[name] = frozenset(names)
    return found


def packed(blend: Blend) -> str:
    """``values``, to be sent: so many characters for each tensor of the reference, in order."""
    named = values(blend)
    order = blend.reference.tensors
    return _mark(order) + "".join([named.get(name, NOBODY) for name in order]) if named else ""


def unpacked(text: str, names: Iterable[str]) -> dict[str, str]:
    """What was ``packed``, given the names of the reference's tensors; empty if it is of others."""
    order = list(names)
    mark = _mark(order) if text else ""
    if not text or not text.startswith(mark) or len(text) != len(mark) + NAMED * len(order):
        return {}
    cut = (text[at : at + NAMED] for at in range(len(mark), len(text), NAMED))
    return {name: value for name, value in zip(order, cut, strict=True) if value != NOBODY}


def _mark(names: Iterable[str]) -> str:
    """Whose values they are, and in which order."""
    return blake3("\n".join(names).encode()).hexdigest()[:NAMED]
