from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMultipleConfs

from mlff_core.batch import MolBatch
from mlff_core.models.potential import load_potential
from mlff_core.testing import NAMED_MOLECULES, named_batch


def test_a_batch_keeps_every_molecule_apart() -> None:
    batch = named_batch()
    assert batch.n_mols == len(NAMED_MOLECULES)
    for k, (numbers, positions, charge) in enumerate(NAMED_MOLECULES.values()):
        atoms = batch.mol_idx == k
        assert batch.numbers[atoms].tolist() == numbers
        np.testing.assert_allclose(batch.positions[atoms], np.array(positions, float))
        assert batch.charge[k] == charge
        assert batch.ptr[k + 1] - batch.ptr[k] == len(numbers) == batch.sizes[k]


def test_select_takes_molecules_in_the_order_asked_for() -> None:
    batch = named_batch()
    chosen = batch.select([3, 0, 3])
    water = list(NAMED_MOLECULES.values())[3]
    assert chosen.numbers.tolist() == [*water[0], 1, *water[0]]
    assert chosen.ptr.tolist() == [0, 3, 4, 7]
    assert chosen.mol_idx.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert chosen.charge.tolist() == [0, -1, 0]
    np.testing.assert_allclose(chosen.positions[4:], np.array(water[1]))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_select_takes_a_mask_in_any_form(kind) -> None:
    batch = named_batch()
    chosen = batch.select(kind([k in (3, 5) for k in range(batch.n_mols)]))
    expected = batch.select([3, 5])
    assert chosen.n_atoms == 8  # water and bromochlorofluoromethane
    for name in ("numbers", "positions", "mol_idx", "ptr", "charge"):
        assert torch.equal(getattr(chosen, name), getattr(expected, name))
    assert batch.select(kind([False] * batch.n_mols)).n_mols == 0


def test_select_counts_negative_places_from_the_end() -> None:
    batch = named_batch()
    assert batch.select([-1]).numbers.tolist() == list(NAMED_MOLECULES.values())[-1][0]
    assert batch.select([]).n_mols == 0


@pytest.mark.parametrize(
    ("molecules", "error", "message"),
    [
        ([True, False], ValueError, r"expected a mask \(6,\), found \(2,\)"),
        ([0, 6], IndexError, "expected places from 0 to 5, found 6"),
        ([-7], IndexError, "expected places from 0 to 5, found -7"),
        ([0.0, 1.0], TypeError, "expected whole numbers or a mask"),
        ([[0, 1]], TypeError, "expected whole numbers or a mask"),
        (2, TypeError, "expected whole numbers or a mask"),
    ],
)
def test_what_selects_nothing_is_refused(molecules, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        named_batch().select(molecules)


def test_a_batch_is_shown_in_a_line() -> None:
    assert repr(named_batch()) == "MolBatch(6 molecules, 18 atoms, torch.float64, cpu)"


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"numbers": [1]}, TypeError, "numbers: expected a tensor, found list"),
        ({"charge": torch.zeros(6)}, TypeError, "charge: expected int64, found torch.float32"),
        ({"ptr": torch.zeros(3, dtype=torch.int64)}, ValueError, r"ptr: expected \(7,\)"),
        ({"mol_idx": torch.zeros(3, dtype=torch.int64)}, ValueError, r"mol_idx: expected \(18,\)"),
        ({"positions": torch.zeros(18, 2)}, ValueError, r"positions: expected \(18, 3\)"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(changed, error, message: str) -> None:
    with pytest.raises(error, match=message):
        MolBatch(**(vars(named_batch()) | changed))


@pytest.mark.parametrize("molecules", ["CCO", 7, [(1, 2)], [molecule("H2O")], ["CCO"]])
def test_what_are_no_molecules_is_told_in_words(molecules) -> None:
    with pytest.raises(TypeError, match=r"molecules: expected \(numbers, positions, charge\)"):
        MolBatch.from_arrays(molecules)


def test_split_cuts_per_atom_values_by_molecule() -> None:
    batch = named_batch()
    parts = batch.split(torch.arange(batch.n_atoms))
    assert [len(p) for p in parts] == batch.sizes.tolist()
    assert torch.cat(parts).tolist() == list(range(batch.n_atoms))


def test_an_empty_batch_is_a_batch() -> None:
    batch = MolBatch.from_arrays([])
    assert (batch.n_mols, batch.n_atoms) == (0, 0)
    assert batch.positions.shape == (0, 3)


@pytest.mark.parametrize(
    ("molecule", "message"),
    [
        (([], np.zeros((0, 3)), 0), r"molecule 0: numbers: expected \(n_atoms,\)"),
        (([1, 1], np.zeros((3, 3)), 0), r"positions: expected \(2, 3\), found \(3, 3\)"),
        (([1], np.zeros(3), 0), r"positions: expected \(1, 3\), found \(3,\)"),
        (([1], np.zeros((1, 3)), 0.5), r"charge: expected a whole number, found 0.5"),
        (([1], np.zeros((1, 3)), None), r"charge: expected a whole number, found None"),
        (([1], np.zeros((1, 3)), np.nan), r"charge: expected a whole number, found nan"),
        (([1], np.zeros((1, 3)), np.zeros(2)), r"charge: expected a whole number, found array"),
        (([1], np.zeros((1, 3)), "1"), r"charge: expected a whole number, found '1'"),
        (([6.5], np.zeros((1, 3)), 0), r"numbers: expected whole numbers, found \[6.5\]"),
        (([np.nan], np.zeros((1, 3)), 0), r"numbers: expected whole numbers"),
    ],
)
def test_a_molecule_that_is_none_is_refused_by_shape(molecule: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MolBatch.from_arrays([molecule])


@pytest.mark.parametrize(
    "charge", [1, 1.0, np.int8(1), np.float32(1), np.array(1), torch.tensor(1)]
)
def test_a_charge_may_come_as_any_whole_number(charge) -> None:
    assert MolBatch.from_arrays([([1], np.zeros((1, 3)), charge)]).charge.tolist() == [1]


def test_new_positions_must_have_the_old_shape() -> None:
    batch = named_batch()
    with pytest.raises(ValueError, match="positions: expected"):
        batch.with_positions(batch.positions[:-1])


def test_ase_atoms_become_a_batch_and_come_back() -> None:
    water, ammonium = molecule("H2O"), molecule("NH3")
    ammonium.info["charge"] = 1
    batch = MolBatch.from_ase([water, ammonium], dtype=torch.float64)
    assert batch.charge.tolist() == [0, 1]
    for atoms, back in zip((water, ammonium), batch.to_ase(), strict=True):
        assert back.get_chemical_formula() == atoms.get_chemical_formula()
        np.testing.assert_array_equal(back.positions, atoms.positions)
    assert batch.to_ase()[1].info["charge"] == 1


def test_every_conformer_of_rdkit_becomes_a_molecule_and_comes_back() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("C[NH3+]"))
    EmbedMultipleConfs(mol, 2, randomSeed=7)
    one = Chem.Mol(mol, confId=1)
    batch = MolBatch.from_rdkit([mol, one], dtype=torch.float64)
    assert batch.charge.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(batch.positions[8:16], mol.GetConformer(1).GetPositions())
    moved = batch.with_positions(batch.positions + 1).to_rdkit([mol, one])
    np.testing.assert_allclose(
        moved[0].GetConformer(1).GetPositions(), mol.GetConformer(1).GetPositions() + 1
    )
    np.testing.assert_allclose(
        moved[1].GetConformer().GetPositions(), mol.GetConformer(1).GetPositions() + 1
    )
    assert not np.allclose(mol.GetConformer(0).GetPositions(), batch.positions[:8] + 1)
    with pytest.raises(ValueError, match="found other atoms"):
        batch.to_rdkit([one])


@pytest.mark.parametrize(
    ("make", "given", "error", "message"),
    [
        (MolBatch.from_ase, molecule("H2O"), TypeError, "put it into a list"),
        (MolBatch.from_ase, ["H2O"], TypeError, "molecule 0: expected Atoms, found str"),
        (MolBatch.from_ase, "H2O", TypeError, "expected a list of Atoms, found str"),
        (MolBatch.from_rdkit, Chem.MolFromSmiles("C"), TypeError, "put it into a list"),
        (MolBatch.from_rdkit, ["C"], TypeError, "molecule 0: expected a Mol, found str"),
        (MolBatch.from_rdkit, [Chem.MolFromSmiles("C")], ValueError, "Chem.AddHs"),
        (MolBatch.from_rdkit, [Chem.MolFromSmiles("Cl[Hg]Cl")], ValueError, "no geometry in 3D"),
    ],
)
def test_what_makes_no_batch_is_refused(make, given, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(given)


def test_indices_that_point_outside_are_refused_even_unchecked(small_model) -> None:
    potential = load_potential(small_model, device="cpu")
    batch = MolBatch.from_ase([molecule("H2O"), molecule("CH4")])
    for name in ("mol_idx", "ptr"):
        for by in (-1, 100):
            wrong = replace(batch, **{name: getattr(batch, name) + by})
            with pytest.raises(ValueError, match=f"{name}: expected 0 to"):
                potential.evaluate(wrong)
            with pytest.raises(ValueError, match="ptr and mol_idx"):
                potential(wrong)
