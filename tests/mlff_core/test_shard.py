"""A shard's three steps: what goes in comes out once, judged and ranked."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from scipy.spatial.transform import Rotation

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.superpose import aligned_rmsd
from mlff_core.models.potential import load_potential
from mlff_core.shard import (
    RELAXED_SCHEMA,
    RelaxOptions,
    ShardFiles,
    _read_arrow,
    _write_arrow,
    boltzmann_weights,
    embed_shard,
    final_rows,
    relax_shard,
    write_records,
    write_shard,
)
from mlff_core.units import EV_KCAL_MOL

RECORDS = [(7, "ethanol", "CCO"), (8, None, "nonsense"), (9, "butane", "CCCC"), (10, "", "[Na+]")]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Ethanol with one conformer, a record that is none, butane with two, sodium."""
    folder = tmp_path_factory.mktemp("shard")
    write_records(RECORDS, folder / "records")
    settings = ChemistrySettings(n_conformers=8, prune_rmsd_angstrom=0.1)
    with EmbeddingPool(settings, 1) as pool:
        report = embed_shard(folder / "records", folder / "embedded", pool)
    assert report.n_records == 4
    return _read_arrow(folder / "embedded")


def relaxed_table(
    embedded: pa.Table, energies: dict[int, list[float]], **changed: list
) -> pa.Table:
    """As `relax_shard` would leave it, had every conformer stayed where it was."""
    rows = []
    for k, row in enumerate(embedded.to_pylist()):
        if row["status"] != "ok":
            continue
        conformers = np.reshape(row["positions"], (-1, 3 * row["n_atoms"]))
        for c, x in enumerate(conformers):
            energy = energies[k][c % len(energies[k])]
            rows.append(
                {
                    "molecule": k, "status": "converged", "energy": energy,
                    "initial_energy": energy + 1.0, "max_force": 0.01, "n_steps": 12,
                    "positions": x, "forces": np.zeros_like(x), "bucket": "small", "batch_size": 32,
                }
            )  # fmt: skip
    for name, values in changed.items():
        for row, value in zip(rows, values, strict=False):
            row[name] = value
    return pa.Table.from_pylist(rows, schema=RELAXED_SCHEMA)


def test_conformers_are_ranked_within_their_molecule(embedded: pa.Table) -> None:
    relaxed = relaxed_table(embedded, {0: [-100.0], 2: [-200.0, -200.1]})
    molecules, conformers = final_rows(embedded, relaxed)
    assert [m["record"] for m in molecules] == [7, 8, 9, 10]
    assert [m["status"] for m in molecules] == ["ok", "rejected", "ok", "rejected"]
    assert molecules[1]["n_conformers"] == 0
    butane = [c for c in conformers if c["record"] == 9]
    assert len(butane) == molecules[2]["n_conformers"] == molecules[2]["n_converged"] >= 2
    assert molecules[2]["best_conformer"] == 1
    assert molecules[2]["min_energy_ev"] == -200.1
    assert butane[1]["relative_energy_kcal_mol"] == 0.0
    assert butane[0]["relative_energy_kcal_mol"] == pytest.approx(0.1 * EV_KCAL_MOL)
    assert sum(c["boltzmann_weight"] for c in butane) == pytest.approx(1.0)
    assert butane[1]["boltzmann_weight"] > 0.9 / sum(c["energy_ev"] == -200.1 for c in butane)
    assert all(c["rmsd_to_initial_angstrom"] < 1e-3 for c in conformers)


def test_a_rearranged_conformer_is_neither_best_nor_weighed(embedded: pa.Table) -> None:
    relaxed = relaxed_table(embedded, {0: [-100.0], 2: [-300.0] + 8 * [-200.0]})
    rows = relaxed.to_pylist()
    first = next(row for row in rows if row["molecule"] == 2)
    moved = np.array(first["positions"]).reshape(-1, 3)
    moved[-1] += 5.0  # a hydrogen leaves
    first["positions"] = moved.ravel()
    molecules, conformers = final_rows(embedded, pa.Table.from_pylist(rows, schema=RELAXED_SCHEMA))
    butane = [c for c in conformers if c["record"] == 9]
    assert butane[0]["status"] == "rearranged"
    assert butane[0]["boltzmann_weight"] is None
    assert butane[0]["rmsd_to_initial_angstrom"] > 0.5
    assert molecules[2]["min_energy_ev"] == -200.0
    assert "conformer 0: bond" in molecules[2]["message"]


def test_molecules_whose_conformers_all_failed_say_how(embedded: pa.Table) -> None:
    relaxed = relaxed_table(
        embedded, {0: [-100.0], 2: [-200.0]}, status=["exploded"] + ["max_steps"] * 20
    )
    molecules, conformers = final_rows(embedded, relaxed)
    assert (molecules[0]["status"], molecules[0]["reason"]) == ("failed", "all_conformers_failed")
    assert "1 exploded" in molecules[0]["message"]
    assert molecules[0]["min_energy_ev"] is None
    # Unconverged geometries are usable, but said to be what they are.
    assert (molecules[2]["status"], molecules[2]["n_converged"]) == ("ok", 0)
    assert "no conformer converged" in molecules[2]["message"]
    assert all(c["boltzmann_weight"] is None for c in conformers)


def test_a_molecule_that_does_not_fit_into_memory_has_no_conformers(embedded: pa.Table) -> None:
    relaxed = relaxed_table(embedded, {0: [-100.0], 2: [-200.0]}, status=[None])
    molecules, conformers = final_rows(embedded, relaxed)
    assert (molecules[0]["status"], molecules[0]["reason"]) == ("failed", "out_of_memory")
    assert molecules[0]["n_conformers"] == 0
    assert {c["record"] for c in conformers} == {9}


def test_the_three_steps_leave_whole_tables(
    embedded: pa.Table, tmp_path: Path, small_model: Path
) -> None:
    files = ShardFiles.of(tmp_path, 3)
    _write_arrow(embedded, files.embedded)
    potential = load_potential(small_model, device="cpu", backend="torch")
    relax_shard(files.embedded, files.relaxed, potential, RelaxOptions(max_steps=2))
    write_shard(3, files.embedded, files.relaxed, tmp_path, {"run_key": "k"})
    molecules = pl.read_parquet(tmp_path / "molecules")
    conformers = pl.read_parquet(tmp_path / "conformers")
    assert molecules["record"].to_list() == [7, 8, 9, 10]
    assert set(conformers["record"]) == {7, 9}
    for row in conformers.iter_rows(named=True):
        assert len(row["positions_angstrom"]) == 3 * len(row["atomic_numbers"])
        assert row["n_steps"] <= 2
        assert np.isfinite(row["forces_ev_per_angstrom"]).all()
    files.remove()
    assert not files.embedded.exists()


def test_the_aligned_rmsd_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b, expected = [], [], []
    for n in (1, 2, 3, 30, 7):
        x = rng.normal(size=(n, 3))
        y = Rotation.random(random_state=n).apply(x + rng.normal(0, 0.2, (n, 3))) + 2.0
        _, rssd = Rotation.align_vectors(x - x.mean(0), y - y.mean(0)) if n > 2 else (None, 0.0)
        if n == 2:  # two points: the difference of the two distances, shared
            rssd = abs(np.linalg.norm(x[0] - x[1]) - np.linalg.norm(y[0] - y[1])) / np.sqrt(2)
        a.append(x)
        b.append(y)
        expected.append(rssd / np.sqrt(n))
    a.append(np.full((2, 3), np.nan))
    b.append(np.zeros((2, 3)))
    found = aligned_rmsd(a, b)
    np.testing.assert_allclose(found[:-1], expected, atol=1e-6)
    assert np.isnan(found[-1])
    mirrored = aligned_rmsd([a[3]], [a[3] * [1, 1, -1]])
    assert mirrored > 0.3


def test_boltzmann_weights_follow_the_closed_formula() -> None:
    kt_kcal_mol = 0.0019872042586 * 298.15
    weights = boltzmann_weights([1.0, 1.0 + kt_kcal_mol * np.log(3.0) / EV_KCAL_MOL])
    np.testing.assert_allclose(weights, [0.75, 0.25], rtol=1e-6)
    assert boltzmann_weights([]).shape == (0,)
