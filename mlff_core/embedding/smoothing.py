"""Bounds of many molecules smoothed at once: no distance is longer than a way around it.

That is half of what RDKit takes for a molecule's bounds, on a core and one molecule at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

import numpy as np
import torch
from torch import Tensor

from mlff_core.chem.constraints import EmbeddingConstraints

#: Upper bound in Å of pairs that do not exist: no way leads over them.
_NO_BOUND: Final = 1e6
#: Pairs of atoms, padding counted, that are smoothed at once.
_PAIRS_AT_ONCE: Final = 1 << 25


def smoothed(
    molecules: Sequence[EmbeddingConstraints], device: torch.device | str
) -> list[EmbeddingConstraints]:
    """The same molecules, those whose bounds are not smoothed with smooth ones.

    Where no distances satisfy the bounds, a lower one is above its upper one in the end.

    Args:
        molecules: Of about the same size.
        device: Where it is computed.
    """
    done = [*molecules]
    rough = [k for k, molecule in enumerate(molecules) if not molecule.smoothed]
    for some in _pieces(molecules, rough):
        for k, bounds in zip(some, _smooth([done[k] for k in some], device), strict=True):
            done[k] = replace(done[k], bounds=bounds, smoothed=True)
    return done


def _pieces(molecules: Sequence[EmbeddingConstraints], which: Sequence[int]) -> Iterator[list[int]]:
    size = max((molecules[k].n_atoms for k in which), default=0)
    at_once = max(1, _PAIRS_AT_ONCE // max(1, size * size))
    for _, some in groupby(range(len(which)), lambda place: place // at_once):
        yield [which[place] for place in some]


def _smooth(
    molecules: Sequence[EmbeddingConstraints], device: torch.device | str
) -> list[np.ndarray]:
    sizes = np.array([molecule.n_atoms for molecule in molecules])
    size = int(sizes.max())
    atom = torch.arange(size, device=device)
    n = torch.from_numpy(sizes).to(device)[:, None, None]
    real = (atom[:, None] < n) & (atom < n)
    given = torch.zeros(len(sizes), size, size, device=device)
    given[real] = torch.from_numpy(np.concatenate([m.bounds.ravel() for m in molecules])).to(given)
    above = atom[:, None] < atom
    upper = torch.where(above & real, given, 0.0)
    lower = torch.where(~above, given, 0.0)
    upper, lower = upper + upper.mT, lower + lower.mT
    upper.masked_fill_(~real, _NO_BOUND)
    triangles(upper, lower)
    flat = torch.where(above, upper, lower)[real].cpu().numpy()
    ends = np.cumsum(sizes * sizes)
    return [
        part.reshape(n_atoms, n_atoms)
        for part, n_atoms in zip(np.split(flat, ends[:-1]), sizes.tolist(), strict=True)
    ]


def triangles(upper: Tensor, lower: Tensor) -> None:
    """Let bounds fulfil the triangle inequality (A. Dress and T. Havel, Discrete Appl. Math. 1988).

    As RDKit's `triangleSmoothBounds` without tolerance; atom after atom, all pairs at once.

    Args:
        upper: Å, symmetric, 0 on the diagonal [n_mols, size, size]; changed.
        lower: The same.
    """
    for k in range(upper.shape[-1]):
        there, back = upper[:, :, k, None].clone(), upper[:, k, None].clone()
        far, far_back = lower[:, :, k, None].clone(), lower[:, k, None].clone()
        torch.minimum(upper, there + back, out=upper)
        torch.maximum(lower, far - back, out=lower)
        torch.maximum(lower, far_back - there, out=lower)
