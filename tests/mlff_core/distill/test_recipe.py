"""Every choice in one file, and no other."""

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from mlff_core.distill.recipe import Recipe, read_recipe
from mlff_core.distill.steps import claim

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
        if section.name != "name":
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


def test_a_folder_keeps_its_recipe_as_it_was_read(tmp_path):
    recipe = read_recipe(SHIPPED)
    assert read_recipe(claim(tmp_path, recipe)) == recipe


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
    ],
)
def test_a_key_or_a_value_that_means_nothing_is_an_error(written, text, expected):
    with pytest.raises(ValueError, match=expected):
        read_recipe(written(text))
