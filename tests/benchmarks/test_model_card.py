"""The model card says what was measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import model_card, model_pages
from mlff_core.models.reference import find_model

ROOT = Path(__file__).parents[2]


def test_the_card_says_how_many_minima_have_other_bonds():
    part = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())["minima"]
    part["at"][-1] |= {"n_teacher_rearranged": 7, "n_student_rearranged": 3}
    text = "\n".join(model_card.minima(part))
    assert "(7 have others at the teacher's minimum and 3 at the student's" in text
    assert "those included" not in text


def test_the_card_says_for_how_long_no_molecule_broke_where_that_is_less_than_it_must_be():
    breaks = model_card.breaks
    part = {"picoseconds": 100.0, "n_broken": 0, "n_molecules": 10}
    assert breaks(part)[-2:] == ["0 of 10", "met"]
    assert breaks(part | {"picoseconds": 65.5})[-1] == "none in the 66 ps it was run"
    assert breaks(part | {"picoseconds": 65.5, "n_broken": 1})[-2:] == ["1 of 10", "**missed**"]


def test_the_card_names_the_bonds_that_broke():
    named_breaks = model_card.named_breaks
    assert named_breaks({"broken": []}) == ""
    broken = {"smiles": "O[As](O)O", "bond": "O-H", "picoseconds": 14.5}
    assert named_breaks({"broken": [broken]}) == " (O-H of `O[As](O)O` after 14 ps)"


def test_the_card_says_which_stages_began_from_the_mean_of_several():
    stage = {"seconds": 1.0, "samples": 1, "molecules_embedded": 1, "n_parameters": 1}
    stages = [stage, stage, stage | {"starts_from_mean_of": 2}]
    text = "\n".join(model_card.training({"name": "m", "stages": stages}))
    assert "ended (stage 3 from the mean of the 2 before); mol" in text
    assert "(stage" not in "\n".join(model_card.training({"name": "m", "stages": stages[:2]}))


@pytest.mark.parametrize("model", ["default", "small"])
def test_the_card_is_what_the_shipped_results_give(model, tmp_path):
    """In a copy of the tree, so that nothing here is written."""
    docs = Path("docs" if model == "default" else f"docs/{model}")
    for folder in ("benchmarks", "docs", "mlff_core"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    pages = ("model_card.md", "training.md", "not_for.md")
    for name in (*pages, "model_card_parity.png"):
        (tmp_path / docs / name).unlink()
    subprocess.run(
        [sys.executable, "benchmarks/model_card.py", "--model", model],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}, check=True,
    )  # fmt: skip
    for name in pages:
        assert (tmp_path / docs / name).read_text() == (ROOT / docs / name).read_text()
    weights = find_model(model).with_suffix(".json").relative_to(ROOT)
    assert (tmp_path / weights).read_text() == (ROOT / weights).read_text()
    for name in ("parity", "errors", "learning"):
        assert (tmp_path / docs / f"model_card_{name}.png").stat().st_size > 5000
        page = "training.md" if name == "learning" else "model_card.md"
        assert f"(model_card_{name}.png)" in (tmp_path / docs / page).read_text()


def test_the_page_of_what_not_to_do_has_the_numbers_that_were_measured():
    results = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())
    text = model_pages.not_for("the model", results)
    far_off = results["protomers"]["groups"]["all"]
    assert f"{100 * far_off['n_far_off'] / far_off['n']:.2g} % are off by more than 5" in text
    few = {"molecules": [
        {"smiles": "II", "largest_error_angstrom": 0.06, "status": ["converged", "converged"]},
        {"smiles": "O", "largest_error_angstrom": 0.001, "status": ["converged", "converged"]},
    ]}  # fmt: skip
    charges = {"all": {"dipole_mae_debye": 0.63}}
    text = model_pages.not_for("the model", results | {"few_atoms": few, "charges": charges})
    assert "of 2 tried 1 have a bond that is off by more than 0.02 Å, `II` most of all" in text
    assert "off by 0.6 D" in text
    # Who has a Coulomb energy hears of every atom.
    measured = results | {"far": {}}
    assert "beyond 15 Å not at all" in model_pages.not_for("the model", measured)
    assert "15 Å" not in model_pages.not_for("the model", measured, coulomb=True)
    section = "\n".join(model_pages.few_atoms(few, "a CPU"))
    assert "1 are within 0.02 Å" in section
    assert "| `II` | 0.06 | converged |" in section
    assert "`O`" not in section
    few["molecules"] = few["molecules"][1:]
    assert "1 are within 0.02 Å." in model_pages.few_atoms(few, "a CPU")[2]
    assert "few atoms" not in model_pages.not_for("the model", results | {"few_atoms": few})
