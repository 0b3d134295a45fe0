"""The constraints of many molecules of one size class in a few tensors on a device.

Pairs are padded to the size class, all other terms stand one molecule behind the other with
offsets. Conformers share what belongs to their molecule.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlff_core.chem.constraints import EmbeddingConstraints

#: Atoms that a molecule's arrays are padded to; a molecule has the smallest that it fits into.
SIZE_CLASSES: Final = (16, 32, 64, 128, 256)
#: Upper bound in Å of pairs that do not exist.
_NO_BOUND: Final = 1e6
#: No bond of the elements known is longer, so atoms that hang together are within this many Å
#: for each atom of the molecule.
_LONGEST_BOND: Final = 3.5
#: By how much in Å a lower bound may be above an upper one.
_ROUNDING: Final = 1e-4
#: Height of the torsion that holds a specified double bond on its side, in RDKit's unit.
_DOUBLE_BOND_HEIGHT: Final = 30.0
#: Weight of a flat centre beside one that UFF holds with 6 kcal/mol, where it does with 50.
_STIFF: Final = 3.0
#: Rings of this many atoms and more are macrocycles, as in RDKit ...
_MACROCYCLE: Final = 9
#: ... whose atoms begin at least this share of the way from lower to upper bounds apart, and whose
#: torsions weigh so many times as much.
_STRETCH: Final = 0.5
_MACROCYCLE_TORSIONS: Final = 5.0
#: cos(m x) as a polynomial in c = cos(x): coefficients of c^0 ... c^6 for m = 1 ... 6.
_CHEBYSHEV: Final = np.array(
    [
        [0, 1, 0, 0, 0, 0, 0],
        [-1, 0, 2, 0, 0, 0, 0],
        [0, -3, 0, 4, 0, 0, 0],
        [1, 0, -8, 0, 8, 0, 0],
        [0, 5, 0, -20, 0, 16, 0],
        [-1, 0, 18, 0, -48, 0, 32],
    ],
    np.float32,
)


class Rows(NamedTuple):
    """Terms of one kind, one molecule's behind the other's.

    Attributes:
        atoms: Which atoms of its molecule a term is about, int64 [n_terms, width].
        ptr: First term of each molecule, and the end, int64 [n_mols + 1].
    """

    atoms: Tensor
    ptr: Tensor

    def of(self, molecule: Tensor) -> tuple[Tensor, Tensor]:
        """The terms of conformers: whose each is, and its row here; both int64 [n].

        Args:
            molecule: Molecule of each conformer, int64 [n_conformers].
        """
        first = self.ptr[molecule]
        counts = self.ptr[molecule + 1] - first
        owner = torch.repeat_interleave(torch.arange(len(molecule), device=first.device), counts)
        before = torch.cumsum(counts, 0) - counts
        return owner, torch.arange(len(owner), device=first.device) + (first - before)[owner]


class Packed(NamedTuple):
    """What the minimiser and the checks know of the molecules of one size class.

    Attributes:
        n_atoms: int64 [n_mols].
        sound: Whether its bounds are numbers that do not contradict each other and hold its atoms
            together, bool [n_mols]; `fault` says it in words.
        inverse_upper: One over the squared upper bounds in 1/Å², negative where a pair is bonded
            or shares a neighbour (near); nearly 0 where there is no pair [n_mols, size, size].
        lower: Squared lower bounds in Å², 0 where there is no pair [n_mols, size, size].
        stretch: Share of the way to the upper bounds by which lower ones are raised where a
            schedule says so; 0 but for macrocycles [n_mols].
        volumes: Signed volumes (a-d) . ((b-d) x (c-d)) that are bounded: of stereocentres, and of
            flat centres, which stand in the column of d.
        volume_bounds: Lower and upper bound in Å³ and weight [n_volumes, 3].
        volume_flat: Whether it is a flat centre's, bool [n_volumes].
        torsions: Four atoms in a row.
        torsion_series: Coefficients of c^1 ... c^6, c the cosine of the angle [n_torsions, 6].
        incident: Slots of the terms that each atom is part of, 4 * term + place, where a molecule's
            torsions follow its volumes; atoms of a molecule one behind the other, int32.
        incident_ptr: First of each atom's, int32 [n_mols, size + 1].
        centres: Centres and their four neighbours, or itself again where it has but three.
        centre_bounds: Of their first four, see `checks`: least inside volume; lower and upper bound
            of the signed volume (0, 0: unsigned) [n_centres, 3].
        double_bonds: Specified double bonds.
        sides: +1 cis, -1 trans [n_double_bonds].
        bent: Three atoms that are not in a line.
        planar: Flat centres and their three neighbours.
        piercings: Atoms of a ring of 3 to 8, filled up with -1, and of a bond that must not go
            through it [n, 10].
    """

    n_atoms: Tensor
    sound: Tensor
    inverse_upper: Tensor
    lower: Tensor
    stretch: Tensor
    volumes: Rows
    volume_bounds: Tensor
    volume_flat: Tensor
    torsions: Rows
    torsion_series: Tensor
    incident: Tensor
    incident_ptr: Tensor
    centres: Rows
    centre_bounds: Tensor
    double_bonds: Rows
    sides: Tensor
    bent: Rows
    planar: Rows
    piercings: Rows

    @property
    def size(self) -> int:
        """Atoms that the arrays have room for."""
        return self.lower.shape[-1]


def size_class(n_atoms: int) -> int | None:
    """The smallest size that a molecule fits into; None if there is none."""
    return next((size for size in SIZE_CLASSES if n_atoms <= size), None)


def fault(constraints: EmbeddingConstraints) -> str | None:
    """Why no coordinates can satisfy the constraints, or None if nothing speaks against it."""
    bounds = constraints.bounds
    n = len(bounds)
    if not np.isfinite(bounds).all():
        return "a distance bound is not a number"
    upper, lower = np.triu(bounds, 1), np.tril(bounds, -1).T
    if (lower > upper + _ROUNDING).any() or (bounds < 0).any():
        i, j = np.argwhere((lower > upper + _ROUNDING) | (upper < 0) | (lower < 0))[0]
        return (
            f"the bounds of atoms {i} and {j} contradict each other: "
            f"at least {lower[i, j]:.2f} Å, at most {upper[i, j]:.2f} Å"
        )
    if n > 1 and upper.max() > _LONGEST_BOND * n:
        return "the atoms do not hang together"
    return None


def pack(molecules: Sequence[EmbeddingConstraints], device: torch.device | str) -> Packed:
    """The constraints of molecules of one size class on a device.

    Raises:
        ValueError: There is no molecule, or one is larger than the largest class.
    """
    if not molecules:
        raise ValueError("expected at least one molecule")
    sizes = np.array([m.n_atoms for m in molecules])
    size = size_class(int(sizes.max()))
    if size is None:
        raise ValueError(f"{sizes.max()} atoms, expected at most {SIZE_CLASSES[-1]}")
    parts = {name: _joined(molecules, name) for name in _LISTS}

    def tensor(values: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    def rows(atoms: NDArray, owner: NDArray) -> Rows:
        counts = np.bincount(owner, minlength=len(molecules))
        return Rows(tensor(atoms.astype(np.int64)), tensor(np.cumsum([0, *counts])))

    def plain(name: str, width: int | None = None) -> Rows:
        values, owner = parts[name]
        return rows(values[:, :width], owner)

    inverse_upper, lower, sound = _pairs(molecules, sizes, size, parts, device)
    (volume_atoms, volume_bounds), owner = _volumes(molecules, parts)
    volumes = rows(volume_atoms, owner)
    (torsion_atoms, series), owner = _torsions(molecules, parts)
    torsions = rows(torsion_atoms, owner)
    incident, incident_ptr = _incidence(volumes, torsions, size)
    (centre_atoms, centre_bounds), owner = _centres(molecules, parts)
    return Packed(
        n_atoms=tensor(sizes),
        sound=sound,
        inverse_upper=inverse_upper,
        lower=lower,
        stretch=tensor(np.where(_macrocycles(molecules), np.float32(_STRETCH), np.float32(0.0))),
        volumes=volumes,
        volume_bounds=tensor(volume_bounds[:, :3].astype(np.float32)),
        volume_flat=tensor(volume_bounds[:, 3] > 0),
        torsions=torsions,
        torsion_series=tensor(series),
        incident=incident,
        incident_ptr=incident_ptr,
        centres=rows(centre_atoms, owner),
        centre_bounds=tensor(centre_bounds.astype(np.float32)),
        double_bonds=plain("double_bonds", 4),
        sides=tensor(parts["double_bonds"][0][:, 4].astype(np.float32)),
        bent=plain("bent"),
        planar=plain("planar"),
        piercings=_piercings(plain("rings"), plain("bonds")),
    )


#: The lists of atoms in `EmbeddingConstraints` that are packed.
_LISTS: Final = (
    "bonds", "angles", "bent", "chiral", "tetrahedral", "double_bonds", "planar", "torsions",
    "rings",
)  # fmt: skip


def _joined(molecules: Sequence[EmbeddingConstraints], name: str) -> tuple[NDArray, NDArray]:
    """Rows of one list of all molecules, and whose each is."""
    lists = [getattr(m, name) for m in molecules]
    return np.concatenate(lists), np.repeat(np.arange(len(lists)), [len(rows) for rows in lists])


def _merged(*kinds: tuple[NDArray, NDArray, NDArray]) -> tuple[tuple[NDArray, NDArray], NDArray]:
    """Several kinds of terms as one, molecule by molecule: atoms and numbers, and whose each is."""
    atoms, numbers, owner = (np.concatenate(columns) for columns in zip(*kinds, strict=True))
    order = np.argsort(owner, kind="stable")
    return (atoms[order], numbers[order]), owner[order]


def _pairs(
    molecules: Sequence[EmbeddingConstraints],
    sizes: NDArray,
    size: int,
    parts: dict[str, tuple[NDArray, NDArray]],
    device: torch.device | str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Padded bounds of all pairs; spread out on the device, which has the bandwidth for it."""
    flat = torch.from_numpy(
        np.concatenate([np.ascontiguousarray(m.bounds, np.float32).ravel() for m in molecules])
    ).to(device)
    n = torch.from_numpy(sizes).to(device)[:, None, None]
    first = torch.cumsum(n * n, 0) - n * n
    atom = torch.arange(size, device=device)
    a, b = torch.minimum(atom[:, None], atom), torch.maximum(atom[:, None], atom)
    real = (b < n) & (a < b)
    upper = torch.where(real, flat[torch.where(real, first + a * n + b, 0)], _NO_BOUND)
    lower = torch.where(real, flat[torch.where(real, first + b * n + a, 0)], 0.0)
    # "not below" rather than "above": NaN is neither.
    sound = ((lower >= 0) & (lower <= upper + _ROUNDING)).all(2).all(1)
    sound &= (~real | (upper <= _LONGEST_BOND * n)).all(2).all(1)
    bonds, bond_owner = parts["bonds"]
    angles, angle_owner = parts["angles"]
    near = np.concatenate([bonds, angles[:, [0, 2]]]).T.astype(np.int64)
    index = np.stack([np.concatenate([bond_owner, angle_owner]), *near])
    owner, i, j = torch.from_numpy(index).to(device)
    sign = torch.ones(len(molecules), size, size, device=device)
    sign[owner, i, j] = -1.0
    sign[owner, j, i] = -1.0
    return sign / (upper * upper), lower * lower, sound


def _volumes(
    molecules: Sequence[EmbeddingConstraints], parts: dict[str, tuple[NDArray, NDArray]]
) -> tuple[tuple[NDArray, NDArray], NDArray]:
    """Atoms, bounds, weight and 1 where flat."""
    chiral, chiral_owner = parts["chiral"]
    planar, planar_owner = parts["planar"]
    bounds = np.concatenate([m.chiral_volumes for m in molecules])
    weights = np.where(np.concatenate([m.planar_stiff for m in molecules]), _STIFF, 1.0)
    level, one = np.zeros(len(planar)), np.ones(len(chiral))
    return _merged(
        (chiral[:, 1:], np.c_[bounds, one, np.zeros(len(chiral))], chiral_owner),
        (planar[:, [1, 2, 3, 0]], np.c_[level, level, weights, level + 1], planar_owner),
    )


def _macrocycles(molecules: Sequence[EmbeddingConstraints]) -> NDArray[np.bool_]:
    """Which molecules have a macrocycle, [n_mols]."""
    return np.array([m.widest_ring for m in molecules]) >= _MACROCYCLE


def _torsions(
    molecules: Sequence[EmbeddingConstraints], parts: dict[str, tuple[NDArray, NDArray]]
) -> tuple[tuple[NDArray, NDArray], NDArray]:
    """Atoms, and the series in powers of the cosine; double bonds held on their side among them."""
    torsions, torsion_owner = parts["torsions"]
    doubles, double_owner = parts["double_bonds"]
    heights = np.concatenate([m.torsion_heights for m in molecules])
    weight = np.where(_macrocycles(molecules)[torsion_owner], np.float32(_MACROCYCLE_TORSIONS), 1)
    products = weight[:, None] * heights * np.concatenate([m.torsion_signs for m in molecules])
    held = np.zeros((len(doubles), 6), np.float32)
    held[:, 0] = -_DOUBLE_BOND_HEIGHT * doubles[:, 4]  # lowest where the cosine has the side's sign
    return _merged(
        (torsions, (products.astype(np.float32) @ _CHEBYSHEV)[:, 1:], torsion_owner),
        (doubles[:, :4], held, double_owner),
    )


def _centres(
    molecules: Sequence[EmbeddingConstraints], parts: dict[str, tuple[NDArray, NDArray]]
) -> tuple[tuple[NDArray, NDArray], NDArray]:
    chiral, chiral_owner = parts["chiral"]
    tetrahedral, tetrahedral_owner = parts["tetrahedral"]
    volumes = np.concatenate([m.chiral_volumes for m in molecules])
    least = np.concatenate([m.tetrahedral_volumes for m in molecules])
    none = np.zeros(len(least))
    return _merged(
        (chiral, np.c_[np.zeros(len(chiral)), volumes], chiral_owner),
        (tetrahedral, np.c_[least, none, none], tetrahedral_owner),
    )


def _incidence(volumes: Rows, torsions: Rows, size: int) -> tuple[Tensor, Tensor]:
    """Which slots each atom gathers, in the order of the slots."""
    device = volumes.ptr.device
    n_mols = len(volumes.ptr) - 1
    owners, atoms, slots = [], [], []
    n_volumes = volumes.ptr[1:] - volumes.ptr[:-1]
    for rows, base in ((volumes, torch.zeros_like(n_volumes)), (torsions, n_volumes)):
        owner, row = rows.of(torch.arange(n_mols, device=device))
        term = row - rows.ptr[owner] + base[owner]
        place = torch.arange(4, device=device)
        owners.append(owner[:, None].expand(-1, 4).reshape(-1))
        atoms.append(rows.atoms.reshape(-1))
        slots.append((4 * term[:, None] + place).reshape(-1))
    cell = torch.cat(owners) * size + torch.cat(atoms)
    slot = torch.cat(slots)
    order = torch.argsort(cell * (4 * len(slot) + 4) + slot)
    ends = torch.cumsum(torch.bincount(cell, minlength=n_mols * size), 0).reshape(n_mols, size)
    starts = torch.cat([ends.new_zeros(1), ends.reshape(-1)[size - 1 : -1 : size]])
    return slot[order].int(), torch.cat([starts[:, None], ends], 1).int()


def _piercings(rings: Rows, bonds: Rows) -> Rows:
    """Rings and bonds of a molecule that share no atom, every combination."""
    n_rings, n_bonds = rings.ptr.diff(), bonds.ptr.diff()
    n = n_rings * n_bonds
    owner = torch.repeat_interleave(torch.arange(len(n), device=n.device), n)
    local = torch.arange(len(owner), device=n.device) - (torch.cumsum(n, 0) - n)[owner]
    ring = rings.atoms[rings.ptr[owner] + local // n_bonds[owner]]
    bond = bonds.atoms[bonds.ptr[owner] + local % n_bonds[owner]]
    apart = ~(ring[:, :, None] == bond[:, None, :]).any(2).any(1)
    counts = torch.bincount(owner[apart], minlength=len(n))
    return Rows(
        torch.cat([ring, bond], 1)[apart],
        torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)]),
    )
