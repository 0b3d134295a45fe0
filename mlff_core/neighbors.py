"""Pairs of atoms within the cutoff: the plain meaning, all pairs inside each molecule.

A drug-like molecule has so few atoms that a cell list costs more than it saves, and molecules
never see each other, so the work is the sum of the squared sizes and not the square of the sum.
"""

import torch
from torch import Tensor


def neighbor_pairs(positions: Tensor, ptr: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Ordered pairs (i, j), i != j, of atoms of one molecule closer than the cutoff.

    Both (i, j) and (j, i) are listed. Pairs are sorted by i and then by j, so the list is a CSR
    matrix by destination i. A pair whose distance is not a number is not listed.

    Args:
        positions: Coordinates in Å [n_atoms, 3].
        ptr: Where each molecule's atoms begin, int64 [n_mols + 1].
        cutoff: In Å.

    Returns:
        Destination i and source j, each int64 [n_edges].
    """
    i, j = candidate_pairs(ptr)
    with torch.no_grad():
        inside = (positions[j] - positions[i]).square().sum(-1) < cutoff * cutoff
    return i[inside], j[inside]


def candidate_pairs(ptr: Tensor) -> tuple[Tensor, Tensor]:
    """All ordered pairs i != j inside each molecule, sorted by i and then by j."""
    sizes = ptr[1:] - ptr[:-1]
    # Atom i of a molecule of n atoms has n - 1 partners; skipping itself shifts the later ones.
    partners = torch.repeat_interleave(sizes - 1, sizes)
    first = torch.repeat_interleave(ptr[:-1], sizes)
    i = torch.repeat_interleave(torch.arange(len(partners), device=ptr.device), partners)
    row_start = partners.cumsum(0) - partners
    rank = torch.arange(len(i), device=ptr.device) - row_start[i]
    j = first[i] + rank
    return i, j + (j >= i).to(j.dtype)
