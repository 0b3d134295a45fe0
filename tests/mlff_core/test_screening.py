"""Molecules in, conformers out: the same numbers as a screen, in the caller's order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers

import mlff_core
from mlff_core import MolBatch, Potential, load_potential, relax, screen_mols
from mlff_core.errors import ModelFileError
from mlff_core.properties.thermo import ThermoSettings
from mlff_core.screening import ScreenedMolecule
from mlff_core.shard import relax_shard
from mlff_core.units import EV_KCAL_MOL

SMILES = ["C[C@H](N)C(=O)O", "[Xe]", "C(", "CC[NH3+]", "OC1CCCCC1"]


@pytest.fixture(scope="module")
def potential(small_model: Path) -> Potential:
    return load_potential(small_model, device="cpu")


@pytest.fixture(scope="module")
def screened(potential: Potential) -> list[ScreenedMolecule]:
    return screen_mols(SMILES, model=potential, conformers=3, max_steps=5, workers=0)


def test_every_molecule_has_its_answer_in_the_order_given(
    screened: list[ScreenedMolecule],
) -> None:
    assert [m.row.input_smiles for m in screened] == SMILES
    assert [m.reason for m in screened] == [
        None, "unsupported_element", "invalid_smiles", None, None,
    ]  # fmt: skip
    assert [m.ok for m in screened] == [True, False, False, True, True]
    for molecule in screened:
        if not molecule.ok:
            assert molecule.message
            assert not len(molecule.energies)
            with pytest.raises(ValueError, match="has no geometry"):
                molecule.mol()


def test_energies_are_those_of_the_geometries(
    screened: list[ScreenedMolecule], potential: Potential
) -> None:
    for molecule in (screened[0], screened[3], screened[4]):
        assert len(molecule.energies) > 1 or molecule.smiles == "CC[NH3+]"
        assert (np.diff(molecule.energies) >= 0).all()
        mol = molecule.mol()
        again = potential(MolBatch.from_rdkit([mol]))
        np.testing.assert_allclose(again.energy, molecule.energies, atol=1e-3)
        from_ase = potential(MolBatch.from_ase(molecule.atoms()))
        np.testing.assert_allclose(from_ase.energy, molecule.energies, atol=1e-3)
        forces = [atoms.get_forces() for atoms in molecule.atoms()]
        np.testing.assert_allclose(np.concatenate(forces), again.forces, atol=1e-3)
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == molecule.smiles
    assert Chem.GetFormalCharge(screened[3].mol()) == 1
    assert screened[3].atoms()[0].info["charge"] == 1


def test_processes_and_rdkit_molecules_give_what_smiles_in_this_process_give(
    screened: list[ScreenedMolecule], potential: Potential
) -> None:
    mols = [Chem.MolFromSmiles(SMILES[0]), None, Chem.AddHs(Chem.MolFromSmiles(SMILES[4]))]
    mols[0].SetProp("_Name", "alanine")
    told: list[tuple[str, int, int]] = []
    others = screen_mols(
        mols, model=potential, conformers=3, max_steps=5, workers=1,
        progress=lambda *what: told.append(what),
    )  # fmt: skip
    for found, expected in zip((others[0], others[2]), (screened[0], screened[4]), strict=True):
        np.testing.assert_allclose(found.energies, expected.energies, atol=1e-5)
        assert found.smiles == expected.smiles
    assert others[0].row.input_id == "alanine"
    assert others[1].reason == "invalid_smiles"
    assert {("embed", 2, 3), ("relax", 3, 3)} <= set(told)


def test_other_structures_of_a_molecule_are_computed_where_they_are_asked_for(
    potential: Potential,
) -> None:
    open_centres = "CC(O)C(F)Cl"
    given = [open_centres, "[Xe]", "CC(=O)O", "C1=CN=CNC1=O"]

    def found(**options: object) -> list[ScreenedMolecule]:
        molecules = screen_mols(given, model=potential, max_steps=1, workers=0, **options)
        assert [m.row.record for m in molecules] == sorted(m.row.record for m in molecules)
        assert {m.row.record for m in molecules} == {0, 1, 2, 3}
        assert [m.reason for m in molecules if m.row.record == 1] == ["unsupported_element"]
        assert all(m.mol().GetNumConformers() == len(m.energies) for m in molecules if m.ok)
        return molecules

    four = [m for m in found(stereo="enumerate") if m.row.record == 0]
    every = [m.smiles for m in four]
    assert len(every) == 4
    # Enantiomers have the same conformers, reflected, and so the same energies.
    energies = sorted(m.energies[0] for m in four)
    assert energies[1] - energies[0] < 1e-4 < energies[2] - energies[1]
    assert energies[3] - energies[2] < 1e-4
    isomers = EnumerateStereoisomers(Chem.MolFromSmiles(open_centres))
    assert set(every) == {Chem.MolToSmiles(isomer) for isomer in isomers}
    assert len([m for m in found(stereo="diastereomers") if m.row.record == 0]) == 2
    assert len([m for m in found(stereo="enumerate", max_variants=3) if m.row.record == 0]) == 3

    acid = [m for m in found(ph=7.4) if m.row.record == 2]
    assert [(m.smiles, m.row.charge) for m in acid] == [("CC(=O)[O-]", -1)]
    assert acid[0].atoms()[0].info["charge"] == -1

    tautomers = [m for m in found(tautomers=True) if m.row.record == 3]
    assert len(tautomers) > 1
    assert len({m.row.formula for m in tautomers}) == 1
    assert len({m.smiles for m in tautomers}) == len(tautomers)


def test_water_thermochemistry_and_the_teacher_may_be_asked_for(
    potential: Potential, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [glycolate] = screen_mols(
        ["OCC(=O)[O-]"], model="small", device="cpu", conformers=3, solvent="water",
        thermo=ThermoSettings(temperature_k=310.0), max_steps=200, workers=0,
    )  # fmt: skip
    row, rows = glycolate.row, glycolate.rows
    assert max(c.max_force_ev_per_angstrom for c in rows) <= 0.01
    waters = [c.solvation_kcal_mol for c in rows if c.solvation_kcal_mol is not None]
    assert all(-90 < water < -50 for water in waters)  # acetate is measured at -77
    assert row.best_conformer_water is not None
    assert row.min_energy_water_ev == pytest.approx(
        min(
            c.energy_ev + c.solvation_kcal_mol / EV_KCAL_MOL
            for c in rows
            if c.solvation_kcal_mol is not None
        )
    )
    spent = (row.enthalpy_ev - row.gibbs_energy_ev) * EV_KCAL_MOL
    assert spent == pytest.approx(310.0 * row.entropy_cal_mol_k / 1000, abs=1e-6)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ModelFileError, match="fetch_teacher"):
        screen_mols(["CCO"], model=potential, rescore="teacher", max_steps=0, workers=0)
    for wrong in ({"solvent": "brine"}, {"rescore": "student"}):
        with pytest.raises(ValueError, match="expected none or"):
            screen_mols(["CCO"], model=potential, **wrong)


def test_geometries_that_are_given_are_relaxed_where_that_is_asked_for(
    potential: Potential,
) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](N)C(=O)O"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=3)
    mol.SetProp("FROZEN_ATOMS", "1-3, 13")
    given = [mol, Chem.MolFromSmiles("CCO"), "CCO"]
    options = {"model": potential, "max_steps": 5, "workers": 0}
    ends = {mode: screen_mols(given, from_3d=mode, **options) for mode in ("hydrogens", "frozen")}
    x = np.float32(mol.GetConformer().GetPositions().round(4))
    stayed = {}
    for mode, (one, *others) in ends.items():
        assert [m.reason for m in others] == ["not_3d", "not_3d"]
        [row] = one.rows
        places = {tuple(place) for place in row.positions_angstrom.reshape(-1, 3).tolist()}
        stayed[mode] = [k for k, place in enumerate(x.tolist()) if tuple(place) in places]
    assert stayed == {"hydrogens": [0, 1, 2, 3, 4, 5], "frozen": [0, 1, 2, 12]}
    with pytest.raises(ValueError, match="as they are given"):
        screen_mols(given, from_3d="all", ph=7.4, **options)


def test_a_cheaper_model_may_walk_first_by_its_name_or_as_it_is() -> None:
    options = dict(model="default", device="cpu", workers=0, max_steps=3)
    [by_name] = screen_mols(["CCO"], pre_relax="small", **options)
    [as_it_is] = screen_mols(["CCO"], pre_relax=load_potential("small", device="cpu"), **options)
    [alone] = screen_mols(["CCO"], pre_relax="none", **options)
    assert by_name.rows[0].energy_ev == as_it_is.rows[0].energy_ev != alone.rows[0].energy_ev


def test_the_small_model_walks_first_by_the_rule_of_the_command(
    potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[str | None] = []

    def noting(*given: Any, pre_relax: Potential | None, **more: Any) -> Any:
        walked.append(pre_relax and pre_relax.name)
        return relax_shard(*given, pre_relax=pre_relax, **more)

    monkeypatch.setattr("mlff_core.screening.relax_shard", noting)
    small = load_potential("small", device="cpu")
    for model, first in (
        (potential, "small"), (potential, "auto"), (potential, "none"), (potential, small),
        (small, "small"), ("default", "auto"), ("default", "none"),
    ):  # fmt: skip
        screen_mols(["O"], model=model, device="cpu", pre_relax=first, max_steps=2, workers=0)
    assert walked == [small.name, None, None, small.name, None, small.name, None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"pre_relax": "smal"}, {"pre_relax": None}, {"conformers": 1.5}, {"conformers": 0},
        {"conformers": "many"}, {"conformers": None}, {"thermo": 298.15}, {"seed": -1},
        {"seed": 1.5},
    ],
)  # fmt: skip
def test_what_an_argument_cannot_be_is_refused(potential: Potential, wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        screen_mols(["CCO"], model=potential, workers=0, **wrong)


def test_the_number_of_conformers_may_follow_the_molecule(potential: Potential) -> None:
    stiff, floppy = screen_mols(
        ["c1ccccc1", "CCCCCCCC"], model=potential, conformers="auto", max_conformers=9,
        max_steps=0, workers=0,
    )  # fmt: skip
    assert len(stiff.rows) < len(floppy.rows) <= 9
    with pytest.raises(ValueError, match="ph: expected 0 to 14, found 70"):
        screen_mols(["C"], model=potential, ph=70)


def test_what_they_print_is_a_line(screened: list[ScreenedMolecule], potential: Potential) -> None:
    batch = MolBatch.from_rdkit([screened[4].mol()])
    result = relax(batch, potential, max_steps=1)
    for thing in (*screened, batch, potential, potential(batch), result):
        assert len(repr(thing)) < 120
        assert "\n" not in repr(thing)
    assert repr(screened[1]) == "<[Xe]: rejected, unsupported_element>"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("CCO", "found str; put it into a list"),
        (Chem.MolFromSmiles("C"), "found Mol; put it into a list"),
        (["C", 7], "molecule 1: expected a SMILES or an RDKit molecule, found int"),
        (7, "found int"),
    ],
)
def test_what_is_no_list_of_molecules_is_refused(given: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        screen_mols(given)  # type: ignore[arg-type]


def test_no_molecules_give_none(potential: Potential) -> None:
    assert screen_mols([], model=potential) == []


def test_the_package_says_its_version() -> None:
    assert mlff_core.__version__.count(".") >= 2
    assert "__version__" in dir(mlff_core)
