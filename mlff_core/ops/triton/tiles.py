"""How large a piece of the work one program of each kernel takes.

The choice depends on the kernel and on a coarse class of the number of rows, never on the exact
batch, so that a handful of compiled kernels serves every batch. What stands in tiles.json was
measured on one H200; `python -m mlff_core.tune` measures it anew on another card and keeps the
result on disk, where `load` finds it.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from mlff_core.store import whole_file

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


class Groups(NamedTuple):
    """Piece of a product by warpgroups, each of which has 64 rows; see warpgroups.py.

    Attributes:
        columns: Columns a program.
        k: Length of the pieces in which the inner dimension is read.
        workers: Warpgroups that multiply: 2 or 3 where weights stay, 3 in other products of
            linear.py, 2 in those of update_bwd.py.
        stages: Pieces of rows that are fetched ahead; by all together, or where weights stay by
            each warpgroup.
        stay: Weights stay in shared memory while rows pass.
    """

    columns: int
    k: int
    workers: int
    stages: int
    stay: bool


#: Fewest rows of each class.
CLASSES = {"large": 4097, "medium": 513, "few": 129, "small": 0}


class Choices(NamedTuple):
    """What has been chosen.

    Attributes:
        tiles: Width of the features -> precision of the products -> kernel -> class -> piece.
        launches: Width -> kernel -> class -> piece.
        groups: Width -> precision -> kernel -> piece where atoms are many, on cards that have
            warpgroups; of other kernels, and of other cards, as in tiles.
    """

    tiles: dict[int, dict[str, dict[str, dict[str, Tile]]]]
    launches: dict[int, dict[str, dict[str, Launch]]]
    groups: dict[int, dict[str, dict[str, Groups]]]


def read(file: Path) -> Choices:
    """The choices that a file holds.

    Raises:
        OSError: The file cannot be read.
        ValueError, KeyError, TypeError, AttributeError: It is not a table of tiles.
    """
    kept = json.loads(file.read_text(encoding="utf-8"))
    return Choices(
        {
            int(width): {
                precision: {
                    kernel: {size: Tile(*values) for size, values in sizes.items()}
                    for kernel, sizes in kernels.items()
                }
                for precision, kernels in precisions.items()
            }
            for width, precisions in kept["tiles"].items()
        },
        {
            int(width): {
                kernel: {size: Launch(*values) for size, values in sizes.items()}
                for kernel, sizes in kernels.items()
            }
            for width, kernels in kept["launches"].items()
        },
        {
            int(width): {
                precision: {kernel: Groups(*values) for kernel, values in kernels.items()}
                for precision, kernels in precisions.items()
            }
            for width, precisions in kept.get("groups", {}).items()
        },
    )


#: The choices in use: at first those that were measured on one H200.
TILES, LAUNCHES, GROUPS = read(Path(__file__).with_suffix(".json"))


def row_class(n_rows: int) -> str:
    """The class of a number of rows."""
    return next(name for name, least in CLASSES.items() if n_rows >= least)


def rows_that_count(n_rows: int, atom_rows: int) -> int:
    """The number of rows whose class a product takes: of few atoms' vectors, the atoms'.

    Args:
        n_rows: Rows that are multiplied.
        atom_rows: Rows of an atom.
    """
    n_atoms = n_rows // atom_rows
    return n_atoms if row_class(n_atoms) == "small" else n_rows


def width_class(n_features: int) -> int:
    """The width whose choices features of this width take: the next that there is, or the last."""
    return min((width for width in TILES if width >= n_features), default=max(TILES))


def tile_options(
    kernel: str, precision: str, n_rows: int, n_features: int, n_out: int, n_in: int
) -> dict[str, int]:
    """Keyword arguments of a product's launch, cut down where a dimension is smaller.

    Args:
        kernel: Its name in the table.
        precision: How products are computed.
        n_rows: Rows that are multiplied.
        n_features: Width of the model's features.
        n_out: Columns of the result.
        n_in: Columns of what is multiplied.
    """
    tile = TILES[width_class(n_features)][precision][kernel][row_class(n_rows)]
    return {
        "BLOCK_M": tile.m,
        "BLOCK_N": min(tile.n, n_out & -n_out),
        "BLOCK_K": min(tile.k, n_in & -n_in),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def piece_grid(n_rows: int, n_out: int, sizes: dict[str, int]) -> tuple[int, int]:
    """Programs of a product: across the columns, and down the rows.

    Programs start across the columns first, so that those which read the same rows run at the same
    time and all but one of them find the rows in the cache; weights are there anyway.

    Args:
        n_rows: Rows that are multiplied.
        n_out: Columns of the result.
        sizes: From `tile_options`.
    """
    return n_out // sizes["BLOCK_N"], -(-n_rows // sizes["BLOCK_M"])


def launch_of(kernel: str, n_atoms: int, n_features: int) -> Launch:
    """The piece of a walk over pairs, its features at most as many as there are."""
    launch = LAUNCHES[width_class(n_features)][kernel][row_class(n_atoms)]
    return launch._replace(features=min(launch.features, n_features))


def cache_file(device_name: str) -> Path:
    """Where the choices for a card are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "mlff-screen" / f"tiles-{device_name.replace(' ', '-')}.json"


def load(device_name: str) -> bool:
    """Take the choices kept for a card, if there are any; says whether."""
    file = cache_file(device_name)
    try:
        kept = read(file)
        for width, precisions in kept.tiles.items():
            for precision, kernels in precisions.items():
                for kernel, sizes in kernels.items():
                    TILES[width][precision][kernel].update(sizes)
        for width, walks in kept.launches.items():
            for kernel, choices in walks.items():
                LAUNCHES[width][kernel].update(choices)
        GROUPS.update(kept.groups)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is not a table of tiles, and is not used: %r", file, error)
        return False
    return True


def save(device_name: str, file: Path | None = None) -> Path:
    """Keep the present choices for a card, or write them to a file."""
    file = file or cache_file(device_name)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = (
        f'{{\n "device": {json.dumps(device_name)},\n'
        f' "tiles": {_text(TILES, 4)},\n "launches": {_text(LAUNCHES, 3)},\n'
        f' "groups": {_text(GROUPS, 3)}\n}}\n'
    )
    with whole_file(file) as stream:
        stream.write(text.encode())
    return file


def _text(table: Any, depth: int, indent: int = 1) -> str:
    """JSON of a nested table, a line for each kernel."""
    if depth == 1:
        return json.dumps(table)
    pad = " " * indent
    rows = (f'{pad} "{key}": {_text(x, depth - 1, indent + 1)}' for key, x in table.items())
    return "{\n" + ",\n".join(rows) + f"\n{pad}}}"
