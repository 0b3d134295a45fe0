"""Nothing goes missing, and nothing is counted twice."""

import pytest

from mlff_core.errors import OutputError
from mlff_core.status import ConformerStatus, MoleculeStatus, Reason
from mlff_core.tables import reconcile
from mlff_core.tables.testing import KEY, conformer, molecule, write_run, write_tables


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
    write_tables(tmp_path, 0, rows[:2], conformers[:2])
    write_tables(tmp_path, 1, rows[2:], conformers[2:])
    counts = reconcile(tmp_path, 4, KEY)
    assert counts.n_molecules == 4
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
        write_tables(tmp_path, shard, own_molecules, own_conformers)
    with pytest.raises(OutputError, match=message) as caught:
        reconcile(tmp_path, 5)
    assert "do not add up to 5 records" in str(caught.value)


def test_a_long_list_of_missing_records_is_cut_short(tmp_path):
    rows = [molecule(2 * r) for r in range(500)]
    write_tables(tmp_path, 0, rows, [conformer(2 * r, n_atoms=1) for r in range(500)])
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
    write_tables(tmp_path, 0, rows, [conformer(0), conformer(1)])
    assert reconcile(tmp_path, 3).n_conformers == 2
    write_tables(tmp_path, 0, rows, conformers)
    with pytest.raises(OutputError, match="with other conformers than their rows count"):
        reconcile(tmp_path, 3)


def test_a_record_may_have_variants_all_of_them_once(tmp_path):
    rows = [molecule(0, variant=v, n_variants=3) for v in (2, 0, 1)] + [molecule(1)]
    own = [conformer(0, 0, variant=v) for v in range(3)] + [conformer(1)]
    write_tables(tmp_path, 0, rows, own)
    write_tables(
        tmp_path, 1, [molecule(2, variant=v, n_variants=2, n_conformers=0) for v in (0, 1)], []
    )
    counts = reconcile(tmp_path, 3)
    assert (counts.n_molecules, counts.n_conformers) == (6, 4)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([(0, 3), (1, 3)], r"1 \(1\) with other variants than their rows count"),
        ([(1, 2), (2, 2)], "with other variants"),
        ([(0, 1), (1, 2)], "with other variants"),
        ([(0, 3), (1, 3), (1, 3)], r"1 \(1\) twice"),
        ([(-1, 1)], "with other variants"),
    ],
)
def test_variants_that_do_not_add_up_are_found(tmp_path, variants, message):
    rows = [molecule(1, 0, variant=v, n_variants=n) for v, n in variants]
    write_tables(tmp_path, 0, [molecule(0), *rows, molecule(2)], [conformer(0), conformer(2)])
    with pytest.raises(OutputError, match=message):
        reconcile(tmp_path, 3)


def test_variants_of_a_record_stand_in_one_part(tmp_path):
    for v in (0, 1):
        write_tables(tmp_path, v, [molecule(0, 0, variant=v, n_variants=2)], [])
    with pytest.raises(OutputError, match=r"1 \(0\) twice"):
        reconcile(tmp_path, 1)


def test_conformers_belong_to_one_variant(tmp_path):
    rows = [molecule(0, 1, variant=v, n_variants=2) for v in (0, 1)]
    write_tables(tmp_path, 0, rows, [conformer(0, 0, variant=1), conformer(0, 1, variant=1)])
    with pytest.raises(OutputError, match=r"1 \(0\) with other conformers"):
        reconcile(tmp_path, 1)


def test_tables_of_another_schema_version_are_refused_in_words(tmp_path):
    write_tables(tmp_path, 0, [molecule(0)], [conformer(0)], schema_version="1")
    with pytest.raises(
        OutputError, match=r"part-000000\.parquet: is of schema version 1, and this"
    ):
        reconcile(tmp_path, 1)


def test_a_rejected_molecule_has_no_conformers(tmp_path):
    row = molecule(0, 1, status="rejected", reason="radical")
    write_tables(tmp_path, 0, [row], [conformer(0)])
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


def test_parts_must_stand_under_the_number_of_their_shard(tmp_path):
    write_tables(tmp_path, 0, [molecule(0)], [conformer(0)])
    write_tables(tmp_path, 1, [molecule(1)], [conformer(1)])
    assert reconcile(tmp_path, 2, KEY).n_molecules == 2
    for table in ("molecules", "conformers"):
        (tmp_path / table / "part-000001.parquet").rename(tmp_path / table / "part-000002.parquet")
    assert reconcile(tmp_path, 2).n_molecules == 2
    with pytest.raises(OutputError, match="expected the part of shard 2, found 1"):
        reconcile(tmp_path, 2, KEY)
