"""The one declaration of what a run leaves: every column with its type, unit and meaning.

A row of `molecules` is a `MoleculeRow`, one of `conformers` a `ConformerRow`. All else comes from
these two: the Arrow schemas of the tables and of the files between the steps of a shard, the
molecule that the chemistry hands on (`PreparedMolecule` is a `MoleculeRow` with a geometry), and
the tables in docs/schema.md. So a column is added by one line here, and by filling the attribute
where its value is known: of a molecule in `mlff_core.chem`, of a conformer in `mlff_core.shard`.

The processes that embed molecules import this file: it needs neither Arrow nor torch.
"""

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from mlff_core.status import (
    ConformerStatus,
    Flag,
    MoleculeStatus,
    Reason,
    VariantKind,
    Word,
)

#: Goes up when a column is added, renamed, or comes to mean something else.
SCHEMA_VERSION: Final = "2"

#: Stands for a default that was not given, where None is one.
_UNSAID: Final = object()


@dataclass(frozen=True)
class Column:
    """What is said of a column beside its name.

    Attributes:
        kind: Type in the tables: "int64", "string", "list<float32>", ...
        meaning: In words.
        unit: None for a number without one, and for what is no number.
        required: Whether it is never null.
        words: The words that may stand in it; None for any. Joined by `+` in one of `joined`.
        joined: Whether several words may be joined.
        width: Numbers in a row of a list that is really a matrix; it is written flat.
    """

    kind: str
    meaning: str
    unit: str | None = None
    required: bool = False
    words: type[Word] | None = None
    joined: bool = False
    width: int | None = None


def column(
    kind: str,
    meaning: str,
    unit: str | None = None,
    *,
    required: bool = False,
    words: type[Word] | None = None,
    joined: bool = False,
    width: int | None = None,
    default: Any = _UNSAID,
) -> Any:
    """Declare an attribute that is a column; see `Column`.

    Args:
        default: Value of a row that says nothing else. Without it, that is None where the column
            may be null, and an empty list where it is one; MISSING: each row has to say it.
    """
    about = {"column": Column(kind, meaning, unit, required, words, joined, width)}
    if kind == "list<string>":
        return field(default_factory=list, metadata=about)
    if kind.startswith("list<") and not required:
        shape = (0,) if width is None else (0, width)
        dtype = kind.removeprefix("list<").removesuffix(">")
        return field(default_factory=lambda: np.empty(shape, dtype), metadata=about)
    if default is _UNSAID:
        default = MISSING if required else None
    return field(default=default, metadata=about)


def columns_of(row_type: type) -> dict[str, Column]:
    """The columns of a kind of row by name, in order."""
    every: tuple[Field[Any], ...] = fields(row_type)
    return {f.name: f.metadata["column"] for f in every if "column" in f.metadata}


@dataclass
class MoleculeRow:
    """One row of `molecules`: an input record or one of its variants, whatever happened to it."""

    TABLE: ClassVar[str] = "molecules"
    #: What names a row; rows of a part stand in this order.
    KEY: ClassVar[tuple[str, ...]] = ("record", "variant")

    record: int = column("int64", "0-based position in the library", required=True)
    input_id: str | None = column(
        "string", "id in the library, as it stands there; null if none", default=MISSING
    )
    input_smiles: str = column("string", "SMILES as it stands in the library", required=True)
    variant: int = column(
        "int16", "0-based number of the structure within the record", required=True, default=0
    )
    variant_kind: str = column(
        "string",
        "what makes this structure another one than the record says, joined by `+`",
        required=True,
        words=VariantKind,
        joined=True,
        default=VariantKind.AS_GIVEN,
    )
    variant_weight: float | None = column(
        "float64", "share of this structure at the pH that was asked for; null where nothing says"
    )
    protonation_margin: float | None = column(
        "float64",
        "pH units between the record's dominant protonation state and the next one, below 1 a "
        "guess; null where no pH was asked for",
    )
    relative_tautomer_energy_kcal_mol: float | None = column(
        "float64",
        "in vacuum, above the lowest structure of the record with the same atoms and charge whose "
        "protons stand as given; null where there are no tautomers",
        "kcal/mol",
    )
    n_variants: int = column("int16", "rows of this record", required=True, default=1)
    smiles: str | None = column("string", "canonical isomeric SMILES of what was computed")
    standard_smiles: str | None = column(
        "string",
        "the same of the record, before open stereo, protonation or a tautomer was chosen; null "
        "where nothing was",
    )
    mapped_smiles: str | None = column(
        "string",
        "the same with all hydrogens written, and atom map numbers 1..n in the order of the "
        "positions",
    )
    inchikey: str | None = column("string", "InChIKey of what was computed")
    formula: str | None = column("string", "molecular formula of what was computed")
    charge: int | None = column("int32", "total charge", "e")
    n_atoms: int | None = column("int32", "atoms, hydrogens counted")
    n_heavy_atoms: int | None = column("int32", "atoms that are not hydrogen")
    n_rotatable_bonds: int | None = column("int32", "rotatable bonds (RDKit)")
    mol_weight: float | None = column("float64", "molecular weight, mean isotopic masses", "g/mol")
    clogp: float | None = column("float64", "logP of octanol and water, estimated (Crippen)")
    tpsa: float | None = column("float64", "topological polar surface area", "Å²")
    qed: float | None = column("float64", "quantitative estimate of drug-likeness, 0 to 1")
    status: MoleculeStatus = column(
        "string",
        "ok, rejected or failed",
        required=True,
        words=MoleculeStatus,
        default=MoleculeStatus.OK,
    )
    reason: Reason | None = column(
        "string", "why the molecule is not ok; null if it is", words=Reason
    )
    message: str | None = column(
        "string", "the reason in words, or what was changed before computing"
    )
    flags: list[str] = column(
        "list<string>",
        "what to know of a molecule that is ok all the same",
        required=True,
        words=Flag,
    )
    n_conformers: int = column(
        "int32", "rows of this record and variant in conformers", required=True, default=0
    )
    n_converged: int = column("int32", "of these, converged", required=True, default=0)
    best_conformer: int | None = column(
        "int16", "conformer of the lowest energy; null if there is none"
    )
    min_energy_ev: float | None = column("float64", "energy of the best conformer", "eV")
    n_unique_conformers: int | None = column(
        "int32", "converged conformers that are not duplicates; null if none converged"
    )
    ensemble_free_energy_ev: float | None = column(
        "float64",
        "-kT ln Σ g exp(-E/kT) over distinct conformers at 298.15 K; null unless several converged",
        "eV",
    )
    conformational_entropy_cal_mol_k: float | None = column(
        "float64",
        "-R Σ p ln(p/g) over distinct conformers at 298.15 K; null unless several converged",
        "cal/mol/K",
    )
    best_conformer_water: int | None = column(
        "int16", "conformer of the lowest energy with solvation in water; null unless asked for"
    )
    min_energy_water_ev: float | None = column(
        "float64",
        "energy of the best conformer in water, with its solvation",
        "eV",
    )
    relative_tautomer_energy_water_kcal_mol: float | None = column(
        "float64", "as relative_tautomer_energy_kcal_mol, with solvation in water", "kcal/mol"
    )
    energy_above_teacher_kcal_mol: float | None = column(
        "float64",
        "energy of the best conformer above the teacher's there: the model's error; null unless "
        "asked for",
        "kcal/mol",
    )
    lowest_wavenumber_per_cm: float | None = column(
        "float64",
        "of the best conformer's vibrations, imaginary as negative; null unless `--thermo`",
        "cm⁻¹",
    )
    n_imaginary: int | None = column(
        "int32", "of these, imaginary beyond 20i cm⁻¹; with any there is no thermochemistry"
    )
    symmetry_number: int | None = column(
        "int16", "rotations that leave the best conformer what it is, counted in the entropy"
    )
    zero_point_energy_ev: float | None = column("float64", "of its vibrations", "eV")
    enthalpy_ev: float | None = column(
        "float64", "of the best conformer at the temperature asked for, ideal gas", "eV"
    )
    entropy_cal_mol_k: float | None = column(
        "float64", "the same, at the pressure asked for, vibrations by quasi-RRHO", "cal/mol/K"
    )
    gibbs_energy_ev: float | None = column("float64", "enthalpy - temperature x entropy", "eV")
    wavenumbers_per_cm: NDArray[np.float32] = column(
        "list<float32>",
        "vibrations of the best conformer, ascending; empty unless `--thermo`",
        "cm⁻¹",
    )


@dataclass(kw_only=True)
class ConformerRow:
    """One row of `conformers`: a geometry of an accepted molecule."""

    TABLE: ClassVar[str] = "conformers"
    KEY: ClassVar[tuple[str, ...]] = ("record", "variant", "conformer")

    record: int = column("int64", "record of the molecule in molecules", required=True)
    variant: int = column("int16", "its variant there", required=True, default=0)
    conformer: int = column("int16", "0-based number within the molecule", required=True)
    status: ConformerStatus | None = column(
        "string", "how the relaxation ended", required=True, words=ConformerStatus
    )
    duplicate_of: int | None = column(
        "int16", "conformer that this one, or its mirror image, turned out to be again; null if new"
    )
    degeneracy: int | None = column(
        "int16",
        "2 where a molecule that is not chiral has the mirror image as well, else 1; null for "
        "duplicates and where one conformer is alone",
    )
    energy_ev: float | None = column("float64", "energy of this geometry; null if not finite", "eV")
    initial_energy_ev: float | None = column("float64", "energy before the relaxation", "eV")
    relative_energy_kcal_mol: float | None = column(
        "float64", "energy above the molecule's best conformer", "kcal/mol"
    )
    boltzmann_weight: float | None = column(
        "float64",
        "population at 298.15 K among the molecule's converged conformers, duplicates counted "
        "once, mirror images too; null for others",
    )
    in_window: bool | None = column(
        "bool",
        "whether it is within 6 kcal/mol of the best conformer, 12 of a charged molecule; null "
        "without a relative energy",
    )
    solvation_kcal_mol: float | None = column(
        "float64",
        "free energy of solvation in water at this geometry (GFN2-xTB, ALPB); null unless asked "
        "for, for duplicates, and outside the window but of zwitterions",
        "kcal/mol",
    )
    relative_energy_water_kcal_mol: float | None = column(
        "float64",
        "energy with solvation above the lowest such of the molecule; null without solvation",
        "kcal/mol",
    )
    boltzmann_weight_water: float | None = column(
        "float64", "as boltzmann_weight, with solvation, over those that have it"
    )
    teacher_energy_ev: float | None = column(
        "float64",
        "the teacher's energy of this geometry; null unless asked for, of the ten lowest",
        "eV",
    )
    teacher_spread_kcal_mol: float | None = column(
        "float64", "standard deviation of it over the teacher's members", "kcal/mol"
    )
    relative_energy_teacher_kcal_mol: float | None = column(
        "float64", "teacher's energy above its lowest of the molecule", "kcal/mol"
    )
    max_force_ev_per_angstrom: float | None = column(
        "float64", "largest force on any atom that may move, that of held bonds counted", "eV/Å"
    )
    protons_held: int = column(
        "int16",
        "bonds to hydrogen that only a restraint held; energy and forces are without it",
        required=True,
        default=0,
    )
    n_steps: int | None = column(
        "int32", "steps of the relaxation, a first walk by a cheaper model included"
    )
    rmsd_to_initial_angstrom: float | None = column(
        "float64",
        "root-mean-square deviation from the embedded or given geometry, superimposed",
        "Å",
    )
    atomic_numbers: NDArray[np.int8] = column(
        "list<int8>", "atomic number of each atom", required=True
    )
    positions_angstrom: NDArray[np.float32] = column(
        "list<float32>", "x y z of atom 0, x y z of atom 1, ...", "Å", required=True, width=3
    )
    forces_ev_per_angstrom: NDArray[np.float32] = column(
        "list<float32>",
        "force on each atom, in the order of the positions",
        "eV/Å",
        required=True,
        width=3,
    )
    charges_e: NDArray[np.float32] = column(
        "list<float32>",
        "partial charge of each atom, in the order of the positions; they add up to `charge`; "
        "empty unless `--charges`",
        "e",
    )
    bucket: str | None = column("string", "size class in which it was relaxed")
    batch_size: int | None = column("int32", "molecules in its batch")


#: Row types of the tables.
ROWS: Final[dict[str, type[MoleculeRow] | type[ConformerRow]]] = {
    "molecules": MoleculeRow,
    "conformers": ConformerRow,
}
