"""What is asked of a molecule and what became of it: settings, the result, the way out between."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from mlff_core.chem.variant import Expansion, Variant
from mlff_core.elements import KNOWN_ELEMENTS
from mlff_core.schema import MoleculeRow, column
from mlff_core.status import MoleculeStatus, Reason

#: Whether geometries are given, and which of their atoms may move.
From3D = Literal["none", "all", "hydrogens", "frozen"]


@dataclass(frozen=True)
class ChemistrySettings:
    """How a molecule is checked and embedded. Validated when made.

    Attributes:
        n_conformers: Conformers to embed; pruning may leave fewer. None: as many as a molecule's
            rotatable bonds and rings suggest.
        max_conformers: Most of them where the molecule decides.
        max_atoms: Largest molecule, hydrogens counted.
        seed: A seed per molecule is derived from this one and the canonical SMILES, so that a
            geometry depends neither on the order of the records nor on the shard.
        prune_rmsd_angstrom: Conformers closer than this (heavy atoms and polar hydrogens, symmetry
            counted) are one.
        embed_timeout_s: RDKit's own limit in whole seconds for each of three tries at the first
            conformer; above 50 atoms in proportion more.
        embed_attempts: Most attempts of each of these tries, fewer of a molecule of more than 24
            atoms; None for as many as they are worth.
        conformers_timeout_s: Seconds of computing for all other conformers together; twice as long
            by the clock.
        hard_timeout_s: Limit for the whole molecule, enforced by the pool, which kills the worker
            process.
        elements: Atomic numbers that the model knows.
        min_charge: Lowest total charge that the model knows.
        max_charge: Highest total charge that the model knows.
        model_sha256: Of the model, whose table says what its training hardly saw; None: nothing is
            said about that.
        expansion: Which structures of a record are computed.
        from_3d: "none": molecules are embedded. Else their given geometries are taken, of which
            "all" atoms may move, "hydrogens" only, or all but the "frozen" ones that they name.
    """

    n_conformers: int | None = 1
    max_conformers: int = 100
    max_atoms: int = 250
    seed: int = 20260101
    prune_rmsd_angstrom: float = 0.3
    embed_timeout_s: int = 3
    embed_attempts: int | None = None
    conformers_timeout_s: int = 10
    hard_timeout_s: float = 60.0
    elements: tuple[int, ...] = KNOWN_ELEMENTS
    min_charge: int = -3
    max_charge: int = 3
    model_sha256: str | None = None
    expansion: Expansion = field(default_factory=Expansion)
    from_3d: From3D = "none"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, naming the field.

        Raises:
            ValueError: A field is out of its range.
        """
        whole_seconds = ("embed_timeout_s", "conformers_timeout_s")
        counts = ("n_conformers", "max_conformers", "max_atoms")
        for name in (*counts, *whole_seconds, "hard_timeout_s"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, found {getattr(self, name)}")
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise ValueError(f"seed: expected a whole number, 0 or more, found {self.seed!r}")
        if self.prune_rmsd_angstrom < 0:
            raise ValueError(
                f"prune_rmsd_angstrom: expected 0 or more, found {self.prune_rmsd_angstrom}"
            )
        for name in whole_seconds:
            if getattr(self, name) != int(getattr(self, name)):
                raise ValueError(f"{name}: expected whole seconds, found {getattr(self, name)}")
        if self.from_3d not in get_args(From3D):
            raise ValueError(
                f"from_3d: expected one of {', '.join(get_args(From3D))}, found {self.from_3d}"
            )
        if self.min_charge > self.max_charge:
            raise ValueError(
                f"min_charge: expected at most max_charge {self.max_charge}, "
                f"found {self.min_charge}"
            )

    @property
    def most_conformers(self) -> int:
        """Conformers that a molecule has at most."""
        return self.max_conformers if self.n_conformers is None else self.n_conformers


@dataclass
class PreparedMolecule(MoleculeRow):
    """A record, or one of its variants, after the chemistry: its row of `molecules`, its geometry.

    The columns of the row are in `mlff_core.schema`; those that the relaxation knows are not filled
    in yet.

    Attributes:
        numbers: Atomic numbers, int8 [n_atoms].
        positions: Starting geometries in Å, float32 [n_conformers, n_atoms, 3].
        bonds: Bonded pairs of the SMILES, hydrogens included, int16 [n_bonds, 2].
        chirality: Specified tetrahedral centres, int16 [n_centres, 4]: atoms a b c d such that the
            determinant of (a-d, b-d, c-d) is positive. d is the fourth neighbour, or the centre
            itself where it has but three. A hindered axis b-c, too, with a and d beside it.
        double_bonds: Specified double bonds, int16 [n_double_bonds, 5]: atoms i j k l with j=k the
            double bond, then +1 where i and l are on one side (cis), -1 where not.
        held_bonds: Heavy atom and hydrogen of each bond that says which protonation state was
            given, int16 [n_held, 2]; see `mlff_core.chem.held`.
        frozen: Atoms that stay where they are, int16 [n_frozen].
        timings_s: Wall seconds spent on this molecule.
        asked: The variant that is computed; None for the record as it stands.
    """

    numbers: NDArray[np.int8] = column("list<int8>", "atomic numbers")
    positions: NDArray[np.float32] = column("list<float32>", "starting geometries", "Å", width=3)
    bonds: NDArray[np.int16] = column("list<int16>", "bonded pairs", width=2)
    chirality: NDArray[np.int16] = column("list<int16>", "tetrahedral centres", width=4)
    double_bonds: NDArray[np.int16] = column("list<int16>", "double bonds", width=5)
    held_bonds: NDArray[np.int16] = column("list<int16>", "bonds that may be held", width=2)
    frozen: NDArray[np.int16] = column("list<int16>", "atoms that stay where they are")
    timings_s: float = 0.0
    asked: Variant | None = None

    @classmethod
    def of(cls, record: int, input_id: str | None, source: str | Variant, **columns: Any) -> Self:
        """A molecule of which nothing is known yet.

        Args:
            record: Position in the library.
            input_id: Identifier in the library.
            source: SMILES as it stands there, or a variant of it.
            columns: What is known all the same, by attribute.
        """
        if isinstance(source, str):
            return cls(record, input_id, source, **columns)
        about: dict[str, Any] = {
            "variant": source.number,
            "variant_kind": source.kind,
            "variant_weight": source.weight,
            "protonation_margin": source.margin,
            "n_variants": source.n_variants,
            "standard_smiles": source.parent if source.parent != source.smiles else None,
            "message": source.message,
            "flags": list(source.flags),
            "asked": source,
        }
        return cls(record, input_id, source.input_smiles, **about | columns)

    @property
    def source(self) -> str | Variant:
        """What it was made of."""
        return self.asked or self.input_smiles

    def conformers(self) -> NDArray[np.float32]:
        """The starting geometries in Å, [n_conformers, n_atoms, 3]; a file has them flat."""
        return self.positions.reshape(-1, max(len(self.numbers), 1), 3)


def n_records(molecules: Iterable[MoleculeRow]) -> int:
    """How many records have all their variants among these."""
    return sum(molecule.variant == molecule.n_variants - 1 for molecule in molecules)


class NotOkError(Exception):
    """Ends the preparation of a molecule: `rejected` or `failed`, and why."""

    def __init__(self, status: MoleculeStatus, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


def rejected(reason: Reason, message: str) -> NotOkError:
    """The error that rejects a molecule as something that cannot be computed."""
    return NotOkError(MoleculeStatus.REJECTED, reason, message)
