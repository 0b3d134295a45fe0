"""Random numbers that are a hash of what they are for: the same on any device, in any batch."""

import torch
from torch import Tensor

#: 2^64 / golden ratio, as a signed integer.
GOLDEN = -0x61C8864680B583EB
_MIX_1 = -0x40A7B892E31B1A47
_MIX_2 = -0x6B2FB644ECCEEE15


def stream_keys(seed: int, streams: Tensor) -> Tensor:
    """The key of each random stream, int64, from a seed and the streams' numbers, int64."""
    return mix(mix(torch.tensor(seed) * GOLDEN) + streams * GOLDEN)


def mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 (G. L. Steele et al., OOPSLA 2014) on signed int64."""
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, n: int) -> Tensor:
    """Logical shift to the right, which torch does not have for signed integers."""
    return (z >> n) & ((1 << (64 - n)) - 1)


def normal(keys: Tensor, step: Tensor, width: int) -> Tensor:
    """Standard normal numbers, float64 [n_mols, width, 3]: a hash of key, step, atom and axis.

    Numbering atoms before padding keeps an atom's numbers whatever the width is.
    """
    counter = torch.arange(3 * width, device=keys.device).view(width, 3)
    stream = mix(keys + step * GOLDEN)
    bits = mix(stream[:, None, None] + (counter + 1) * GOLDEN)
    # Two uniform numbers from the halves of 64 bits; Box and Muller make a normal one of them.
    radius = (_shift(bits, 32).double() + 0.5) * 2.0**-32
    angle = (bits & 0xFFFFFFFF).double() * (2.0 * torch.pi * 2.0**-32)
    return (-2.0 * radius.log()).sqrt() * angle.cos()
