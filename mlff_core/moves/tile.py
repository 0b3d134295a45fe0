"""How large a program of the kernels here is: a molecule is a tile [W, 4] of atoms and axes."""

import triton


def tile_width(width: int) -> int:
    """Atoms of a tile that holds molecules of `width` atoms."""
    return max(triton.next_power_of_2(width), 8)


def warps(tile_width: int) -> int:
    """Warps of a program: two coordinates a thread."""
    return min(max(tile_width // 16, 1), 32)
