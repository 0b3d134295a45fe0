"""Rows to tables: what is written is what is read, and what breaks the contract is refused."""

import dataclasses
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlff_core.schema import SCHEMA_VERSION
from mlff_core.tables import (
    CONFORMERS_SCHEMA,
    MOLECULES_SCHEMA,
    conformers_table,
    molecules_table,
    reconcile,
    write_part,
)
from mlff_core.tables.testing import METADATA, conformer, molecule, write_tables

#: What other people's code relies on, in this order; more may stand between.
CONTRACT = {
    "molecules": "record input_id input_smiles variant variant_kind variant_weight "
    "protonation_margin relative_tautomer_energy_kcal_mol n_variants "
    "smiles mapped_smiles inchikey formula charge n_atoms n_heavy_atoms n_rotatable_bonds "
    "mol_weight clogp tpsa qed status reason message flags n_conformers n_converged "
    "best_conformer min_energy_ev",
    "conformers": "record variant conformer status duplicate_of energy_ev initial_energy_ev "
    "relative_energy_kcal_mol boltzmann_weight max_force_ev_per_angstrom n_steps "
    "rmsd_to_initial_angstrom atomic_numbers positions_angstrom forces_ev_per_angstrom bucket "
    "batch_size",
}


def test_the_columns_and_their_types_are_those_of_the_contract():
    for table, schema in (("molecules", MOLECULES_SCHEMA), ("conformers", CONFORMERS_SCHEMA)):
        promised = CONTRACT[table].split()
        assert [name for name in schema.names if name in promised] == promised
    kinds = {f.name: f.type for f in MOLECULES_SCHEMA}
    assert kinds["variant"] == pa.int16()
    assert kinds["flags"].value_type == pa.string()
    kinds = {f.name: f.type for f in CONFORMERS_SCHEMA}
    assert kinds["duplicate_of"] == kinds["variant"] == pa.int16()
    assert kinds["record"] == pa.int64()
    assert kinds["conformer"] == pa.int16()
    assert kinds["energy_ev"] == pa.float64()
    assert kinds["atomic_numbers"].value_type == pa.int8()
    assert kinds["positions_angstrom"].value_type == pa.float32()
    assert kinds["forces_ev_per_angstrom"].value_type == pa.float32()


def test_every_field_says_what_it_is_and_units_agree_with_names():
    units = {"_ev": "eV", "_angstrom": "Å", "_kcal_mol": "kcal/mol", "_ev_per_angstrom": "eV/Å"}
    for schema in (MOLECULES_SCHEMA, CONFORMERS_SCHEMA):
        for column in schema:
            assert column.metadata[b"description"]
            for ending in sorted(units, key=len, reverse=True):
                if column.name.endswith(ending):
                    assert column.metadata[b"unit"].decode() == units[ending]
                    break


def test_what_is_written_is_read_back(tmp_path):
    conformers = [conformer(r, c, n_atoms=5 + r) for r in range(3) for c in range(2)]
    write_tables(tmp_path, 12, [molecule(r, 2) for r in range(3)], conformers)
    path = tmp_path / "conformers" / "part-000012.parquet"
    table = pq.read_table(path)
    assert table.num_rows == 6
    for row, expected in zip(table.to_pylist(), conformers, strict=True):
        assert (row["record"], row["conformer"]) == (expected.record, expected.conformer)
        for name in ("atomic_numbers", "positions_angstrom", "forces_ev_per_angstrom"):
            np.testing.assert_array_equal(row[name], getattr(expected, name).reshape(-1))
    footer = pq.read_metadata(path).metadata
    assert footer[b"mlff_screen.model_sha256"] == b"ab" * 32
    assert footer[b"mlff_screen.schema_version"] == SCHEMA_VERSION.encode()
    assert pq.read_schema(path).field("energy_ev").metadata[b"unit"] == b"eV"


def test_rows_are_sorted_so_that_row_groups_filter(tmp_path):
    records = np.random.default_rng(0).permutation(10_000)
    table = conformers_table([conformer(int(r), n_atoms=1) for r in records])
    path = tmp_path / write_part(table, tmp_path, 0, METADATA)
    footer = pq.read_metadata(path)
    assert footer.num_row_groups > 1
    ranges = []
    for i in range(footer.num_row_groups):
        statistics = footer.row_group(i).column(0).statistics
        ranges.append((statistics.min, statistics.max))
        assert footer.row_group(i).column(0).compression == "ZSTD"
        assert footer.row_group(i).column(0).has_offset_index
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


def test_a_shard_of_nothing_but_garbage_is_a_table_too(tmp_path):
    row = molecule(0, 0, status="rejected", reason="invalid_smiles", smiles=None)
    write_tables(tmp_path, 0, [row], [])
    assert pq.read_table(tmp_path / "conformers").num_rows == 0
    assert pl.scan_parquet(tmp_path / "conformers" / "*.parquet").collect().height == 0
    assert reconcile(tmp_path, 1).reason["invalid_smiles"] == 1


def test_ids_may_hold_anything(tmp_path):
    ids = [
        "",
        "a,b",
        '"',
        "'; drop table",
        "\0",
        "\n",
        "Å\U0001f9ea",
        "\ufffd",
        "x" * 100_000,
        None,
    ]
    table = molecules_table([molecule(i, input_id=name) for i, name in enumerate(ids)])
    path = tmp_path / write_part(table, tmp_path, 0, METADATA)
    assert pq.read_table(path)["input_id"].to_pylist() == ids
    assert pl.read_parquet(path)["input_id"].to_list() == ids


def test_numbers_that_are_not_finite_are_null():
    rows = [conformer(0, energy_ev=np.nan), conformer(1, energy_ev=np.inf), conformer(2)]
    table = conformers_table(rows)
    assert table["energy_ev"].to_pylist() == [None, None, -102.0]
    assert table["boltzmann_weight"].to_pylist() == [None] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"record": None}, "molecules: record of row 1 is missing"),
        ({"status": "fine"}, r"molecules: status: not one of those known: \['fine'\]"),
        ({"status": "failed", "reason": "bored"}, "reason: not one of those known"),
        ({"status": "failed"}, "row 1: expected a reason exactly where the status is not ok"),
        ({"reason": "empty"}, "row 1: expected a reason exactly where the status is not ok"),
        (
            {"flags": ["odd", "protons_held"]},
            r"molecules: flags: not one of those known: \['odd'\]",
        ),
        ({"variant_kind": "stereoisomer+guess"}, r"variant_kind: .* known: \['guess'\]"),
    ],
)
def test_molecules_that_break_the_contract_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        molecules_table([molecule(0), dataclasses.replace(molecule(1), **changes)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "rejected"}, "conformers: status: not one of those known"),
        ({"positions_angstrom": None}, "positions_angstrom of row 1 is missing"),
        (
            {"positions_angstrom": np.zeros((2, 3))},
            "positions_angstrom of row 1: expected 3 numbers for each of 3 atoms, found 6",
        ),
        ({"forces_ev_per_angstrom": np.zeros(0)}, "forces_ev_per_angstrom of row 1: .* found 0"),
        (
            {"atomic_numbers": np.array([1, 300, 1])},
            "expected numbers that fit int8, found 1 to 300",
        ),
    ],
)
def test_conformers_that_break_the_contract_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        conformers_table([conformer(0), dataclasses.replace(conformer(1), **changes)])


def test_a_part_says_whose_it_is_or_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="expected a run_key"):
        write_part(molecules_table([molecule(0)]), tmp_path, 0, {})
    with pytest.raises(ValueError, match="expected a table made by molecules_table"):
        write_part(pa.table({"record": [0]}), tmp_path, 0, METADATA)
