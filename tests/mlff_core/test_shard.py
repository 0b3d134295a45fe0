"""A shard's three steps: what goes in comes out once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mlff_core.arrow import read_arrow, rows_of, table_of, write_arrow
from mlff_core.batch import MolBatch
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.prepare import prepare
from mlff_core.chem.variant import Expansion
from mlff_core.library import Record
from mlff_core.models.force_field import Outputs
from mlff_core.models.potential import Potential, load_potential
from mlff_core.moves.settings import RelaxSettings
from mlff_core.shard import (
    ShardFiles,
    embed_shard,
    relax_shard,
    write_shard,
)
from mlff_core.tables import reconcile
from mlff_core.testing import random_model

RECORDS = [
    Record(7, "ethanol", "CCO", "the row has 3 fields, the header 2"),
    Record(8, None, "nonsense", None),
    Record(9, "bad", None, "the mol block cannot be read: Counts line too short"),
    Record(10, "butane", "CCCC", None),
    Record(11, "", "[Na+]", None),
]


def test_the_three_steps_leave_whole_tables(tmp_path: Path, small_model: Path) -> None:
    files = ShardFiles.of(tmp_path, 3)
    settings = ChemistrySettings(n_conformers=8, prune_rmsd_angstrom=0.1)
    with EmbeddingPool(settings, 1) as pool:
        assert embed_shard(RECORDS, files.embedded, pool).n_records == 5
    prepared = rows_of(read_arrow(files.embedded), PreparedMolecule)
    potential = load_potential(small_model, device="cpu", backend="numba")
    relax_shard(files.embedded, files.relaxed, potential, RelaxSettings(max_steps=2))
    assert write_shard(3, files.embedded, files.relaxed, tmp_path, {"run_key": "k"}).n_records == 5
    molecules = pl.read_parquet(tmp_path / "molecules")
    conformers = pl.read_parquet(tmp_path / "conformers")
    assert molecules["record"].to_list() == [7, 8, 9, 10, 11]
    assert molecules["message"].to_list()[0].startswith("the row has 3 fields, the header 2; ")
    unread = molecules.row(2, named=True)
    assert (unread["status"], unread["reason"]) == ("rejected", "invalid_smiles")
    assert unread["message"] == "the mol block cannot be read: Counts line too short"
    assert molecules["smiles"].to_list() == [m.smiles for m in prepared]
    assert molecules["flags"].to_list() == [m.flags for m in prepared]
    assert set(conformers["record"]) == {7, 10}
    assert len(conformers) == sum(len(m.conformers()) for m in prepared) > 2
    for row in conformers.iter_rows(named=True):
        assert len(row["positions_angstrom"]) == 3 * len(row["atomic_numbers"])
        assert row["n_steps"] <= 2
        assert np.isfinite(row["forces_ev_per_angstrom"]).all()
    files.remove()
    assert not files.embedded.exists()


def test_a_shard_has_the_device_for_no_more_than_its_relaxation(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ShardFiles.of(tmp_path, 0)
    rows = [prepare(0, None, "CO", ChemistrySettings())]
    write_arrow(table_of(rows, PreparedMolecule), files.embedded)
    now, seen = [0.0], []
    monkeypatch.setattr("mlff_core.shard.time.monotonic", lambda: now[0])

    @contextmanager
    def turn() -> Iterator[None]:
        files.embedded.unlink()  # it was read before
        now[0] += 1000.0  # others had the device
        yield
        now[0] += 10.0
        seen.append(files.relaxed.exists())

    potential = load_potential(small_model, device="cpu", backend="numba")
    report = relax_shard(
        files.embedded, files.relaxed, potential, RelaxSettings(max_steps=1), turn=turn()
    )
    assert seen == [False]
    assert len(read_arrow(files.relaxed)) == 1
    assert report.timings_s == {"relax": 10.0}


def test_energies_that_are_not_finite_are_null(tmp_path: Path, small_model: Path) -> None:
    files = ShardFiles.of(tmp_path, 0)
    water = prepare(0, "water", "O", ChemistrySettings())
    water.positions[0, 1] = water.positions[0, 0]  # a hydrogen lies on the oxygen
    write_arrow(table_of([water], PreparedMolecule), files.embedded)
    potential = load_potential(small_model, device="cpu", backend="numba")
    relax_shard(files.embedded, files.relaxed, potential, RelaxSettings())
    write_shard(0, files.embedded, files.relaxed, tmp_path, {"run_key": "k"})
    [row] = pl.read_parquet(tmp_path / "conformers").rows(named=True)
    assert row["status"] == "non_finite"
    names = ("energy_ev", "initial_energy_ev", "max_force_ev_per_angstrom", "boltzmann_weight")
    assert [row[name] for name in names] == [None] * 4
    assert np.isnan(row["forces_ev_per_angstrom"]).all()
    [molecule] = pl.read_parquet(tmp_path / "molecules").rows(named=True)
    assert (molecule["reason"], molecule["min_energy_ev"]) == ("all_conformers_failed", None)
    assert "O1 and H2 overlap at the start (0.00 Å)" in molecule["message"]


def test_a_molecule_that_the_device_has_no_memory_for_is_a_row_of_its_shard(
    tmp_path: Path, small_model: Path
) -> None:
    class Cramped(Potential):
        def evaluate(self, batch: MolBatch) -> Outputs:
            if batch.n_atoms > 10:
                raise torch.OutOfMemoryError("forced")
            return super().evaluate(batch)

    files = ShardFiles.of(tmp_path, 0)
    molecules = [prepare(k, None, s, ChemistrySettings()) for k, s in enumerate(("CCO", "CCCCCC"))]
    write_arrow(table_of(molecules, PreparedMolecule), files.embedded)
    cramped = Cramped(random_model(n_features=16))
    relax_shard(files.embedded, files.relaxed, cramped, RelaxSettings(max_steps=1))
    write_shard(0, files.embedded, files.relaxed, tmp_path, {"run_key": "k"})
    rows = pl.read_parquet(tmp_path / "molecules").select("record", "status", "reason").rows()
    assert rows == [(0, "ok", None), (1, "failed", "out_of_memory")]
    assert pl.read_parquet(tmp_path / "conformers")["record"].to_list() == [0]
    assert reconcile(tmp_path, 2).n_molecules == 2


def test_every_variant_of_a_record_is_in_both_tables_once(
    tmp_path: Path, small_model: Path
) -> None:
    files = ShardFiles.of(tmp_path, 0)
    records = [
        Record(0, "open", "CC(F)Cl", "a note of the library"),
        Record(1, "given", "CCO", None),
        Record(2, "neither", "nonsense", None),
    ]
    settings = ChemistrySettings(expansion=Expansion("enumerate"))
    heard: list[int] = []
    with EmbeddingPool(settings, 1) as pool:
        embed_shard(records, files.embedded, pool, progress=heard.append)
    potential = load_potential(small_model, device="cpu", backend="numba")
    relax_shard(files.embedded, files.relaxed, potential, RelaxSettings(max_steps=2))
    report = write_shard(0, files.embedded, files.relaxed, tmp_path, {"run_key": "k"})
    assert (report.n_records, report.counts) == (3, {"ok": 3, "rejected": 1})
    assert heard == [0, 1, 2, 3]
    rows = pl.read_parquet(tmp_path / "molecules")
    assert rows.select("record", "variant", "n_variants").rows() == [
        (0, 0, 2), (0, 1, 2), (1, 0, 1), (2, 0, 1)
    ]  # fmt: skip
    assert rows["variant_kind"].to_list() == ["stereoisomer", "stereoisomer", *["as_given"] * 2]
    assert rows["input_smiles"].to_list() == ["CC(F)Cl", "CC(F)Cl", "CCO", "nonsense"]
    assert rows["smiles"].n_unique() == 4  # two isomers, ethanol, null
    assert all(m.startswith("a note of the library; ") for m in rows["message"].to_list()[:2])
    conformers = pl.read_parquet(tmp_path / "conformers")
    assert conformers.select("record", "variant").rows() == [(0, 0), (0, 1), (1, 0)]
    assert reconcile(tmp_path, 3).n_molecules == 4
