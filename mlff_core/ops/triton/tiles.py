"""How large a piece of the work one program of each kernel takes.

The choice depends on the kernel and on a coarse class of the number of rows, never on the exact
batch, so that a handful of compiled kernels serves every batch. What stands here was measured on
one H200; `mlff_core.ops.triton.tune` measures it anew on another card and keeps the result on
disk, where `load` finds it.
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
        atoms: Atoms a program.
        split: Pairs of an atom that are worked on side by side: sooner done while atoms are few.
        features: Features a program.
        warps: Warps a program. A thread has four features of one pair where
            atoms · split · features = 128 · warps.
        registers: Most registers a thread, so that more programs find room side by side; 0 leaves
            it to the compiler.
    """

    atoms: int
    split: int
    features: int
    warps: int
    registers: int = 0

    @property
    def options(self) -> dict[str, int]:
        """Keyword arguments of the kernel's launch."""
        limit = {"maxnreg": self.registers} if self.registers else {}
        return {
            "ATOMS": self.atoms,
            "SPLIT": self.split,
            "num_warps": self.warps,
            **limit,
        }


#: Fewest rows of each class.
CLASSES = {"large": 4097, "medium": 513, "small": 0}

#: Precision of the products -> kernel -> class -> piece.
TILES: dict[str, dict[str, dict[str, Tile]]] = {
    "tf32x3": {
        "linear": {
            "large": Tile(64, 64, 32, 4, 3),
            "medium": Tile(32, 64, 32, 4, 3),
            "small": Tile(16, 32, 64, 4, 2),
        },
        "update_hidden": {
            "large": Tile(64, 64, 32, 4, 3),
            "medium": Tile(16, 64, 32, 4, 3),
            "small": Tile(16, 32, 64, 4, 2),
        },
        "update_out": {
            "large": Tile(32, 32, 32, 2, 3),
            "medium": Tile(16, 32, 32, 4, 3),
            "small": Tile(16, 32, 64, 4, 2),
        },
        "update_bwd_hidden": {
            "large": Tile(32, 128, 32, 4, 2),
            "medium": Tile(16, 64, 32, 4, 3),
            "small": Tile(16, 32, 64, 2, 2),
        },
        "update_bwd_in": {
            "large": Tile(64, 64, 32, 4, 3),
            "medium": Tile(16, 32, 32, 4, 3),
            "small": Tile(16, 32, 128, 4, 1),
        },
        "update_bwd_mu": {
            "large": Tile(32, 128, 32, 4, 2),
            "medium": Tile(32, 32, 32, 2, 3),
            "small": Tile(16, 32, 64, 2, 2),
        },
        "readout": {
            "large": Tile(64, 64, 32, 4, 3),
            "medium": Tile(16, 32, 32, 4, 3),
            "small": Tile(16, 16, 64, 4, 2),
        },
    },
    "bf16x3": {
        "linear": {
            "large": Tile(64, 64, 32, 4, 3),
            "medium": Tile(16, 64, 32, 4, 3),
            "small": Tile(16, 32, 128, 4, 1),
        },
        "update_hidden": {
            "large": Tile(64, 128, 32, 4, 3),
            "medium": Tile(16, 64, 32, 4, 3),
            "small": Tile(16, 32, 128, 4, 1),
        },
        "update_out": {
            "large": Tile(32, 32, 32, 2, 3),
            "medium": Tile(16, 64, 32, 4, 3),
            "small": Tile(16, 32, 128, 4, 1),
        },
        "update_bwd_hidden": {
            "large": Tile(32, 128, 32, 4, 2),
            "medium": Tile(16, 64, 32, 4, 3),
            "small": Tile(16, 32, 64, 4, 2),
        },
        "update_bwd_in": {
            "large": Tile(32, 64, 32, 2, 3),
            "medium": Tile(16, 32, 32, 4, 3),
            "small": Tile(16, 32, 128, 4, 1),
        },
        "update_bwd_mu": {
            "large": Tile(64, 128, 32, 4, 3),
            "medium": Tile(32, 64, 32, 4, 3),
            "small": Tile(16, 32, 64, 4, 2),
        },
        "readout": {
            "large": Tile(64, 128, 32, 4, 3),
            "medium": Tile(16, 64, 32, 4, 3),
            "small": Tile(16, 32, 128, 4, 1),
        },
    },
}

#: Kernel -> class -> piece.
LAUNCHES: dict[str, dict[str, Launch]] = {
    "message_fwd": {
        "large": Launch(1, 1, 128, 1, 112),
        "medium": Launch(1, 4, 64, 2, 96),
        "small": Launch(1, 32, 16, 4),
    },
    "message_bwd": {
        "large": Launch(1, 1, 128, 1, 128),
        "medium": Launch(1, 4, 32, 1),
        "small": Launch(1, 16, 32, 4),
    },
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
