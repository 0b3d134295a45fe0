"""Which conformers of a molecule are the same one.

Two are the same if they can be laid on each other, with atoms that the molecule cannot tell apart
exchanged, so that the heavy atoms and the polar hydrogens match: where an OH points is a rotamer of
its own, how a methyl group stands is not. Before a relaxation that prunes starts; after it the
energy is asked first (`duplicates_of`), and of a molecule that is not chiral a mirror image is the
same conformer once more.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

#: Elements whose hydrogens are polar: N, O, S, Se.
_POLAR: Final = frozenset([7, 8, 16, 34])
#: Ways to exchange equal atoms that are tried; PF6- alone has 720.
_MOST_SYMMETRIES: Final = 1000
#: Superpositions that are tried at once.
_AT_ONCE: Final = 4096
#: What a bound of the RMSD is multiplied by, so that rounding leaves out nothing.
_ROUNDING: Final = 1.0 + 1e-9
#: Å that a polar hydrogen may be off after superposition; a turn by 60 degrees moves it by 0.9.
_POLAR_HYDROGEN_OFF: Final = 0.6
#: Largest force left, in eV/Å, RMSD in Å and energy in kcal/mol within which two relaxed conformers
#: are one. Between these points in proportion of the logarithms, outside them as at the nearest.
_LOOSE: Final = (0.05, 0.25, 1.0)
_TIGHT: Final = (0.01, 0.125, 0.1)


class Sites(NamedTuple):
    """The atoms that say which conformer a geometry is, and how they may be exchanged.

    Attributes:
        atoms: Heavy atoms and polar hydrogens; all atoms if there are none. [n_sites].
        polar: Which of them are hydrogens, bool [n_sites].
        symmetries: Orders of the sites that leave the molecule what it is, [n_symmetries, n_sites].
    """

    atoms: NDArray[np.intp]
    polar: NDArray[np.bool_]
    symmetries: NDArray[np.intp]


def sites(numbers: NDArray[np.integer], bonds: NDArray[np.integer]) -> Sites:
    """The sites of a molecule, from which atoms are bonded alone: resonance forms are one.

    Args:
        numbers: Atomic numbers, [n_atoms].
        bonds: [n_bonds, 2], as in `PreparedMolecule`.
    """
    z = np.asarray(numbers)
    partners: list[list[int]] = [[] for _ in z]
    for i, j in np.asarray(bonds).tolist():
        partners[i].append(j)
        partners[j].append(i)
    hydrogens = [
        len(partners[k]) == 1 and z[k] == 1 and z[partners[k][0]] != 1 for k in range(len(z))
    ]
    kept = [k for k in range(len(z)) if not hydrogens[k] or int(z[partners[k][0]]) in _POLAR]
    place = {atom: site for site, atom in enumerate(kept)}
    graph = Chem.RWMol()
    for k in kept:
        atom = Chem.Atom(int(z[k]))
        # Hydrogens that are left out tell atoms apart: an isotope is a label that RDKit compares.
        atom.SetIsotope(1 + sum(other not in place for other in partners[k]))
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    for i, j in np.asarray(bonds).tolist():
        if i in place and j in place:
            graph.AddBond(place[i], place[j], Chem.BondType.SINGLE)
    found = graph.GetSubstructMatches(graph, uniquify=False, maxMatches=_MOST_SYMMETRIES)
    orders = [tuple(range(len(kept))), *found]  # the first of many may be left out
    return Sites(
        np.array(kept, np.intp),
        np.array([hydrogens[k] for k in kept], bool),
        np.unique(np.array(orders, np.intp), axis=0),
    )


def distinct(positions: NDArray[np.floating], these: Sites, rmsd_angstrom: float) -> list[int]:
    """Which geometries are new, each compared with those before it.

    Args:
        positions: Å, [n_conformers, n_atoms, 3].
        these: The molecule's sites.
        rmsd_angstrom: Geometries closer than this are the same.
    """
    shapes = _Shapes.of(positions, these)
    kept: list[int] = []
    for k in range(len(positions)):
        if not _same(shapes, k, kept, these, rmsd_angstrom).any():
            kept.append(k)
    return kept


def duplicates_of(
    positions: NDArray[np.floating],
    energies_kcal_mol: Sequence[float],
    these: Sites,
    fmax: float,
    *,
    mirrored: bool = False,
) -> list[int | None]:
    """For each relaxed conformer the one that it is a duplicate of; None for those that are new.

    Of those that are the same the one of lowest energy is the new one.

    Args:
        positions: Å, [n_conformers, n_atoms, 3].
        energies_kcal_mol: [n_conformers], from any common zero.
        these: The molecule's sites.
        fmax: Largest force left on an atom, in eV/Å: what is left of it blurs energy and geometry.
        mirrored: Whether a mirror image is the same one, as it is of a molecule that is not chiral.
    """
    rmsd, energy = tolerances(fmax)
    shapes = _Shapes.of(positions, these)
    answers: list[int | None] = [None] * len(positions)
    kept: list[int] = []
    for k in sorted(range(len(positions)), key=lambda k: (energies_kcal_mol[k], k)):
        near = [a for a in kept if energies_kcal_mol[k] - energies_kcal_mol[a] <= energy]
        same = _same(shapes, k, near, these, rmsd)
        if mirrored and not same.all():
            same |= _same(shapes, k, near, these, rmsd, mirrored=True)
        answers[k] = near[same.argmax()] if same.any() else None
        if answers[k] is None:
            kept.append(k)
    return answers


def are_own_mirror_images(
    positions: NDArray[np.floating], these: Sites, fmax: float
) -> NDArray[np.bool_]:
    """Which relaxed geometries can be laid on their mirror image, bool [n_conformers].

    Args:
        positions: Å, [n_conformers, n_atoms, 3].
        these: The molecule's sites.
        fmax: Largest force left on an atom, in eV/Å.
    """
    rmsd, _ = tolerances(fmax)
    shapes = _Shapes.of(positions, these)
    own = (_same(shapes, k, [k], these, rmsd, mirrored=True) for k in range(len(positions)))
    return np.fromiter((same[0] for same in own), bool, len(positions))


def tolerances(fmax: float) -> tuple[float, float]:
    """RMSD in Å and energy in kcal/mol within which conformers relaxed to `fmax` eV/Å are one."""
    share = math.log(fmax / _TIGHT[0]) / math.log(_LOOSE[0] / _TIGHT[0]) if fmax > 0 else 0.0
    share = min(1.0, max(0.0, share))
    rmsd, energy = (
        low * (high / low) ** share for low, high in zip(_TIGHT[1:], _LOOSE[1:], strict=True)
    )
    return rmsd, energy


class _Shapes(NamedTuple):
    """Geometries, and what spares most superpositions of two of them.

    Attributes:
        x: Positions of the sites around their middle, Å [n_conformers, n_sites, 3].
        moments: See `_moments`.
        radii: How far each site is from the middle, Å [n_conformers, n_sites]: those of two atoms
            differ by no more than the atoms are apart, however the geometries are turned.
        squares: Sum of their squares, Å² [n_conformers].
    """

    x: NDArray[np.float64]
    moments: NDArray[np.float64]
    radii: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, positions: NDArray[np.floating], these: Sites) -> "_Shapes":
        x = np.asarray(positions, np.float64)[:, these.atoms]
        x = x - x.mean(1, keepdims=True)
        squares = np.array([np.square(one).sum() for one in x])
        return cls(x, _moments(x), np.linalg.norm(x, axis=2), squares)


def _moments(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Singular values of the coordinates, [n_conformers, 3]: the same however atoms are ordered.

    The distance between those of two geometries is at most √n times their RMSD (L. Mirsky, Quart.
    J. Math. 1960, 11, 50), which spares most superpositions.
    """
    finite = np.isfinite(x).all((1, 2))
    values = np.full((len(x), 3), np.nan)
    found = np.linalg.svd(x[finite], compute_uv=False)
    values[finite] = np.pad(found, ((0, 0), (0, 3 - found.shape[1])))
    return values


def _same(
    shapes: _Shapes,
    k: int,
    others: Sequence[int],
    these: Sites,
    rmsd: float,
    *,
    mirrored: bool = False,
) -> NDArray[np.bool_]:
    """Which others are the same as one geometry, bool [n_others]."""
    same = np.zeros(len(others), bool)
    x, moments, radii, squares = shapes
    n_sites = x.shape[1]
    # "not below" rather than "above": NaN is like nothing.
    those = np.array(others, np.intp)
    apart = np.linalg.norm(moments[those] - moments[k], axis=1)
    near = np.flatnonzero(apart <= rmsd * math.sqrt(n_sites))
    at_once = max(1, _AT_ONCE // len(these.symmetries))
    for first in range(0, len(near), at_once):
        some = near[first : first + at_once]
        j = those[some]
        least = np.square(radii[j][:, these.symmetries] - radii[k]).sum(2)
        place, order = np.nonzero(least <= rmsd**2 * n_sites * _ROUNDING)
        if not len(place):
            continue
        ordered = x[j[place][:, None], these.symmetries[order]]  # [n, n_sites, 3]
        if mirrored:
            ordered = -ordered  # turned about, any reflection is this one
        u, singular, vt = np.linalg.svd(np.einsum("sni,nj->sij", ordered, x[k]))
        improper = np.linalg.det(u) * np.linalg.det(vt) < 0
        signs = np.ones_like(singular)
        signs[improper, -1] = -1.0
        left = squares[k] + squares[j[place]] - 2.0 * (singular * signs).sum(1)
        fits = np.flatnonzero(left < rmsd**2 * n_sites)
        if these.polar.any():
            rotations = np.einsum("sij,sj,sjk->sik", u[fits], signs[fits], vt[fits])
            laid = np.einsum("sni,sij->snj", ordered[fits], rotations)
            off = np.linalg.norm(laid[:, these.polar] - x[k][these.polar], axis=2).max(1)
            fits = fits[off < _POLAR_HYDROGEN_OFF]
        same[some[place[fits]]] = True
    return same
