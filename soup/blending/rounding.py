"""From float64 to the output dtype, once; and whether what came out is finite."""

import torch


def round_once(
    values: torch.Tensor, dtype: torch.dtype, *, everywhere: bool = False
) -> torch.Tensor:
    """Round float64 to ``dtype`` once, to nearest, ties to even.

    Torch converts float64 to bfloat16 and float16 by way of float32, which rounds twice: a value
    just above a tie becomes the tie, and then goes to even. Only float32 results that are such
    ties can go wrong; where they are not exact they are moved one step back towards the true value
    (as "round to odd" does, Boldo & Melquiond 2008, IEEE Trans. Computers 57(4)).

    Args:
        values: flat, on any device.
        dtype: a floating-point dtype.
        everywhere: work on all elements instead of looking which ones need it: more work, but a
            GPU need not be waited for. The same bits.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return values.to(dtype)
    single = values.to(torch.float32)
    if (
        dtype is torch.bfloat16
    ):  # a tie: of the lower half (little-endian) just the first bit is set
        risky = single.view(torch.int16)[::2].eq(-0x8000)
    else:  # where float16 is subnormal a tie has still more zeros than these
        risky = single.view(torch.int32).bitwise_and(0x0FFF).eq_(0)
    if everywhere:
        single = torch.where(risky.bool(), _towards(single, values), single)
    else:
        places = risky.nonzero().squeeze(1)
        if places.numel():
            single[places] = _towards(single[places], values[places])
    return single.to(dtype)


def _towards(near: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Float32 values, one step nearer to their float64 ones where they are not exact."""
    wide = near.to(torch.float64)
    side = torch.where(true > wide, torch.inf, -torch.inf).to(torch.float32)
    return torch.where(true == wide, near, torch.nextafter(near, side))


EXPONENTS = {
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}
"""Per dtype, the integers of its width and its exponent bits: all set in NaN and Inf alone."""


def all_finite(values: torch.Tensor) -> bool:
    """One cheap pass over the bit patterns: the largest, without signs, is below that of Inf."""
    return not values.numel() or not bool(not_finite(values))


def not_finite(values: torch.Tensor) -> torch.Tensor:
    """Whether any of at least one element is NaN or Inf: one bool, on the same device."""
    integers, exponent = EXPONENTS[values.dtype]
    sign_cut = torch.iinfo(integers).max
    return values.view(integers).bitwise_and(sign_cut).amax() >= exponent
