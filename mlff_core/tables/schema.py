"""The tables' columns: names, types, units and meanings, and the words that stand in them."""

from typing import Any, Final

import pyarrow as pa

from mlff_core.status import ConformerStatus, MoleculeStatus, Reason

#: Goes up when a column is added, renamed, or comes to mean something else.
SCHEMA_VERSION: Final = "1"


def _field(
    name: str,
    kind: pa.DataType,
    description: str,
    unit: str | None = None,
    *,
    required: bool = False,
) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=not required, metadata=metadata)


#: One row per input record.
MOLECULES_SCHEMA: Final = pa.schema(
    [
        _field("record", pa.int64(), "0-based position in the library", required=True),
        _field("input_id", pa.string(), "id in the library, as it stands there; null if none"),
        _field("input_smiles", pa.string(), "SMILES as it stands in the library", required=True),
        _field("smiles", pa.string(), "canonical isomeric SMILES of what was computed"),
        _field("inchikey", pa.string(), "InChIKey of what was computed"),
        _field("formula", pa.string(), "molecular formula of what was computed"),
        _field("charge", pa.int32(), "total charge", "e"),
        _field("n_atoms", pa.int32(), "atoms, hydrogens counted"),
        _field("n_heavy_atoms", pa.int32(), "atoms that are not hydrogen"),
        _field("n_rotatable_bonds", pa.int32(), "rotatable bonds (RDKit)"),
        _field("mol_weight", pa.float64(), "molecular weight, mean isotopic masses", "g/mol"),
        _field("clogp", pa.float64(), "logP of octanol and water, estimated (Crippen)"),
        _field("tpsa", pa.float64(), "topological polar surface area", "Å²"),
        _field("qed", pa.float64(), "quantitative estimate of drug-likeness, 0 to 1"),
        _field("status", pa.string(), "ok, rejected or failed", required=True),
        _field("reason", pa.string(), "why the molecule is not ok; null if it is"),
        _field("message", pa.string(), "the reason in words, or what was changed before computing"),
        _field("n_conformers", pa.int32(), "rows of this record in conformers", required=True),
        _field("n_converged", pa.int32(), "of these, converged", required=True),
        _field(
            "best_conformer", pa.int16(), "conformer of the lowest energy; null if there is none"
        ),
        _field("min_energy_ev", pa.float64(), "energy of the best conformer", "eV"),
    ]
)

#: One row per conformer of an accepted molecule.
CONFORMERS_SCHEMA: Final = pa.schema(
    [
        _field("record", pa.int64(), "record of the molecule in molecules", required=True),
        _field("conformer", pa.int16(), "0-based number within the molecule", required=True),
        _field("status", pa.string(), "how the relaxation ended", required=True),
        _field("energy_ev", pa.float64(), "energy of this geometry; null if not finite", "eV"),
        _field("initial_energy_ev", pa.float64(), "energy before the relaxation", "eV"),
        _field(
            "relative_energy_kcal_mol",
            pa.float64(),
            "energy above the molecule's best conformer",
            "kcal/mol",
        ),
        _field(
            "boltzmann_weight",
            pa.float64(),
            "population at 298.15 K among the molecule's converged conformers; null for others",
        ),
        _field("max_force_ev_per_angstrom", pa.float64(), "largest force on any atom", "eV/Å"),
        _field("n_steps", pa.int32(), "steps that the relaxation took"),
        _field(
            "rmsd_to_initial_angstrom",
            pa.float64(),
            "root-mean-square deviation from the embedded geometry, superimposed",
            "Å",
        ),
        _field(
            "atomic_numbers",
            pa.list_(pa.field("element", pa.int8(), nullable=False)),
            "atomic number of each atom",
            required=True,
        ),
        _field(
            "positions_angstrom",
            pa.list_(pa.field("element", pa.float32(), nullable=False)),
            "x y z of atom 0, x y z of atom 1, ...",
            "Å",
            required=True,
        ),
        _field(
            "forces_ev_per_angstrom",
            pa.list_(pa.field("element", pa.float32(), nullable=False)),
            "force on each atom, in the order of the positions",
            "eV/Å",
            required=True,
        ),
        _field("bucket", pa.string(), "size class in which it was relaxed"),
        _field("batch_size", pa.int32(), "molecules in its batch"),
    ]
)

VALUES: Final[dict[str, dict[str, set[Any]]]] = {
    "molecules": {"status": set(MoleculeStatus), "reason": set(Reason)},
    "conformers": {"status": set(ConformerStatus)},
}
TABLES: Final = ("molecules", "conformers")
SCHEMAS: Final = {"molecules": MOLECULES_SCHEMA, "conformers": CONFORMERS_SCHEMA}
#: Rows of a part stand in this order.
KEYS: Final = {"molecules": ["record"], "conformers": ["record", "conformer"]}
