"""Only what is new: structures that the tables do not have, a generation at a time."""

from concurrent.futures import Future
from pathlib import Path

import polars as pl
import pytest

from flows.call import ScreenCall
from flows.cli import main
from flows.engines import LocalEngine
from flows.run import run_screen
from flows.stage import Stage
from flows.watch import Watcher
from mlff_core.errors import LibraryError, OutputError
from mlff_core.shard import StepReport
from mlff_core.tables import Manifest, read, read_manifest, reconcile
from mlff_core.tables.generations import generations_of, key_of


class Idle(LocalEngine):
    """Computes nothing: that is what is to be shown."""

    def submit(self, stage: Stage, shard: int) -> Future[StepReport]:
        raise AssertionError(f"{stage.name} of shard {shard} was asked for")


class CutOff(LocalEngine):
    """Dies when it is to embed a certain shard."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def submit(self, stage: Stage, shard: int) -> Future[StepReport]:
        if shard == self.last:
            raise ConnectionAbortedError("the power is gone")
        return super().submit(stage, shard)


class Said(Watcher):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def tell(self, sentence: str) -> None:
        self.sentences.append(sentence)


class Place:
    """A library and tables, and calls that differ in little."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.library, self.out, self.model = folder / "library.smi", folder / "out", model
        self.said = Said()

    def write(self, *smiles: str) -> None:
        self.library.write_text("".join(f"{s} m{k}\n" for k, s in enumerate(smiles)))

    def run(self, engine: LocalEngine | None = None, **more: object) -> Manifest:
        call = dict(
            library=str(self.library), out=str(self.out), model=str(self.model), shard_size=2,
            max_steps=0, workers=1, device="cpu",
        )  # fmt: skip
        self.said.sentences.clear()
        return run_screen(ScreenCall(**call | more), engine or LocalEngine(), self.said)

    def rows(self) -> list[tuple]:
        table = pl.read_parquet(self.out / "molecules").sort("record")
        return table.select("record", "input_smiles", "status").rows()


@pytest.fixture
def place(tmp_path: Path, small_model: Path) -> Place:
    return Place(tmp_path, small_model)


FIRST = ["CCO", "CC(F)Cl", "nonsense", "CC(=O)[O-]"]
#: The first ones again, some written otherwise, with what is new among them.
GROWN = [
    *FIRST, "OCC", "FC(C)Cl", "[Na+].CC([O-])=O", "nonsense", "CCN", "NCC", "C[C@H](F)Cl",
    "C[C@@H](F)Cl", "nothing_either", "CCC", "nothing_either",
]  # fmt: skip


def test_only_structures_that_the_tables_do_not_have_are_computed(place: Place) -> None:
    place.write(*FIRST)
    place.run()
    before = place.rows()
    [chosen] = pl.read_parquet(place.out / "molecules").filter(record=1)["smiles"]
    other = ({"C[C@H](F)Cl", "C[C@@H](F)Cl"} - {chosen}).pop()
    place.write(*GROWN)
    manifest = place.run(append=True)
    new = [
        (s, "rejected" if s == "nothing_either" else "ok") for s in ("CCN", other, "nothing_either")
    ]
    new.append(("CCC", "ok"))
    assert place.rows() == [*before, *((4 + k, *row) for k, row in enumerate(new))]
    assert "4 new structures among 15 entries, after 4 records" in place.said.sentences
    assert manifest.finished is not None
    assert manifest.library["n_records"] == 8
    assert manifest.counts["status"] == {"ok": 6, "rejected": 2, "failed": 0}
    generations = generations_of(manifest)
    assert [(g.first_record, g.n_records, g.shards) for g in generations] == [
        (0, 4, range(2)), (4, 4, range(2, 4)),
    ]  # fmt: skip
    assert reconcile(place.out, 8, key_of(generations)).n_molecules == 8
    assert read(place.out).molecules.collect().height == 8


def test_a_night_without_news_computes_nothing_and_says_so(place: Place) -> None:
    place.write(*FIRST)
    first = place.run(append=True)
    assert first.library["n_records"] == 4
    again = place.run(Idle(), append=True)
    assert again.counts == first.counts
    assert place.said.sentences[-1] == "nothing new: every library was read before"
    # Another file with nothing but known structures: read, and computed no more.
    place.write(*reversed(FIRST), "OCC")
    assert place.run(Idle(), append=True).counts == first.counts
    assert "0 new structures among 5 entries, after 4 records" in place.said.sentences
    assert place.run(Idle(), append=True).finished is not None


def test_a_folder_of_libraries_is_one_library(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    with pytest.raises(LibraryError, match="without any library file"):
        place.run(append=True, library=str(folder))
    (folder / "monday.smi").write_text("CCO a\nCCN b\n")
    (folder / "notes.md").write_text("not a library")
    place.run(append=True, library=str(folder))
    (folder / "tuesday.csv").write_text("id,smiles\nc,OCC\nd,CCC\n")
    place.run(append=True, library=str(folder))
    ids = pl.read_parquet(place.out / "molecules").sort("record")["input_id"]
    assert ids.to_list() == ["a", "b", "d"]


def test_a_generation_that_is_cut_off_is_not_seen_and_its_whole_shards_stay(place: Place) -> None:
    place.write(*FIRST)
    place.run(append=True)
    place.write(*FIRST, *("C" * n for n in range(3, 21)))
    with pytest.raises(ConnectionAbortedError):
        place.run(CutOff(9), append=True)
    assert read(place.out).molecules.collect().height == 4
    manifest = read_manifest(place.out)
    assert manifest is not None
    assert manifest.library["n_records"] == 4
    parts = {p: p.stat().st_mtime_ns for p in (place.out / "molecules").iterdir()}
    with pytest.raises(OutputError, match="--append goes on"):
        place.run(resume=True)
    # The library has grown once more meanwhile.
    place.write(*FIRST, *("C" * n for n in range(3, 22)))
    manifest = place.run(append=True)
    assert sorted(s for _, s, _ in place.rows()) == sorted(
        [*FIRST, *("C" * n for n in range(3, 22))]
    )
    second, third = generations_of(manifest)[1:]
    kept = [p.name for p in parts if p.exists() and parts[p] == p.stat().st_mtime_ns]
    assert sorted(kept) == [f"part-{k:06d}.parquet" for k in range(third.first_shard)]
    assert 2 <= second.n_records == third.first_record - 4 < 18
    assert read(place.out).molecules.collect().height == 23


def test_tables_that_were_made_otherwise_are_not_added_to(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write(*FIRST)
    place.run()
    for difference, told in (
        ({"conformers": 3}, "n_conformers was 1, is 3"),
        ({"fmax": 0.01}, r"fmax was 0\.05, is 0\.01"),
        ({"model": "small"}, "model was"),
    ):
        with pytest.raises(OutputError, match=f"cannot be added to.*{told}"):
            place.run(Idle(), append=True, **difference)
    manifest = read_manifest(place.out)
    assert manifest is not None
    manifest.finished = None
    manifest.write(place.out)
    with pytest.raises(OutputError, match="unfinished; --resume ends it first"):
        place.run(Idle(), append=True)
    (place.out / "manifest.json").unlink()
    with pytest.raises(OutputError, match="of an unknown run"):
        place.run(Idle(), append=True)
    with pytest.raises(SystemExit, match="2"):
        main(["run", str(place.library), "--append", "--overwrite"])
    assert "contradict" in capsys.readouterr().err
