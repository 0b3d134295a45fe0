"""The columns of `strain.parquet`, which `mlff-screen strain` leaves."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mlff_core.schema import column
from mlff_core.status import Flag, FoundBy, MoleculeStatus, Reason


@dataclass(kw_only=True)
class StrainRow:
    """One row of `strain`: a given pose, against the lowest minimum found of its molecule."""

    TABLE: ClassVar[str] = "strain"
    KEY: ClassVar[tuple[str, ...]] = ("record",)

    record: int = column("int64", "0-based position of the pose in the file", required=True)
    input_id: str | None = column("string", "title of the entry, or a property; null if none")
    smiles: str | None = column("string", "canonical isomeric SMILES of the pose")
    mapped_smiles: str | None = column(
        "string", "the same with all hydrogens, and map numbers 1..n in the order of the positions"
    )
    charge: int | None = column("int32", "total charge", "e")
    n_heavy_atoms: int | None = column("int32", "atoms that are not hydrogen")
    n_rotatable_bonds: int | None = column("int32", "rotatable bonds (RDKit)")
    status: MoleculeStatus = column(
        "string",
        "ok, rejected or failed",
        required=True,
        words=MoleculeStatus,
        default=MoleculeStatus.OK,
    )
    reason: Reason | None = column("string", "why it is not ok; null if it is", words=Reason)
    message: str | None = column("string", "the reason in words, or what was changed or is odd")
    flags: list[str] = column(
        "list<string>", "what to know of a pose that is ok all the same", required=True, words=Flag
    )
    solvent: str | None = column("string", "none or water: what the energies below hold in")
    pose_energy_ev: float | None = column(
        "float64", "energy of the pose as given, missing hydrogens placed", "eV"
    )
    global_energy_ev: float | None = column("float64", "energy of the lowest minimum found", "eV")
    global_found_by: FoundBy | None = column(
        "string", "where that comes from; search where both found it", words=FoundBy
    )
    n_search_conformers: int | None = column("int32", "conformers that the search relaxed")
    strain_h_only_kcal_mol: float | None = column(
        "float64", "above the lowest minimum, hydrogens relaxed only", "kcal/mol"
    )
    strain_restrained_kcal_mol: float | None = column(
        "float64",
        "the same, then heavy atoms relaxed within a flat bottom about the pose: the strain to use",
        "kcal/mol",
    )
    strain_local_kcal_mol: float | None = column(
        "float64", "the same, then all atoms relaxed freely", "kcal/mol"
    )
    rmsd_restrained_angstrom: float | None = column(
        "float64", "heavy atoms of the restrained geometry from the pose, superimposed", "Å"
    )
    rmsd_local_angstrom: float | None = column("float64", "the same of the freely relaxed one", "Å")
    atomic_numbers: NDArray[np.int8] = column("list<int8>", "atomic number of each atom")
    positions_restrained_angstrom: NDArray[np.float32] = column(
        "list<float32>", "the restrained geometry", "Å", width=3
    )
    positions_local_angstrom: NDArray[np.float32] = column(
        "list<float32>", "the freely relaxed one", "Å", width=3
    )
    positions_global_angstrom: NDArray[np.float32] = column(
        "list<float32>", "the lowest minimum found", "Å", width=3
    )
