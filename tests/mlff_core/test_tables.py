"""The tables: what is written is what is read, files are whole, and nothing goes missing."""

import dataclasses
import json
import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlff_core.errors import OutputError
from mlff_core.status import ConformerStatus, MoleculeStatus, Reason
from mlff_core.tables import (
    CONFORMERS_SCHEMA,
    MOLECULES_SCHEMA,
    SCHEMA_VERSION,
    Manifest,
    check_output,
    conformers_table,
    finished_shards,
    molecules_table,
    open_output,
    read_manifest,
    read_part_key,
    reconcile,
    write_part,
)

KEY = "0123456789abcdef"
METADATA = {"run_key": KEY, "model_name": "tiny", "model_sha256": "ab" * 32}


def molecule(record: int, n_conformers: int = 1, **changes) -> dict:
    row = {
        "record": record,
        "input_id": f"m{record}",
        "input_smiles": "CCO",
        "smiles": "CCO",
        "status": "ok",
        "n_conformers": n_conformers,
        "n_converged": n_conformers,
    }
    return row | changes


def conformer(record: int, index: int = 0, n_atoms: int = 3, **changes) -> dict:
    rng = np.random.default_rng([abs(record), index])
    row = {
        "record": record,
        "conformer": index,
        "status": "converged",
        "energy_ev": -100.0 - record,
        "atomic_numbers": rng.integers(1, 54, n_atoms),
        "positions_angstrom": rng.normal(size=(n_atoms, 3)).astype(np.float32),
        "forces_ev_per_angstrom": rng.normal(size=(n_atoms, 3)).astype(np.float32),
    }
    return row | changes


def write_shard(out: Path, shard: int, molecules: list[dict], conformers: list[dict], **metadata):
    footer = METADATA | metadata
    write_part(conformers_table(conformers), out / "conformers", shard, footer)
    write_part(molecules_table(molecules), out / "molecules", shard, footer)


def write_run(out: Path, shards: int = 3, size: int = 4) -> int:
    for shard in range(shards):
        records = range(shard * size, (shard + 1) * size)
        write_shard(out, shard, [molecule(r) for r in records], [conformer(r) for r in records])
    return shards * size


def manifest(run_key: str = KEY, **changes) -> Manifest:
    settings = {
        "run_id": "first",
        "run_key": run_key,
        "parameters": {"fmax": 0.05, "conformers": 1, "out": "here"},
        "library": {"location": "lib.smi", "sha256": "aa", "n_records": 12},
        "model": {"name": "tiny", "sha256": "bb"},
        "versions": {"rdkit": "1"},
        "started": "2026-01-01T00:00:00+00:00",
    }
    return Manifest(**(settings | changes))


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


# --- schema and rows --------------------------------------------------------------------------


def test_the_columns_and_their_types_are_those_of_the_contract():
    assert " ".join(MOLECULES_SCHEMA.names) == (
        "record input_id input_smiles smiles inchikey formula charge n_atoms n_heavy_atoms "
        "n_rotatable_bonds mol_weight clogp tpsa qed status reason message n_conformers "
        "n_converged best_conformer min_energy_ev"
    )
    assert " ".join(CONFORMERS_SCHEMA.names) == (
        "record conformer status energy_ev initial_energy_ev relative_energy_kcal_mol "
        "boltzmann_weight max_force_ev_per_angstrom n_steps rmsd_to_initial_angstrom "
        "atomic_numbers positions_angstrom forces_ev_per_angstrom bucket batch_size"
    )
    kinds = {f.name: f.type for f in CONFORMERS_SCHEMA}
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
    write_shard(tmp_path, 12, [molecule(r, 2) for r in range(3)], conformers)
    path = tmp_path / "conformers" / "part-000012.parquet"
    table = pq.read_table(path)
    assert table.num_rows == 6
    for row, expected in zip(table.to_pylist(), conformers, strict=True):
        assert (row["record"], row["conformer"]) == (expected["record"], expected["conformer"])
        for name in ("atomic_numbers", "positions_angstrom", "forces_ev_per_angstrom"):
            np.testing.assert_array_equal(row[name], expected[name].reshape(-1))
    footer = pq.read_metadata(path).metadata
    assert footer[b"mlff_screen.model_sha256"] == b"ab" * 32
    assert footer[b"mlff_screen.schema_version"] == SCHEMA_VERSION.encode()
    assert pq.read_schema(path).field("energy_ev").metadata[b"unit"] == b"eV"


def test_rows_are_sorted_so_that_row_groups_filter(tmp_path):
    records = np.random.default_rng(0).permutation(10_000)
    path = write_part(
        conformers_table([conformer(int(r), n_atoms=1) for r in records]), tmp_path, 0, METADATA
    )
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
    write_shard(tmp_path, 0, [row], [])
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
    path = write_part(table, tmp_path, 0, METADATA)
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
        ({"colour": "red"}, "molecules: unknown columns: colour"),
        ({"record": None}, "molecules: record of row 1 is missing"),
        ({"status": "fine"}, r"molecules: status: not one of those known: \['fine'\]"),
        ({"status": "failed", "reason": "bored"}, "reason: not one of those known"),
        ({"status": "failed"}, "row 1: expected a reason exactly where the status is not ok"),
        ({"reason": "empty"}, "row 1: expected a reason exactly where the status is not ok"),
    ],
)
def test_molecules_that_break_the_contract_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        molecules_table([molecule(0), molecule(1) | changes])


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
        conformers_table([conformer(0), conformer(1) | changes])


def test_a_part_says_whose_it_is_or_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="expected a run_key"):
        write_part(molecules_table([molecule(0)]), tmp_path, 0, {})
    with pytest.raises(ValueError, match="expected a table made by molecules_table"):
        write_part(pa.table({"record": [0]}), tmp_path, 0, METADATA)


# --- whole files only -------------------------------------------------------------------------


def test_a_write_that_fails_leaves_neither_a_part_nor_a_leftover(tmp_path, monkeypatch):
    write_run(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}

    def full_disk(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    for shard in (0, 7):
        with pytest.raises(OSError, match="No space left"):
            write_part(molecules_table([molecule(0)]), tmp_path / "molecules", shard, METADATA)
    with pytest.raises(OSError, match="No space left"):
        manifest().write(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_nothing_shows_under_a_name_that_readers_take_until_it_is_whole(tmp_path, monkeypatch):
    seen = []
    real = os.replace

    def spy(source, target):
        seen.append((sorted(p.name for p in tmp_path.iterdir()), Path(source).name))
        assert pq.read_metadata(source).num_rows == 1  # whole before it gets its name
        real(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write_part(molecules_table([molecule(0)]), tmp_path, 0, METADATA)
    [(present, hidden)] = seen
    assert present == [hidden]
    assert hidden.startswith(".")
    assert not hidden.endswith(".parquet")
    assert files(tmp_path) == {"part-000000.parquet"}


def test_the_key_of_a_torn_or_foreign_file_is_none(tmp_path):
    path = write_part(molecules_table([molecule(0)]), tmp_path, 0, METADATA)
    assert read_part_key(path) == KEY
    whole = path.read_bytes()
    for n in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        assert read_part_key(path) is None
    pq.write_table(pa.table({"x": [1]}), path)
    assert read_part_key(path) is None
    assert read_part_key(tmp_path / "nowhere.parquet") is None


def test_finished_shards_are_whole_of_this_run_and_have_their_conformers(tmp_path):
    assert finished_shards(tmp_path, KEY) == set()
    write_run(tmp_path, shards=5, size=2)
    assert finished_shards(tmp_path, KEY) == {0, 1, 2, 3, 4}
    assert finished_shards(tmp_path, "other") == set()
    torn = tmp_path / "molecules" / "part-000001.parquet"
    torn.write_bytes(torn.read_bytes()[:-5])
    (tmp_path / "conformers" / "part-000002.parquet").unlink()
    (tmp_path / "molecules" / "part-000003.parquet").unlink()
    assert finished_shards(tmp_path, KEY) == {0, 4}
    garbage = [molecule(10, 0, status="rejected", reason="empty")]
    write_part(molecules_table(garbage), tmp_path / "molecules", 5, METADATA)
    assert finished_shards(tmp_path, KEY) == {0, 4, 5}


# --- the folder -------------------------------------------------------------------------------


def test_the_manifest_is_read_back_as_written(tmp_path):
    one = manifest(counts={"status": {"ok": 3}})
    one.add_timings({"embed": 1.0})
    one.add_timings({"embed": 0.5, "relax": 2.0})
    assert one.timings_s == {"embed": 1.5, "relax": 2.0}
    one.write(tmp_path)
    assert read_manifest(tmp_path) == one
    assert json.loads((tmp_path / "manifest.json").read_text())["finished"] is None
    assert read_manifest(tmp_path / "nowhere") is None


def test_a_new_folder_is_made_and_marked_unfinished(tmp_path):
    out = tmp_path / "deep" / "down"
    open_output(out, manifest())
    assert read_manifest(out) == manifest()


def test_files_of_others_stay_whatever_is_asked_for(tmp_path):
    others = {"notes.txt", "molecules/README", "data/part-000000.parquet", ".hidden", ".x.1.tmp"}
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    open_output(tmp_path, manifest())
    write_run(tmp_path)
    open_output(tmp_path, manifest(), resume=True)
    open_output(tmp_path, manifest("other"), overwrite=True)
    assert files(tmp_path) == others | {"manifest.json"}
    assert all((tmp_path / name).read_text() == "mine" for name in others)


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        (manifest("other"), "another run; --overwrite replaces them"),
        (manifest(), "this run unfinished; --resume ends it, --overwrite begins anew"),
        (manifest(finished="2026-01-01"), "this run's results already; --overwrite"),
        (None, "an unknown run; --overwrite replaces them"),
    ],
)
def test_results_in_the_way_are_refused_and_stay(tmp_path, earlier, message):
    write_run(tmp_path)
    if earlier is not None:
        earlier.write(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(OutputError, match=message) as caught:
        open_output(tmp_path, manifest())
    assert "\n" not in str(caught.value)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_overwriting_removes_the_earlier_tables_and_leftovers(tmp_path):
    write_run(tmp_path)
    manifest("other").write(tmp_path)
    (tmp_path / "molecules" / ".part-000009.parquet.4711.tmp").write_text("torn")
    assert open_output(tmp_path, manifest(), overwrite=True) == manifest()
    assert files(tmp_path) == {"manifest.json"}
    assert read_manifest(tmp_path).run_key == KEY


def test_resuming_keeps_the_parts_and_the_identity_of_the_run(tmp_path):
    write_run(tmp_path)
    first = manifest(timings_s={"embed": 3.0})
    first.write(tmp_path)
    again = manifest(run_id="second", started="later", versions={"rdkit": "2"})
    resumed = open_output(tmp_path, again, resume=True)
    assert (resumed.run_id, resumed.started) == ("first", first.started)
    assert resumed.timings_s == {"embed": 3.0}
    assert resumed.versions == {"rdkit": "2"}
    assert read_manifest(tmp_path) == resumed
    assert finished_shards(tmp_path, KEY) == {0, 1, 2}
    # With nothing to resume, a resumed run is a new one: a schedule may always say --resume.
    assert open_output(tmp_path / "new", manifest(), resume=True) == manifest()


def test_resuming_another_run_says_what_differs(tmp_path):
    manifest().write(tmp_path)
    other = manifest(
        "other",
        parameters={"fmax": 0.01, "conformers": 1, "out": "there"},
        library={"location": "moved.smi", "sha256": "cc", "n_records": 12},
    )
    with pytest.raises(OutputError, match="cannot be resumed") as caught:
        open_output(tmp_path, other, resume=True)
    told = str(caught.value)
    assert "fmax was 0.05, is 0.01" in told
    assert "library sha256 was aa, is cc" in told
    assert "--overwrite" in told
    assert all(same not in told for same in ("conformers", "there", "moved", "n_records"))
    # A part of another run among ours, with no manifest to tell of it.
    (tmp_path / "manifest.json").unlink()
    write_shard(tmp_path, 0, [molecule(0)], [conformer(0)], run_key="other")
    with pytest.raises(OutputError, match=r"part-000000\.parquet: is of another run"):
        open_output(tmp_path, manifest(), resume=True)


def test_what_is_not_ours_is_never_taken_for_ours(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "my web app", "icons": []}')
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError, match="not the manifest of a run; choose another folder"):
            open_output(tmp_path, manifest(), **options)
    (tmp_path / "manifest.json").write_text("\0")
    with pytest.raises(OutputError, match="not the manifest of a run"):
        open_output(tmp_path, manifest(), overwrite=True)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "molecules").mkdir()
    (tmp_path / "molecules" / "mine.parquet").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.parquet: is in the way"):
        open_output(tmp_path, manifest(), overwrite=True)


@pytest.mark.parametrize(
    "where", ["file", "file/below", "/proc/out", "a\0b", "x" * 300, "dangling", "dangling/below"]
)
def test_a_folder_that_cannot_be_written_is_said(tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        open_output(tmp_path / where, manifest())
    assert "\n" not in str(caught.value)


def test_checking_a_folder_touches_nothing(tmp_path):
    assert check_output(tmp_path / "deep" / "down", manifest()) == manifest()
    assert files(tmp_path) == set()
    assert not (tmp_path / "deep").exists()
    write_run(tmp_path)
    manifest("other").write(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert check_output(tmp_path, manifest(), overwrite=True) == manifest()
    for options in ({}, {"resume": True}):
        with pytest.raises(OutputError):
            check_output(tmp_path, manifest(), **options)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_overwrite_and_resume_together_are_refused(tmp_path):
    with pytest.raises(OutputError, match="contradict"):
        open_output(tmp_path, manifest(), overwrite=True, resume=True)


# --- reconciling ------------------------------------------------------------------------------


def test_the_counts_are_those_of_the_rows(tmp_path):
    rows = [
        molecule(0, 2),
        molecule(1, 0, status="rejected", reason="radical"),
        molecule(2, 1, status="failed", reason="all_conformers_failed", n_converged=0),
        molecule(3, 2, n_converged=1),
    ]
    conformers = [
        conformer(0, 0),
        conformer(0, 1),
        conformer(2, 0, status="exploded"),
        conformer(3, 0),
        conformer(3, 5, status="max_steps"),
    ]
    write_shard(tmp_path, 0, rows[:2], conformers[:2])
    write_shard(tmp_path, 1, rows[2:], conformers[2:])
    counts = reconcile(tmp_path, 4, KEY)
    assert counts.n_records == 4
    assert counts.n_conformers == 5
    told = counts.to_dict()
    assert told["status"] == {"ok": 2, "rejected": 1, "failed": 1}
    assert {k: n for k, n in told["reason"].items() if n} == {
        "radical": 1,
        "all_conformers_failed": 1,
    }
    assert {k: n for k, n in told["conformer_status"].items() if n} == {
        "converged": 3,
        "exploded": 1,
        "max_steps": 1,
    }
    words = [set(told[k]) for k in ("status", "reason", "conformer_status")]
    assert words == [set(MoleculeStatus), set(Reason), set(ConformerStatus)]
    assert all(type(k) is str for kind in told.values() for k in kind)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([[0, 1], [2, 4]], r"1 \(3\) missing"),
        ([[1, 2], [3, 4]], r"1 \(0\) missing"),
        ([[0, 1], [2, 3]], r"1 \(4\) missing"),
        ([[0], []], r"4 \(1 to 4\) missing"),
        ([[0, 1, 1, 2], [3, 4]], r"1 \(1\) twice"),
        ([[0, 1, 2], [2, 3, 4]], r"1 \(2\) twice"),
        ([[2, 3, 4], [0, 1]], "missing"),
        ([[0, 1, 2], [3, 4, 5]], r"1 \(5\) not in the library"),
        ([[-1, 0, 1, 2], [3, 4]], r"1 \(-1\) not in the library"),
        ([[0, 1, 2], [0, 1, 2]], r"2 \(3 to 4\) missing; 3 \(0, 1, 2\) twice"),
    ],
)
def test_every_record_must_be_there_once(tmp_path, records, message):
    for shard, own in enumerate(records):
        own_conformers = [conformer(r, c) for c, r in enumerate(own)]
        own_molecules = [molecule(r, own.count(r)) for r in own]
        write_shard(tmp_path, shard, own_molecules, own_conformers)
    with pytest.raises(OutputError, match=message) as caught:
        reconcile(tmp_path, 5)
    assert "do not add up to 5 records" in str(caught.value)


def test_a_long_list_of_missing_records_is_cut_short(tmp_path):
    rows = [molecule(2 * r) for r in range(500)]
    write_shard(tmp_path, 0, rows, [conformer(2 * r, n_atoms=1) for r in range(500)])
    with pytest.raises(OutputError, match=r"501 \(1, 3, 5, 7, 9, \.\.\.\) missing") as caught:
        reconcile(tmp_path, 1001)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "conformers",
    [
        [],
        [conformer(0)],
        [conformer(0), conformer(1), conformer(1, 1)],
        [conformer(0), conformer(0)],
        [conformer(0), conformer(1), conformer(2)],
        [conformer(0), conformer(0, 1), conformer(7)],
        [conformer(0), conformer(1, status="max_steps")],
    ],
)
def test_conformers_must_be_those_that_their_molecules_count(tmp_path, conformers):
    rows = [molecule(0), molecule(1), molecule(2, 0, status="rejected", reason="radical")]
    write_shard(tmp_path, 0, rows, [conformer(0), conformer(1)])
    assert reconcile(tmp_path, 3).n_conformers == 2
    write_shard(tmp_path, 0, rows, conformers)
    with pytest.raises(OutputError, match="with other conformers than their rows count"):
        reconcile(tmp_path, 3)


def test_a_rejected_molecule_has_no_conformers(tmp_path):
    row = molecule(0, 1, status="rejected", reason="radical")
    write_shard(tmp_path, 0, [row], [conformer(0)])
    with pytest.raises(OutputError, match="with other conformers"):
        reconcile(tmp_path, 1)


def test_parts_of_another_run_and_orphans_are_found(tmp_path):
    n = write_run(tmp_path)
    reconcile(tmp_path, n, KEY)
    with pytest.raises(OutputError, match=f"expected a part of run other, found {KEY}"):
        reconcile(tmp_path, n, "other")
    (tmp_path / "conformers" / "part-000001.parquet").unlink()
    with pytest.raises(OutputError, match="other conformers"):
        reconcile(tmp_path, n)
    (tmp_path / "molecules" / "part-000002.parquet").unlink()
    with pytest.raises(OutputError, match=r"conformers/part-000002\.parquet: has no counterpart"):
        reconcile(tmp_path, n)


def test_a_damaged_part_is_named(tmp_path):
    n = write_run(tmp_path)
    path = tmp_path / "molecules" / "part-000001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OutputError, match=r"part-000001\.parquet: cannot be read"):
        reconcile(tmp_path, n)


def test_a_manifest_that_knows_more_is_read_for_what_is_known_here(tmp_path):
    known = dataclasses.asdict(manifest())
    (tmp_path / "manifest.json").write_text(json.dumps(known | {"from_later": 1}))
    assert read_manifest(tmp_path) == manifest()


# --- docs/schema.md ---------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "schema.md"


def recipe(first_word: str) -> str:
    """Return the page's block of Python that imports this."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [found] = [block for block in blocks if block.startswith(f"import {first_word}")]
    return found


@pytest.fixture
def druglike(tmp_path, monkeypatch):
    """Two shards of results where the page says that they are."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out" / "druglike"
    write_shard(
        out,
        0,
        [molecule(0, 3), molecule(1, 0, status="rejected", reason="radical")],
        [
            conformer(0, 0, relative_energy_kcal_mol=0.9),
            conformer(0, 1, relative_energy_kcal_mol=0.0),
            conformer(0, 2, relative_energy_kcal_mol=1.1),
        ],
    )
    write_shard(
        out,
        1,
        [
            molecule(2, 0, status="rejected", reason="empty"),
            molecule(3, 0, status="rejected", reason="radical"),
            molecule(4, 1, status="failed", reason="all_conformers_failed", n_converged=0),
            molecule(5, 1),
        ],
        [
            conformer(4, status="exploded", relative_energy_kcal_mol=0.0),
            conformer(5, relative_energy_kcal_mol=0.0),
        ],
    )
    return out


@pytest.mark.parametrize("reader", ["polars", "duckdb", "pandas"])
def test_the_recipes_of_the_page_answer_their_question(druglike, reader):
    names: dict = {}
    exec(recipe(reader), names)
    best, reasons = names["best"], names["reasons"]
    if reader == "polars":
        best, reasons = best.to_dicts(), {r["reason"]: r["n"] for r in reasons.to_dicts()}
    elif reader == "duckdb":
        best, reasons = best.df().to_dict("records"), dict(reasons.fetchall())
    else:
        best, reasons = best.to_dict("records"), reasons.to_dict()
    assert [(r["record"], r["conformer"]) for r in best] == [(0, 1), (0, 0), (5, 0)]
    assert [r["input_id"] for r in best] == ["m0", "m0", "m5"]
    expected = conformer(0, 1)["forces_ev_per_angstrom"].reshape(-1)
    np.testing.assert_array_equal(best[0]["forces_ev_per_angstrom"], expected)
    assert reasons == {"radical": 2, "empty": 1, "all_conformers_failed": 1}


def test_the_recipe_for_ase_gives_the_geometry(druglike):
    names: dict = {}
    exec(recipe("ase"), names)
    expected = conformer(0, 0)
    np.testing.assert_array_equal(names["atoms"].numbers, expected["atomic_numbers"])
    np.testing.assert_array_equal(names["atoms"].positions, expected["positions_angstrom"])


def test_the_recipe_for_metadata_gives_unit_and_model(druglike):
    names: dict = {}
    exec(recipe("pyarrow"), names)
    assert (names["unit"], names["model"]) == ("eV/Å", "tiny")


def test_the_page_describes_every_column_and_word():
    text = PAGE.read_text(encoding="utf-8")
    for schema in (MOLECULES_SCHEMA, CONFORMERS_SCHEMA):
        for column in schema:
            kind = str(column.type.value_type if pa.types.is_list(column.type) else column.type)
            kind = {"double": "float64", "float": "float32"}.get(kind, kind)
            kind = f"list<{kind}>" if pa.types.is_list(column.type) else kind
            star = "" if column.nullable else " *"
            told = {k: v.decode() for k, v in column.metadata.items()}
            row = f"| `{column.name}` | {kind}{star} | {told.get(b'unit', '')} | "
            assert f"{row}{told[b'description']} |" in text
    for words in (MoleculeStatus, Reason, ConformerStatus):
        assert all(f"\n| `{word}` |" in text for word in words)
    assert f"The schema version is {SCHEMA_VERSION}." in text
