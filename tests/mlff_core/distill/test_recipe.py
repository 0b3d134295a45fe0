"""Every choice in one file, and no other."""

import json
import tomllib
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from mlff_core.distill.kinds import BOTH_SIGNS
from mlff_core.distill.recipe import Recipe, read_recipe
from mlff_core.distill.steps import claim
from mlff_core.testing import script_at

SHIPPED = Path(__file__).parents[3] / "datasets/recipes/student.toml"
CHARGES = SHIPPED.with_name("charges.toml")


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return write


def test_the_shipped_recipe_names_every_choice():
    recipe, text = read_recipe(SHIPPED), tomllib.loads(SHIPPED.read_text())
    assert recipe.name == "painn-aimnet2"
    for section in fields(Recipe):
        if section.name not in ("name", "kinds"):
            names = {field.name for field in fields(getattr(recipe, section.name))}
            assert set(text[section.name]) == names, section.name


def test_the_recipe_of_a_stage_with_charges_differs_where_it_says_so():
    """And its student is what the shipped one can grow into."""
    one, other = (tomllib.loads(file.read_text()) for file in (SHIPPED, CHARGES))
    differs = {
        f"{section}.{key}"
        for section, keys in one.items()
        if section != "name"
        for key in keys
        if keys[key] != other[section][key]
    }
    marked, section = set(), ""
    for line in CHARGES.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "# differs" in line:
            marked.add(f"{section}.{line.split()[0]}")
    assert differs == marked
    recipe = read_recipe(CHARGES)
    assert recipe.student.charges_after == 2
    plain = replace(recipe.student, charges_after=0, charge_feedback=False, coulomb=False)
    assert plain == read_recipe(SHIPPED).student


def test_what_is_left_out_keeps_its_default(written):
    recipe = read_recipe(written("[stage]\nseconds = 7\n[student]\nelements = [1, 6]\n"))
    assert recipe.stage.seconds == 7.0
    assert recipe.stage.seed == Recipe().stage.seed
    assert recipe.student.elements == (1, 6)


def test_a_recipe_with_the_former_name_of_a_stage_means_the_same(written):
    found = read_recipe(written("[leg]\nseconds = 7\nn_legs = 3\naveraged_legs = 2\n"))
    assert (found.stage.seconds, found.stage.n_stages, found.stage.averaged_stages) == (7.0, 3, 2)
    with pytest.raises(ValueError, match="no such key: leg"):
        read_recipe(written("[leg]\nseconds = 7\n[stage]\nseconds = 8\n"))


@pytest.mark.parametrize("shipped", [SHIPPED, CHARGES])
def test_a_folder_keeps_its_recipe_as_it_was_read(tmp_path, shipped):
    recipe = read_recipe(shipped)
    assert read_recipe(claim(tmp_path, recipe)) == recipe


def test_a_folder_that_was_begun_before_there_were_kinds_is_still_its_recipes(tmp_path):
    values = asdict(read_recipe(SHIPPED))
    del values["kinds"]
    text = json.dumps(values, indent=1) + "\n"
    (tmp_path / "recipe.json").write_text(text)
    assert claim(tmp_path, read_recipe(SHIPPED)).read_text() == text


def test_kinds_say_what_differs_and_nothing_else_does(written):
    text = """[sampling]
turned = 0.3
[[kinds]]
names = ["cation", "both signs"]
driver = "teacher"
sampling = { relax_steps = 40, held = 1 }
calls = 0.5
[[kinds]]
names = ["fragment"]
"""
    recipe = read_recipe(written(text))
    first, second = recipe.kinds
    assert first.names == ("cation", "both signs")
    assert (first.driver, first.calls) == ("teacher", 0.5)
    assert first.sampled(recipe.sampling) == replace(recipe.sampling, relax_steps=40, held=1)
    assert (second.driver, second.calls) == ("", 1.0)
    assert second.sampled(recipe.sampling) == recipe.sampling


def test_the_kinds_of_the_shipped_recipe_are_those_that_the_scripts_write():
    scripts = {name: script_at(CHARGES.parents[1] / name) for name in
               ("make_hard.py", "make_groups.py", "make_fragments.py")}  # fmt: skip
    written = {*scripts["make_groups.py"].GROUPS, scripts["make_fragments.py"].KIND, BOTH_SIGNS}
    named = {name for kind in read_recipe(CHARGES).kinds for name in kind.names}
    assert named == written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("colour = 3", "no such key: colour"),
        ("[stage]\nsecond = 3.0", r"no such key: stage\.second "),
        ("[paint]\nseconds = 3.0", "no such key: paint"),
        ("stage = 3", "stage: expected a table, found 3"),
        ('[stage]\nseconds = "long"', "stage.seconds: expected float, found 'long'"),
        ("[stage]\nseed = 1.5", "stage.seed: expected int, found 1.5"),
        ("[stage]\nseed = true", "stage.seed: expected int, found True"),
        ('name = ""', "name: expected text"),
        ("name = ", "not TOML"),
        ("[training]\nn_mols = 7", "n_mols: expected an even number"),
        ('[training]\noptimizer = "sgd"', "optimizer: expected muon or adamw"),
        ("kinds = 3", "kinds: expected a list, found 3"),
        ("[[kinds]]\ndriver = 'small'", r"kinds\.0\.names: expected a value, found"),
        ("[[kinds]]\nnames = []", r"kinds\.names: expected at least one"),
        ("[[kinds]]\nnames = ['a']\ncolour = 3", r"no such key: kinds\.0\.colour"),
        ("[[kinds]]\nnames = 'a'", r"kinds\.0\.names: expected a list, found 'a'"),
        ("[[kinds]]\nnames = ['a']\ncalls = 0.0", r"kinds\.calls: expected above 0"),
        ("[[kinds]]\nnames = ['a']\nsampling = { relax = 3 }", r"key: kinds\.sampling\.relax "),
        (
            "[[kinds]]\nnames = ['a']\nsampling = { relax_steps = 3.0 }",
            r"kinds\.sampling\.relax_steps: expected int, found 3\.0",
        ),
        (
            "[[kinds]]\nnames = ['a']\nsampling = { held = true }",
            r"kinds\.sampling\.held: expected float, found True",
        ),
        ("[[kinds]]\nnames = ['a']\nsampling = { relax_steps = 0 }", "relax_steps: expected at"),
        (
            "[[kinds]]\nnames = ['a', 'b']\n[[kinds]]\nnames = ['b']",
            r"kinds\.names: expected each once, found 'b' 2 times",
        ),
    ],
)
def test_a_key_or_a_value_that_means_nothing_is_an_error(written, text, expected):
    with pytest.raises(ValueError, match=expected) as refused:
        read_recipe(written(text))
    assert "\n" not in str(refused.value)
