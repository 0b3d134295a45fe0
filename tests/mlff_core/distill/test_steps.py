"""The steps of a distillation, cut off and resumed, on a few molecules and a cheap teacher."""

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mlff_core.distill import stage as stage_module
from mlff_core.distill import steps
from mlff_core.distill.kinds import KindConfig
from mlff_core.distill.molecules import MoleculesConfig
from mlff_core.distill.recipe import Recipe, TestConfig
from mlff_core.distill.sampling import SamplingConfig
from mlff_core.distill.stage import StageConfig
from mlff_core.distill.training_config import TrainingConfig
from mlff_core.distill.training_log import read_training_log, write_training_log
from mlff_core.errors import OutputError
from mlff_core.models.checkpoint import read_checkpoint, save_checkpoint
from mlff_core.models.painn import PaiNNConfig
from mlff_core.models.potential import load_potential
from mlff_core.testing import SpringTeacher, random_model

SMILES = ["CCO", "CC(=O)[O-]", "C[NH3+]", "CCN", "COC", "CC=O", "CCC", "garbage", "CC.O", "CCO"]

RECIPE = Recipe(
    name="small",
    molecules=MoleculesConfig(held_out_share=0.3, salt="a"),
    student=PaiNNConfig(n_features=16, n_interactions=1),
    stage=StageConfig(
        seconds=0.1, n_processes=1, capacity=32, first_molecules=2, checkpoint_s=0.0, n_stages=2
    ),
    sampling=SamplingConfig(relax_steps=3, hot_steps=2),
    training=TrainingConfig(n_mols=4, warmup_steps=2),
    test=TestConfig(n_molecules=10, n_charged=2),
)


class CutError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Molecules and test."""
    folder = tmp_path_factory.mktemp("distilled")
    table = folder / "table.smi"
    table.write_text("\n".join(SMILES))
    molecules = steps.choose(str(table), RECIPE, folder, n_processes=1)
    return molecules, steps.make_test(molecules, SpringTeacher, "cpu", RECIPE)


def train(
    number: int, made: tuple[Path, Path], start: Path | None, recipe: Recipe = RECIPE
) -> Path:
    return steps.train_stage(number, *made, SpringTeacher, "cpu", recipe, start)


def test_molecules_are_split_and_what_is_left_out_is_counted(made):
    table = pq.read_table(made[0])
    assert set(table["smiles"].to_pylist()) == set(SMILES) - {"garbage", "CC.O"}
    assert 0 < sum(table["held_out"].to_pylist()) < 5
    left_out = json.loads(table.schema.metadata[b"left_out"])
    assert left_out == {"invalid_smiles": 1, "mixture": 1, "duplicate": 1}


def test_the_test_holds_all_that_was_held_out_and_is_made_once(made):
    blocks, counts = steps.read_test(made[1], "cpu")
    held_out = sum(pq.read_table(made[0])["held_out"].to_pylist())
    assert sum(len(block.numbers) for block in blocks) == held_out
    assert counts["labels"] == held_out * 2 * 4

    def nobody(device: torch.device) -> SpringTeacher:
        raise AssertionError("the test was there")

    assert steps.make_test(made[0], nobody, "cpu", RECIPE) == made[1]


def test_a_stage_that_was_cut_off_goes_on_from_what_it_left(made, monkeypatch):
    seen: list[Path] = []
    save = stage_module.save_checkpoint

    def cut(network, path, card):
        if len(seen) == 3:
            raise CutError
        seen.append(path)
        return save(network, path, card)

    endless = replace(RECIPE, stage=replace(RECIPE.stage, seconds=1e4))
    monkeypatch.setattr(stage_module, "save_checkpoint", cut)
    with pytest.raises(CutError):
        train(1, made, None, endless)
    monkeypatch.undo()
    left = read_checkpoint(seen[-1])[0].state_dict()
    # What is read first when it goes on is what was left.
    starts: list[object] = []
    run = steps.run_stage

    def watched(smiles, teacher, start, checkpoint, **options):
        starts.append(read_checkpoint(start)[0].state_dict())
        return run(smiles, teacher, start, checkpoint, **options)

    monkeypatch.setattr(steps, "run_stage", watched)
    finished = train(1, made, None)
    assert all(torch.equal(starts[0][name], tensor) for name, tensor in left.items())
    assert finished.exists()
    assert not list(finished.parent.glob("*part*"))
    (report,) = read_training_log(finished)
    assert report["goes_on_from_a_cut_one"]

    # A stage that is finished is not run again; the next one starts from it, and says so.
    monkeypatch.undo()
    assert train(1, made, None) == finished
    second = train(2, made, finished)
    stages = read_training_log(second)
    assert [stage["goes_on_from_a_cut_one"] for stage in stages] == [True, False]
    assert steps.average([second]) == second
    mean = steps.average([finished, second])
    networks = [read_checkpoint(file)[0].readout[0].bias for file in (finished, second, mean)]
    torch.testing.assert_close(networks[2], (networks[0] + networks[1]) / 2)
    metrics = steps.evaluate(mean, made[1], "cpu")
    packaged = steps.package(mean, metrics, made[0], "0" * 64, RECIPE)
    card = load_potential(packaged, device="cpu").card
    assert card["averaged_stages"] == 2
    assert card["name"] == "small"
    assert "stages" not in card
    assert read_training_log(packaged) == stages
    assert card["molecules"]["left_out"]["invalid_smiles"] == 1
    assert card["metrics"]["test"]["labels"] > 0
    assert "kcal/mol" in card["headline"]["held-out energy MAE"]
    assert card["recipe"] == json.loads(json.dumps(RECIPE.to_dict()))


def test_a_stage_grows_the_weights_that_it_starts_from(made, tmp_path):
    """They have fewer blocks than the recipe asks for."""
    small = tmp_path / "small.safetensors"
    save_checkpoint(random_model(3, RECIPE.student), small, {"averaged_stages": 2})
    write_training_log(small, [{"seconds": 1.0}])
    molecules, test = (Path(shutil.copy(file, tmp_path)) for file in made)
    deeper = replace(RECIPE, student=replace(RECIPE.student, n_interactions=2))
    finished = train(1, (molecules, test), small, deeper)
    assert read_checkpoint(finished)[0].config == deeper.student
    first, second = read_training_log(finished)
    assert first == {"seconds": 1.0}
    assert second["starts_from_mean_of"] == 2
    assert not list(tmp_path.glob("*grown*"))


def test_other_weights_drive_a_stage_if_the_recipe_names_them(made, tmp_path, monkeypatch):
    asked: list[object] = []
    drivers: dict[str, object] = {}
    fill, driver_of = stage_module.fill, stage_module.driver_of

    def noted_driver(potential):
        drivers[potential.name] = driver_of(potential)
        return drivers[potential.name]

    def noted_fill(pool, teacher, driver, *others):
        asked.append(driver)
        return fill(pool, teacher, driver, *others)

    monkeypatch.setattr(stage_module, "driver_of", noted_driver)
    monkeypatch.setattr(stage_module, "fill", noted_fill)
    molecules, test = (Path(shutil.copy(file, tmp_path)) for file in made)
    weights = tmp_path / "guide.safetensors"
    save_checkpoint(random_model(5, RECIPE.student), weights, {"name": "guide"})
    start = tmp_path / "start.safetensors"
    save_checkpoint(random_model(3, RECIPE.student), start, {})
    guided = replace(RECIPE, stage=replace(RECIPE.stage, driver=str(weights)))
    (stage,) = read_training_log(train(1, (molecules, test), start, guided))
    assert asked
    assert list(drivers) == ["guide"]
    assert all(driver is drivers["guide"] for driver in asked)
    assert stage["configs"]["stage"]["driver"] == str(weights)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ({"elements": (1, 6)}, r"narrow.* does not know the elements \[5, 7, 8"),
        ({"min_charge": -1}, r"narrow.* knows charges from -1 to \+3, the student shall from -3"),
        ({"max_charge": 0}, r"narrow.* knows charges from -3 to \+0"),
    ],
)
def test_weights_that_drive_know_what_the_student_shall(made, tmp_path, domain, message):
    molecules, test = (Path(shutil.copy(file, tmp_path)) for file in made)
    narrow = tmp_path / "narrow.safetensors"
    save_checkpoint(random_model(5, replace(RECIPE.student, **domain)), narrow, {})
    guided = replace(RECIPE, stage=replace(RECIPE.stage, driver=str(narrow)))
    with pytest.raises(ValueError, match=message):
        train(1, (molecules, test), None, guided)


def test_a_stage_relaxes_as_long_as_is_drawn(made, tmp_path, monkeypatch):
    lengths: list[int] = []
    fill = stage_module.fill

    def noted_fill(pool, teacher, driver, padded, sampling, *others):
        lengths.append(sampling.relax_steps)
        return fill(pool, teacher, driver, padded, sampling, *others)

    monkeypatch.setattr(stage_module, "fill", noted_fill)
    molecules, test = (Path(shutil.copy(file, tmp_path)) for file in made)
    sampling = replace(RECIPE.sampling, max_relax_steps=20 * RECIPE.sampling.relax_steps)
    train(1, (molecules, test), None, replace(RECIPE, sampling=sampling))
    rng = random.Random(RECIPE.stage.seed + 1)  # each stage has another
    assert lengths
    assert lengths == [sampling.drawn(rng).relax_steps for _ in lengths]
    assert max(lengths) > RECIPE.sampling.relax_steps


def test_half_a_checkpoint_counts_as_none(tmp_path):
    half = tmp_path / "half.safetensors"
    assert not steps._is_whole(half)
    half.write_bytes(b"half")
    half.with_suffix(".json").write_text("{")
    assert not steps._is_whole(half)


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    steps.claim(tmp_path, RECIPE)
    steps.claim(tmp_path, RECIPE)
    with pytest.raises(OutputError, match="another recipe"):
        steps.claim(tmp_path, replace(RECIPE, name="other"))


def test_a_table_without_a_held_out_molecule_is_refused(tmp_path):
    table = tmp_path / "table.smi"
    table.write_text("CCO\n")
    with pytest.raises(ValueError, match="expected molecules on both sides of the split"):
        steps.choose(str(table), RECIPE, tmp_path, n_processes=1)


def test_the_learning_curve_is_measured_on_a_part_of_the_test_now_and_then(made):
    validation = steps.Validation(made[1], n_molecules=2)
    student = random_model(1, RECIPE.student)
    found = validation(student)
    assert found["n_molecules"] >= 1
    assert all(np.isfinite(value) for value in found.values())
    assert validation(student) == {}


def test_a_stage_is_validated_as_often_as_the_recipe_says(made, tmp_path, monkeypatch):
    def looked(smiles, teacher, start, checkpoint, **options):
        assert options["validate"].every_s == 7.0
        raise CutError

    monkeypatch.setattr(steps, "run_stage", looked)
    molecules = shutil.copy(made[0], tmp_path)
    recipe = replace(RECIPE, stage=replace(RECIPE.stage, validate_s=7.0))
    with pytest.raises(CutError):
        train(1, (Path(molecules), made[1]), None, recipe)


def test_molecules_are_embedded_in_their_order_whoever_is_done_first():
    # The first process has the slow ones.
    smiles = ["CCCCCCCCCCCCCCCCCCCCCCCC", "C"] * 20
    made, _ = steps.embed_all(smiles, 1, 1, 2)
    assert [molecule.index for molecule in made] == list(range(40))
    assert [len(molecule.numbers) for molecule in made] == [74, 5] * 20


def test_molecules_that_do_not_embed_are_counted():
    made, failed = steps.embed_all(["CCO", "nonsense"], 1, 1, 1)
    assert [molecule.index for molecule in made] == [0]
    assert failed == Counter(invalid_smiles=1)


def test_molecules_of_few_atoms_come_as_often_as_the_recipe_says_and_not_in_a_row(tmp_path):
    rows = [{"smiles": f"C{k}", "held_out": k % 7 == 0, "n_atoms": 40} for k in range(60)]
    rows += [{"smiles": "[H][H]", "held_out": False, "n_atoms": 2}]
    rows += [{"smiles": "II", "held_out": True, "n_atoms": 2}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "molecules.parquet")
    # Such a file was written before there were kinds.
    assert {kind for _, kind in steps._learnt(tmp_path / "molecules.parquet", 5)} == {""}
    once, often = (
        [text for text, _ in steps._learnt(tmp_path / "molecules.parquet", times)]
        for times in (1, 5)
    )
    assert once == [row["smiles"] for row in rows if not row["held_out"]]
    assert Counter(often) == Counter(once) + Counter({"[H][H]": 4})
    places = [k for k, text in enumerate(often) if text == "[H][H]"]
    assert min(np.diff(places)) >= 8
    assert [text for text in often if text != "[H][H]"] == once[:-1]


KINDS = (KindConfig(("acid", "both signs"), "teacher"), KindConfig(("no such",)))


@pytest.mark.parametrize(
    ("name", "header", "line"),
    [
        ("table.csv", "id,SMILES,kind", "{k},{text},{kind}"),
        ("table.tsv", "kind\tsmiles", "{kind}\t{text}"),
        ("table.smi", "smiles kind", "{text} {kind}"),
    ],
)
def test_the_kind_of_a_molecule_is_that_of_the_table(tmp_path, caplog, name, header, line):
    kind_of = {
        text: "acid" if "C(=O)" in text else "" if text == "CCC" else "other" for text in SMILES
    }
    lines = [line.format(k=k, text=text, kind=kind_of[text]) for k, text in enumerate(SMILES)]
    table = tmp_path / name
    table.write_text("\n".join([header, *lines]) + "\n")
    recipe = replace(RECIPE, kinds=KINDS)
    rows = pq.read_table(steps.choose(str(table), recipe, tmp_path, n_processes=1)).to_pylist()
    assert {row["smiles"]: row["kind"] for row in rows} == {
        row["smiles"]: kind_of[row["smiles"]] for row in rows
    }
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning == f"{table}: in column 'kind' no molecule has: no such"


def test_a_table_without_kinds_is_taken_all_the_same_and_that_is_told(made, tmp_path, caplog):
    table = tmp_path / "table.smi"
    table.write_text("\n".join(SMILES))
    chosen = steps.choose(str(table), replace(RECIPE, kinds=KINDS), tmp_path, n_processes=1)
    assert pq.read_table(chosen) == pq.read_table(made[0])
    assert f"{table}: in column 'kind' no molecule has: acid, no such" in caplog.text
    caplog.clear()
    only = replace(RECIPE, kinds=(KindConfig(("both signs",)),))
    chosen.unlink()
    steps.choose(str(table), only, tmp_path, n_processes=1)
    assert not caplog.text


@pytest.mark.parametrize("number", [1, 2])
def test_a_stage_knows_the_kind_of_each_of_its_molecules(tmp_path, monkeypatch, number):
    rows = [
        {"smiles": "C" * k, "held_out": k == 4, "n_atoms": 3 * k + 2, "kind": f"of {k}"}
        for k in range(1, 8)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "molecules.parquet")
    stage = replace(RECIPE.stage, small_repeats=3)
    recipe = replace(RECIPE, stage=stage, kinds=KINDS)

    def looked(smiles, teacher, start, checkpoint, **options):
        assert options["kinds"] == KINDS
        assert Counter(smiles) == Counter(C=3, CC=3, CCC=1, CCCCC=1, CCCCCC=1, CCCCCCC=1)
        assert options["kind_of"] == [f"of {len(text)}" for text in smiles]
        raise CutError

    monkeypatch.setattr(steps, "run_stage", looked)
    with pytest.raises(CutError):
        train(number, (tmp_path / "molecules.parquet", tmp_path / "test.npz"), None, recipe)


def test_a_stage_with_kinds_says_how_many_molecules_were_of_each(made, tmp_path):
    molecules, test = (Path(shutil.copy(file, tmp_path)) for file in made)
    recipe = replace(RECIPE, kinds=(KindConfig(("both signs", "x"), sampling={"held": 0.5}),))
    (stage,) = read_training_log(train(1, (molecules, test), None, recipe))
    assert stage["configs"]["kinds"] == json.loads(json.dumps(recipe.to_dict()))["kinds"]
    assert set(stage["molecules_by_kind"]) == {"others"}
    assert stage["molecules_by_kind"]["others"] == stage["molecules_embedded"]
