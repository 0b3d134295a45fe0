"""How large a piece of the work one program of each kernel takes.

The choice depends on the kernel and on a coarse class of the number of rows, never on the exact
batch, so that a handful of compiled kernels serves every batch. What stands here was measured on
one H200; `mlff_core.ops.tune` measures it anew on another card and keeps the result on disk, where
`load` finds it.
"""

import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)


class Tile(NamedTuple):
    """Piece of a product of matrices.

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


class Launch(NamedTuple):
    """Piece of a walk over the atoms' neighbours.

    Attributes:
        warps: Warps a program at 128 features: with 4 for each of `split` a thread has one
            feature; with 2, and no split, it has two, which share the sines of a pair.
        split: How many pairs of a row are worked on side by side: sooner done while atoms are few.
        registers: Most registers a thread, so that more programs run side by side.
    """

    warps: int
    split: int = 1
    registers: int | None = None


#: Fewest rows of each class.
CLASSES = {"large": 4097, "medium": 513, "small": 0}
_MEDIUM, _SMALL = Tile(16, 64, 32, 4, 3), Tile(16, 32, 64, 4, 2)

#: Precision of the products -> kernel -> class -> piece.
TILES: dict[str, dict[str, dict[str, Tile]]] = {
    precision: {
        kernel: {"large": large, "medium": _MEDIUM, "small": _SMALL}
        for kernel, large in kernels.items()
    }
    for precision, kernels in {
        "tf32x3": {
            "linear": Tile(64, 64, 32, 4, 3),
            "update_hidden": Tile(64, 128, 32, 4, 3),
            "update_out": Tile(32, 32, 32, 2, 3),
            "update_bwd_hidden": Tile(32, 128, 32, 4, 2),
            "update_bwd_in": Tile(32, 64, 32, 2, 3),
            "update_bwd_mu": Tile(64, 64, 32, 4, 2),
            "readout": Tile(64, 64, 32, 4, 3),
        },
        "bf16x3": {
            "linear": Tile(64, 64, 32, 4, 3),
            "update_hidden": Tile(64, 64, 32, 4, 3),
            "update_out": Tile(64, 64, 32, 4, 2),
            "update_bwd_hidden": Tile(32, 128, 32, 4, 2),
            "update_bwd_in": Tile(32, 64, 32, 4, 2),
            "update_bwd_mu": Tile(64, 128, 32, 4, 2),
            "readout": Tile(64, 64, 32, 4, 3),
        },
        "tf32": {
            "linear": Tile(64, 128, 32, 4, 3),
            "update_hidden": Tile(64, 128, 32, 4, 3),
            "update_out": Tile(32, 64, 32, 4, 3),
            "update_bwd_hidden": Tile(64, 128, 32, 4, 2),
            "update_bwd_in": Tile(32, 64, 32, 4, 3),
            "update_bwd_mu": Tile(64, 128, 32, 4, 2),
            "readout": Tile(64, 64, 32, 4, 3),
        },
    }.items()
}

for _kernels in TILES.values():
    for _kernel in ("update_out", "update_bwd_in"):
        _kernels[_kernel]["medium"] = Tile(16, 32, 32, 4, 3)

#: Kernel -> class -> piece.
LAUNCHES: dict[str, dict[str, Launch]] = {
    "message_fwd": {"large": Launch(2, 1, 168), "medium": Launch(2), "small": Launch(8, 2)},
    "message_bwd": {"large": Launch(2), "medium": Launch(2), "small": Launch(8, 2)},
}


def row_class(n_rows: int) -> str:
    """The class of a number of rows."""
    return next(name for name, least in CLASSES.items() if n_rows >= least)


def tile_options(kernel: str, precision: str, n_rows: int, n_out: int, n_in: int) -> dict[str, int]:
    """Keyword arguments of a product's launch, cut down where a dimension is smaller."""
    tile = TILES.get(precision, TILES["tf32x3"])[kernel][row_class(n_rows)]
    return {
        "BLOCK_M": tile.m,
        "BLOCK_N": min(tile.n, n_out & -n_out),
        "BLOCK_K": min(tile.k, n_in & -n_in),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def cache_file(device_name: str) -> Path:
    """Where the choices for a card are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "mlff-screen" / f"tiles-{device_name.replace(' ', '-')}.json"


def load(device_name: str) -> bool:
    """Take the choices kept for a card, if there are any; says whether."""
    file = cache_file(device_name)
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        tiles = {
            (precision, kernel, size): Tile(*values)
            for precision, kernels in kept["tiles"].items()
            for kernel, sizes in kernels.items()
            for size, values in sizes.items()
        }
        launches = {
            (kernel, size): Launch(*values)
            for kernel, sizes in kept["launches"].items()
            for size, values in sizes.items()
        }
        for (precision, kernel, size), tile in tiles.items():
            TILES[precision][kernel][size] = tile
        for (kernel, size), launch in launches.items():
            LAUNCHES[kernel][size] = launch
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is not a table of tiles, and is not used: %r", file, error)
        return False
    return True


def save(device_name: str) -> Path:
    """Keep the present choices for a card."""
    file = cache_file(device_name)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps({"tiles": TILES, "launches": LAUNCHES}, indent=1), encoding="utf-8")
    part.replace(file)
    return file
