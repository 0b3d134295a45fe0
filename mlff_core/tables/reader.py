"""The tables read again: as Polars frames, as RDKit molecules with bonds, as ASE atoms."""

from collections.abc import Iterator
from dataclasses import MISSING, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mlff_core.arrow import schema_of
from mlff_core.errors import OutputError
from mlff_core.schema import ROWS, MoleculeRow
from mlff_core.status import ConformerStatus, Word
from mlff_core.store import Store, open_store
from mlff_core.tables.generations import visible_shards
from mlff_core.tables.manifest import Manifest, read_manifest
from mlff_core.tables.parts import parts_in

if TYPE_CHECKING:
    from ase import Atoms
    from rdkit import Chem

_KEY: Final = list(MoleculeRow.KEY)
#: Conformers whose geometry means something: what `mols` and `atoms` give if nothing else is said.
_USABLE: Final = pl.col("status").is_in(
    [ConformerStatus.CONVERGED.value, ConformerStatus.MAX_STEPS.value]
)
#: What ASE's atoms are told of their molecule.
_ABOUT: Final = ("input_id", "input_smiles", "smiles", "mapped_smiles", "inchikey", "charge")


def read(location: Store | Path | str) -> "Tables":
    """The tables of a run, to be read as far as they are asked for.

    Of tables that are added to, whole generations are seen only.

    Raises:
        OutputError: There are none.
    """
    store = open_store(location)
    seen = visible_shards(read_manifest(store))
    parts = {
        table: {k: name for k, name in parts_in(store, table).items() if seen is None or k in seen}
        for table in ROWS
    }
    if not parts["molecules"]:
        raise OutputError(f"{store.location}: holds no tables of a run")
    return Tables(store, parts)


class Tables:
    """The tables of a run, whole or as far as they are written.

    Tables of schema version 1 are given the columns that came later, as they are where nothing was
    asked for: variant 0, no flags, null.
    """

    def __init__(self, store: Store, parts: dict[str, dict[int, str]]) -> None:
        """Take the parts of each table by shard; `read` finds them."""
        self.store, self._parts = store, parts

    def __repr__(self) -> str:
        return f"<Tables in {self.store.location}, {len(self._parts['molecules'])} parts>"

    @property
    def manifest(self) -> Manifest | None:
        """What made them; None if it is not there."""
        return read_manifest(self.store)

    @property
    def molecules(self) -> pl.LazyFrame:
        """One row per record and variant, docs/schema.md."""
        return self._scan("molecules", list(self._parts["molecules"].values()))

    @property
    def conformers(self) -> pl.LazyFrame:
        """One row per conformer."""
        return self._scan("conformers", list(self._parts["conformers"].values()))

    def pieces(self, n_shards: int = 100) -> "Iterator[Tables]":
        """The same tables a piece at a time, so that what is asked of all fits into memory.

        A shard's molecules and their conformers are in the same piece; no piece is without both.
        """
        shards = sorted(self._parts["molecules"])
        for begin in range(0, len(shards), n_shards):
            own = set(shards[begin : begin + n_shards])
            yield Tables(
                self.store,
                {t: {k: n for k, n in each.items() if k in own} for t, each in self._parts.items()},
            )

    def mols(self, where: pl.Expr | None = None, *, usable: bool = True) -> Iterator["Chem.Mol"]:
        """RDKit molecules, a part of the tables in memory at a time.

        Each has all hydrogens, the bonds, charges and stereo of the column `smiles`, and the
        conformers by their number. The columns of its row that are not null are its properties,
        those of a conformer are the conformer's, its partial charges as text; `_Name` is
        `input_id`, or the record's number.

        Args:
            where: Which conformers, by the columns of both tables; `status` is the conformer's,
                `molecule_status` that of its molecule. A molecule without any is left out.
            usable: Only those that converged or ran out of steps.

        Raises:
            ValueError: The order of a molecule's atoms cannot be told; only of schema version 1.
        """
        from rdkit import Chem

        from mlff_core.chem.mapped import molecule_in_canonical_order, molecule_of, set_charges

        for row, own in self._groups(where, usable):
            numbers = np.array(own[0]["atomic_numbers"])
            geometries = {c["conformer"]: _geometry(c["positions_angstrom"]) for c in own}
            if row["mapped_smiles"] is None:
                mol = molecule_in_canonical_order(row["smiles"], numbers, geometries)
            else:
                mol = molecule_of(row["mapped_smiles"], numbers, geometries)
            mol.SetProp("_Name", row["input_id"] or str(row["record"]))
            _set_properties(mol, row)
            for conformer in own:
                target: Chem.Conformer = mol.GetConformer(conformer["conformer"])
                _set_properties(target, conformer)
                set_charges(target, conformer["charges_e"])
            yield mol

    def atoms(self, where: pl.Expr | None = None, *, usable: bool = True) -> Iterator["Atoms"]:
        """ASE atoms, one for each conformer, with its energy and forces as results.

        `info` holds the molecule's charge, ids and SMILES, and the conformer's other numbers.

        Args:
            where: As in `mols`.
            usable: As in `mols`.
        """
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator

        for row, own in self._groups(where, usable):
            about = {name: row[name] for name in _ABOUT if row[name] is not None}
            for conformer in own:
                atoms = Atoms(
                    conformer["atomic_numbers"], _geometry(conformer["positions_angstrom"])
                )
                atoms.info = about | {k: v for k, v in conformer.items() if _is_scalar(v)}
                atoms.calc = SinglePointCalculator(
                    atoms,
                    energy=conformer["energy_ev"],
                    forces=_geometry(conformer["forces_ev_per_angstrom"]),
                    charges=np.array(conformer["charges_e"]) if conformer["charges_e"] else None,
                )
                yield atoms

    def _scan(self, table: str, names: list[str]) -> pl.LazyFrame:
        empty = pl.from_arrow(schema_of(ROWS[table]).empty_table())
        assert isinstance(empty, pl.DataFrame)
        if not names:
            return empty.lazy()
        frame = pl.scan_parquet([self.store.url(name) for name in names], glob=False)
        there = frame.collect_schema().names()
        later = {k: v for k, v in _defaults(ROWS[table]).items() if k not in there}
        order = [name for name in empty.columns if name in there or name in later]
        order += [name for name in there if name not in empty.columns]
        return frame.with_columns(
            pl.lit(value, dtype=empty.schema[name]).alias(name) for name, value in later.items()
        ).select(order)

    def _groups(
        self, where: pl.Expr | None, usable: bool
    ) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Each molecule's row with those of its conformers that were asked for, if any."""
        for shard, name in self._parts["molecules"].items():
            if shard not in self._parts["conformers"]:
                continue
            molecules = self._scan("molecules", [name])
            conformers = self._scan("conformers", [self._parts["conformers"][shard]])
            if usable:
                conformers = conformers.filter(_USABLE)
            if where is not None:
                names = conformers.collect_schema().names()
                conformers = (
                    conformers.join(molecules.rename({"status": "molecule_status"}), on=_KEY)
                    .filter(where)
                    .select(names)
                )
            # Polars hands out rows of a frame a few hundred at a time: only these are Python's.
            rows = molecules.sort(_KEY).collect().iter_rows(named=True)
            every = conformers.sort([*_KEY, "conformer"]).collect().iter_rows(named=True)
            for key, own in groupby(every, key=_key_of):
                yield next(row for row in rows if _key_of(row) == key), list(own)


def _key_of(row: dict[str, Any]) -> tuple[int, int]:
    return row["record"], row["variant"]


def _defaults(row_type: type) -> dict[str, Any]:
    """What a column holds where nothing was asked for, by name; of those that have such a value."""
    found: dict[str, Any] = {}
    for f in fields(row_type):
        if f.default is not MISSING:
            found[f.name] = str(f.default) if isinstance(f.default, Word) else f.default
        elif f.default_factory is not MISSING:
            made = f.default_factory()
            found[f.name] = made.tolist() if isinstance(made, np.ndarray) else made
    return found


def _geometry(flat: list[float]) -> np.ndarray:
    return np.array(flat, np.float64).reshape(-1, 3)


def _is_scalar(value: Any) -> bool:
    return value is not None and not isinstance(value, list)


def _set_properties(target: "Chem.Mol | Chem.Conformer", row: dict[str, Any]) -> None:
    """Set what is not null as properties; words of a list are joined by blanks."""
    for name, value in row.items():
        if isinstance(value, float):
            target.SetDoubleProp(name, value)
        elif isinstance(value, int) and abs(value) < 2**31:
            target.SetIntProp(name, value)
        elif isinstance(value, int | str):
            target.SetProp(name, str(value))
        elif isinstance(value, list) and value and isinstance(value[0], str):
            target.SetProp(name, " ".join(value))
