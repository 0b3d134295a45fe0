"""Conformers as an ensemble: what is the same, how often it counts, what the energies tell."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from mlff_core.chem.mirror import is_chiral
from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.properties.ensemble import judge_ensemble, populations
from mlff_core.schema import ConformerRow
from mlff_core.status import ConformerStatus
from mlff_core.units import EV_KCAL_MOL

R_CAL_MOL_K = 1.98720425864083
KT_KCAL_MOL = R_CAL_MOL_K * 298.15 / 1000


def ensemble(
    smiles: str, torsion: tuple[int, int, int, int], angles: list[float], kcal_mol: list[float]
) -> tuple[PreparedMolecule, list[ConformerRow]]:
    """A molecule turned about one bond, each geometry taken for a minimum of the energy given."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=3)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.int8)
    bonds = np.argwhere(np.triu(Chem.GetAdjacencyMatrix(mol)))
    molecule = PreparedMolecule(0, None, smiles, smiles=smiles, charge=0)
    molecule.numbers, molecule.bonds = numbers, bonds
    rows = []
    for k, (angle, energy) in enumerate(zip(angles, kcal_mol, strict=True)):
        rdMolTransforms.SetDihedralDeg(mol.GetConformer(), *torsion, angle)
        x = np.asarray(mol.GetConformer().GetPositions(), np.float32)
        row = ConformerRow(
            record=0,
            conformer=k,
            status=ConformerStatus.CONVERGED,
            energy_ev=-100.0 + energy / EV_KCAL_MOL,
            relative_energy_kcal_mol=energy - min(kcal_mol),
            max_force_ev_per_angstrom=0.04,
            atomic_numbers=numbers,
            positions_angstrom=x,
            forces_ev_per_angstrom=np.zeros_like(x),
        )
        rows.append(row)
    judge_ensemble(molecule, rows)
    return molecule, rows


def test_gauche_butane_counts_twice_and_its_mirror_image_is_no_other_conformer() -> None:
    molecule, rows = ensemble("CCCC", (0, 1, 2, 3), [180.0, 63.0, -63.0], [0.0, 0.7, 0.7])
    assert [row.duplicate_of for row in rows] == [None, None, 1]
    assert [row.degeneracy for row in rows] == [1, 2, None]
    factor = 2 * np.exp(-0.7 / KT_KCAL_MOL)
    gauche = factor / (1 + factor)
    assert rows[0].boltzmann_weight == pytest.approx(1 - gauche, rel=1e-5)
    assert rows[1].boltzmann_weight == pytest.approx(gauche, rel=1e-5)
    assert rows[2].boltzmann_weight is None
    assert molecule.n_unique_conformers == 2
    free = (molecule.ensemble_free_energy_ev + 100.0) * EV_KCAL_MOL
    assert free == pytest.approx(-KT_KCAL_MOL * np.log(1 + factor), abs=1e-5)
    # Three states: two of gauche, one of anti.
    p = np.array([1 - gauche, gauche / 2, gauche / 2])
    entropy = -R_CAL_MOL_K * (p * np.log(p)).sum()
    assert molecule.conformational_entropy_cal_mol_k == pytest.approx(entropy, rel=1e-4)


def test_the_mirror_image_of_a_chiral_molecules_conformer_is_another_conformer() -> None:
    _, rows = ensemble("C[C@H](F)CCl", (0, 1, 3, 4), [60.0, -60.0], [0.0, 0.0])
    assert [row.duplicate_of for row in rows] == [None, None]
    assert [row.degeneracy for row in rows] == [1, 1]
    assert [row.boltzmann_weight for row in rows] == pytest.approx([0.5, 0.5])


def test_a_conformer_alone_has_all_of_the_population() -> None:
    molecule, [row] = ensemble("CCCC", (0, 1, 2, 3), [63.0], [0.0])
    assert (row.boltzmann_weight, row.degeneracy, row.in_window) == (1.0, None, True)
    assert molecule.n_unique_conformers == 1
    assert molecule.conformational_entropy_cal_mol_k is None


def test_the_window_is_wider_for_a_charged_molecule() -> None:
    molecule, rows = ensemble("CCCC", (0, 1, 2, 3), [180.0, 63.0, 120.0], [0.0, 7.0, 13.0])
    assert [row.in_window for row in rows] == [True, False, False]
    molecule.charge = 1
    judge_ensemble(molecule, rows)
    assert [row.in_window for row in rows] == [True, True, False]


@pytest.mark.parametrize(
    ("smiles", "chiral"),
    [
        ("CCO", False),
        ("O[C@@H](C(=O)O)[C@H](O)C(=O)O", False),
        ("O[C@H](C(=O)O)[C@H](O)C(=O)O", True),
        ("C[C@H]1CC[C@@H](C)CC1", False),
        ("C[C@@H](N)C(=O)O", True),
        ("C/C=C/C", False),
        ("C[S@](=O)CC", True),
    ],
)
def test_a_meso_form_is_its_own_mirror_image(smiles: str, chiral: bool) -> None:
    assert is_chiral(smiles) == chiral
    if "@" in smiles:  # an independent truth: whether the other one is a third isomer
        swapped = smiles.replace("@@", "%").replace("@", "@@").replace("%", "@")
        assert (Chem.CanonSmiles(swapped) != Chem.CanonSmiles(smiles)) == chiral


def test_populations_follow_the_closed_formula() -> None:
    kt = KT_KCAL_MOL / EV_KCAL_MOL
    told = populations([1.0, 1.0 + kt * np.log(3.0)])
    np.testing.assert_allclose(told.weights, [0.75, 0.25], rtol=1e-6)
    assert populations([5.0]).entropy_ev_k == pytest.approx(0.0, abs=1e-12)
    twice = populations([5.0], [2])
    assert twice.entropy_ev_k * EV_KCAL_MOL * 1000 == pytest.approx(R_CAL_MOL_K * np.log(2))
    with pytest.raises(ValueError, match="expected at least one conformer"):
        populations([])
