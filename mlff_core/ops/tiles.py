"""How large a piece of the work one program of each kernel takes.

The choice depends on the kernel and on a coarse class of the number of rows, never on the exact
batch, so that a handful of compiled kernels serves every batch.
"""

from typing import NamedTuple


class Tile(NamedTuple):
    """One choice.

    Attributes:
        m: Rows a program.
        n: Columns a program.
        k: Length of the pieces in which the inner dimension is read.
        warps: Warps a program.
        stages: Depth of the software pipeline.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int


#: Fewest rows of each class.
CLASSES = {"large": 4097, "medium": 513, "small": 0}

#: Kernel -> class -> choice, in float32 on an H200.
TILES: dict[str, dict[str, Tile]] = {
    "linear": {"large": Tile(64, 64, 32, 4, 3)},
    "update_hidden": {"large": Tile(64, 128, 32, 4, 3)},
    "update_out": {"large": Tile(32, 32, 32, 2, 3)},
    "update_bwd_hidden": {"large": Tile(32, 128, 32, 4, 2)},
    "update_bwd_in": {"large": Tile(32, 64, 32, 2, 3)},
    "update_bwd_mu": {"large": Tile(64, 64, 32, 4, 2)},
    "readout": {"large": Tile(64, 64, 32, 4, 3)},
}
for _classes in TILES.values():
    _classes["medium"] = Tile(16, 64, 32, 4, 3)
    _classes["small"] = Tile(16, 32, 64, 4, 2)


def row_class(n_rows: int) -> str:
    """The class of a number of rows."""
    return next(name for name, least in CLASSES.items() if n_rows >= least)


def launch_options(kernel: str, n_rows: int, n_out: int, n_in: int) -> dict[str, int]:
    """Keyword arguments of a launch: the choice, cut down where a dimension is smaller."""
    tile = TILES[kernel][row_class(n_rows)]
    return {
        "BLOCK_M": tile.m,
        "BLOCK_N": min(tile.n, n_out & -n_out),
        "BLOCK_K": min(tile.k, n_in & -n_in),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
