"""The manifest, and the folder that a run makes its own."""

import dataclasses
import json

import pytest

from mlff_core.errors import OutputError
from mlff_core.tables import (
    check_output,
    earlier_choice,
    finished_shards,
    open_output,
    read_manifest,
)
from mlff_core.tables.testing import (
    KEY,
    conformer,
    contents,
    manifest,
    molecule,
    write_run,
    write_tables,
)


def test_the_manifest_is_read_back_as_written(tmp_path):
    one = manifest(counts={"status": {"ok": 3}})
    one.add_timings({"embed": 1.0})
    one.add_timings({"embed": 0.5, "relax": 2.0})
    assert one.timings_s == {"embed": 1.5, "relax": 2.0}
    one.add_slowest({7: 2.9, 1: 0.1, 2: 0.3})
    one.add_slowest({3: 0.2, 4: 1.5, 5: 0.4})
    assert one.slowest == [(7, 2.9), (4, 1.5), (5, 0.4), (2, 0.3), (3, 0.2)]
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
    assert set(contents(tmp_path)) == others | {"manifest.json"}
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
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=message) as caught:
        open_output(tmp_path, manifest())
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_overwriting_removes_the_earlier_tables_and_leftovers(tmp_path):
    write_run(tmp_path)
    manifest("other").write(tmp_path)
    (tmp_path / "molecules" / ".part-000009.parquet.4711.tmp").write_text("torn")
    assert open_output(tmp_path, manifest(), overwrite=True) == manifest()
    assert set(contents(tmp_path)) == {"manifest.json"}
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
    manifest("other", schema_version="1").write(tmp_path)
    with pytest.raises(OutputError, match="schema version 1, and this release writes version 2"):
        open_output(tmp_path, manifest(), resume=True)
    # A part of another run among ours, with no manifest to tell of it.
    (tmp_path / "manifest.json").unlink()
    write_tables(tmp_path, 0, [molecule(0)], [conformer(0)], run_key="other")
    with pytest.raises(OutputError, match=r"part-000000\.parquet: is of another run"):
        open_output(tmp_path, manifest(), resume=True)


def test_what_is_not_ours_is_never_taken_for_ours(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "my web app", "icons": []}')
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError, match="not the manifest of a run; choose another folder"):
            open_output(tmp_path, manifest(), **options)
    (tmp_path / "manifest.json").write_text("// of a web app, with a comment\n{}")
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
    assert set(contents(tmp_path)) == set()
    assert not (tmp_path / "deep").exists()
    write_run(tmp_path)
    manifest("other").write(tmp_path)
    before = contents(tmp_path)
    assert check_output(tmp_path, manifest(), overwrite=True) == manifest()
    for options in ({}, {"resume": True}):
        with pytest.raises(OutputError):
            check_output(tmp_path, manifest(), **options)
    assert contents(tmp_path) == before


def test_overwrite_and_resume_together_are_refused(tmp_path):
    with pytest.raises(OutputError, match="contradict"):
        open_output(tmp_path, manifest(), overwrite=True, resume=True)


def test_a_manifest_that_knows_more_is_read_for_what_is_known_here(tmp_path):
    known = dataclasses.asdict(manifest())
    (tmp_path / "manifest.json").write_text(json.dumps(known | {"from_later": 1}))
    assert read_manifest(tmp_path) == manifest()


def torn(text: str, **changes) -> str:
    return json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100],
        lambda text: "",
        lambda text: "\0" * len(text),
        lambda text: "[" * 100_000,
        lambda text: text.replace("run_id", "rub_id"),
        lambda text: torn(text, run_id=5),
        lambda text: torn(text, parameters=["fmax"]),
        lambda text: torn(text, library=None),
        lambda text: torn(text, counts={"status": 3}),
        lambda text: torn(text, ran=[{"batch_sizes": {"small": "many"}}]),
        lambda text: torn(text, finished={"at": "noon"}),
    ],
)
def test_a_damaged_manifest_is_said_replaced_or_gone_without(tmp_path, damage):
    write_run(tmp_path)
    manifest().write(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(damage(path.read_text()))
    damaged = path.read_text()
    for ask in (read_manifest, lambda out: open_output(out, manifest())):
        with pytest.raises(OutputError, match=r"is damaged \(.*--overwrite replaces all") as caught:
            ask(tmp_path)
        assert "\n" not in str(caught.value)
    assert path.read_text() == damaged
    # The parts say themselves whose they are.
    with pytest.raises(OutputError, match="of another run"):
        open_output(tmp_path, manifest("other"), resume=True)
    assert open_output(tmp_path, manifest(), resume=True) == manifest()
    assert finished_shards(tmp_path, KEY) == {0, 1, 2}
    path.write_text(damaged)
    assert open_output(tmp_path, manifest("other"), overwrite=True) == manifest("other")
    assert finished_shards(tmp_path, KEY) == set()


def test_what_a_run_chose_by_itself_is_known_without_its_manifest(tmp_path):
    assert earlier_choice(tmp_path, "shard_size") is None
    write_tables(tmp_path, 0, [molecule(0)], [conformer(0)], shard_size="7")
    assert earlier_choice(tmp_path, "shard_size") == "7"
    manifest(parameters={"shard_size": 9}).write(tmp_path)
    assert earlier_choice(tmp_path, "shard_size") == "9"
    (tmp_path / "manifest.json").write_text('{\n  "run_id": "fir')
    assert earlier_choice(tmp_path, "shard_size") == "7"


def test_a_part_with_a_damaged_end_is_nobodys_and_will_be_made_anew(tmp_path):
    write_run(tmp_path)
    manifest().write(tmp_path)
    path = tmp_path / "molecules/part-000001.parquet"
    path.write_bytes(path.read_bytes().replace(KEY.encode(), KEY[::-1].encode()))
    open_output(tmp_path, manifest(), resume=True)
    assert finished_shards(tmp_path, KEY) == {0, 2}
