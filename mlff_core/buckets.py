"""Size classes, and how many molecules of each are computed at once.

Memory and time follow the number of pairs within the cutoff, so molecules are bucketed by their
number of atoms, hydrogens counted, and larger ones get smaller batches. The table was measured on
a card of 12 GB; a larger card earns a factor on all of it.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Batching = Literal["auto", "table"]


@dataclass(frozen=True)
class Bucket:
    """A size class.

    Attributes:
        name: As in the tables' column `bucket`.
        max_atoms: Largest molecule in it; None for no limit.
        batch_size: Molecules a batch on a card of 12 GB.
    """

    name: str
    max_atoms: int | None
    batch_size: int


TABLE: tuple[Bucket, ...] = (
    Bucket("small", 10, 32),
    Bucket("medium", 30, 16),
    Bucket("large", 100, 8),
    Bucket("very large", None, 4),
)

#: Cards up to this total memory use the table as it stands.
TABLE_MEMORY_BYTES = 13 * 2**30
#: Most edges that the table ever asks for: 4 molecules of 250 atoms with 40 neighbours each.
TABLE_MAX_EDGES = 40_000
#: Edges of a typical batch of the table: 8 molecules of 45 atoms with 27 neighbours each.
TABLE_TYPICAL_EDGES = 9_700
#: Memory of one edge for each feature of PaiNN, all blocks together, by backend. Plain PyTorch
#: keeps [n_edges, 3 n_features] tensors, the kernels do not.
BYTES_PER_EDGE_AND_FEATURE = {"plain": 172, "numba": 172, "triton": 17}
#: Edges that keep one multiprocessor busy; more do not make the card faster.
EDGES_PER_MULTIPROCESSOR = 8192


def bucket_of(n_atoms: int) -> str:
    """Name of the bucket of a molecule of this many atoms."""
    for bucket in TABLE:
        if bucket.max_atoms is None or n_atoms <= bucket.max_atoms:
            return bucket.name
    raise AssertionError("the last bucket has no limit")


def batch_sizes(
    batching: Batching,
    device: torch.device | str = "cpu",
    bytes_per_edge: int = 172 * 128,
) -> dict[str, int]:
    """Molecules a batch of each bucket.

    Args:
        batching: "table" for the table on any device; "auto" multiplies it by what the device
            earns.
        device: Where the batches will run.
        bytes_per_edge: Memory that a pair of atoms within the cutoff takes, as the force field
            says; the most that the default model takes.

    Raises:
        ValueError: `batching` is neither.
    """
    if batching not in ("auto", "table"):
        raise ValueError(f"batching: expected auto or table, found {batching!r}")
    factor, device = 1, torch.device(device)
    if batching == "auto" and device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        n_multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        factor = memory_factor(free, total, n_multiprocessors, bytes_per_edge)
    return {bucket.name: factor * bucket.batch_size for bucket in TABLE}


def memory_factor(
    free_bytes: int,
    total_bytes: int,
    n_multiprocessors: int,
    bytes_per_edge: int,
) -> int:
    """What the table is multiplied by on a card, a power of two.

    As many edges as half of the free memory holds, but no more than keep the card busy.
    """
    if total_bytes <= TABLE_MEMORY_BYTES:
        return 1
    fits = free_bytes / 2 / (bytes_per_edge * TABLE_MAX_EDGES)
    fills = n_multiprocessors * EDGES_PER_MULTIPROCESSOR / TABLE_TYPICAL_EDGES
    # Up to the next power of two for what fills the card, down for what fits.
    factor = min(1 << max(int(fits), 1).bit_length() - 1, 1 << max(int(fills), 1).bit_length())
    return max(factor, 1)
