"""docs/schema.md: its recipes work, and it says all that there is."""

import re

import numpy as np
import pytest
from rdkit import Chem

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.status import ConformerStatus, Flag, MoleculeStatus, Reason, VariantKind
from mlff_core.tables import CONFORMERS_SCHEMA, MOLECULES_SCHEMA
from mlff_core.tables.document import PAGE, written
from mlff_core.tables.testing import conformer, molecule, write_tables


def recipe(beginning: str) -> str:
    """Return the page's block of Python that begins like this."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [found] = [block for block in blocks if block.startswith(beginning)]
    return found


@pytest.fixture
def druglike(tmp_path, monkeypatch):
    """Two shards of results where the page says that they are."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out" / "druglike"
    write_tables(
        out,
        0,
        [molecule(0, 3), molecule(1, 0, status="rejected", reason="radical")],
        [
            conformer(0, 0, relative_energy_kcal_mol=0.9),
            conformer(0, 1, relative_energy_kcal_mol=0.0),
            conformer(0, 2, relative_energy_kcal_mol=1.1),
        ],
    )
    write_tables(
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
    exec(recipe(f"import {reader}"), names)
    best, reasons = names["best"], names["reasons"]
    if reader == "polars":
        best, reasons = best.to_dicts(), {r["reason"]: r["n"] for r in reasons.to_dicts()}
    elif reader == "duckdb":
        best, reasons = best.df().to_dict("records"), dict(reasons.fetchall())
    else:
        best, reasons = best.to_dict("records"), reasons.to_dict()
    assert [(r["record"], r["conformer"]) for r in best] == [(0, 1), (0, 0), (5, 0)]
    assert [r["input_id"] for r in best] == ["m0", "m0", "m5"]
    expected = conformer(0, 1).forces_ev_per_angstrom.reshape(-1)
    np.testing.assert_array_equal(best[0]["forces_ev_per_angstrom"], expected)
    assert reasons == {"radical": 2, "empty": 1, "all_conformers_failed": 1}


def test_the_recipe_for_molecules_gives_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared = [prepare(k, s, s, ChemistrySettings()) for k, s in enumerate(("C[NH3+]", "CC=N"))]
    own = [
        conformer(m.record, atomic_numbers=m.numbers, positions_angstrom=m.conformers()[0],
                  forces_ev_per_angstrom=m.conformers()[0])
        for m in prepared
    ]  # fmt: skip
    write_tables(tmp_path / "out" / "druglike", 0, prepared, own)
    names: dict = {}
    exec(recipe("from mlff_core"), names)
    assert [Chem.MolToSmiles(Chem.RemoveHs(mol)) for mol in names["mols"]] == [
        m.smiles for m in prepared
    ]
    assert [Chem.GetFormalCharge(mol) for mol in names["mols"]] == [1, 0]
    assert [atoms.get_potential_energy() for atoms in names["atoms"]] == [-100.0, -101.0]


def test_the_recipe_for_metadata_gives_unit_and_model(druglike):
    names: dict = {}
    exec(recipe("import pyarrow"), names)
    assert (names["unit"], names["model"]) == ("eV/Å", "tiny")


def test_the_page_says_what_the_schema_says():
    text = PAGE.read_text(encoding="utf-8")
    assert written(text) == text, "run: python -m mlff_core.tables.document"
    for name in (*MOLECULES_SCHEMA.names, *CONFORMERS_SCHEMA.names):
        assert f"\n| `{name}` | " in text
    for words in (MoleculeStatus, Reason, ConformerStatus, Flag, VariantKind):
        assert all(word.meaning and f"\n| `{word}` | {word.meaning} |\n" in text for word in words)


def test_a_page_that_lacks_a_block_is_not_written():
    text = PAGE.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="expected the blocks"):
        written(text.replace("<!-- reason -->", ""))
