"""Strain of poses: butane's torsion, noise of bond lengths, charges, what found the minimum."""

from collections.abc import Sequence

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolTransforms

from mlff_core import load_potential
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.pose import pose
from mlff_core.chem.prepare import prepare
from mlff_core.library.molblock import smiles_of
from mlff_core.models.potential import Potential
from mlff_core.properties.strain import StrainSettings, is_charged, strain
from mlff_core.status import FoundBy, Reason

SETTINGS = StrainSettings(fmax=0.02, max_steps=400)
CHEMISTRY = ChemistrySettings(n_conformers=6, from_3d="all")


@pytest.fixture(scope="module")
def potential() -> Potential:
    return load_potential("small", device="cpu")


def geometry(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=5)
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    return mol


def posed(mol: Chem.Mol, record: int = 0) -> PreparedMolecule:
    block = Chem.MolToMolBlock(mol)
    smiles, _ = smiles_of(block.split("\n"))
    found = pose(record, None, smiles or "", block, CHEMISTRY)
    assert found.status == "ok", found.message
    return found


def searched(smiles: str) -> dict[str, PreparedMolecule]:
    return {Chem.CanonSmiles(smiles): prepare(0, None, smiles, CHEMISTRY)}


def butane(degrees: float) -> Chem.Mol:
    mol = geometry("CCCC")
    rdMolTransforms.SetDihedralDeg(mol.GetConformer(), 0, 1, 2, 3, degrees)
    return mol


def test_butane_is_strained_as_its_torsion_is(potential: Potential) -> None:
    # Anti is the lowest, gauche 0.6 to 0.9 kcal/mol above it; 105 degrees lie below the barrier of
    # 3.3 to 3.8 at 120 on the side of gauche.
    poses = [posed(butane(a), k) for k, a in enumerate((180.0, 65.0, 105.0))]
    anti, gauche, barrier = strain(poses, searched("CCCC"), potential, SETTINGS)
    assert [r.record for r in (anti, gauche, barrier)] == [0, 1, 2]
    for row in (anti, gauche, barrier):
        assert (row.status, row.global_found_by) == ("ok", FoundBy.SEARCH)
        h_only, restrained, local = (
            row.strain_h_only_kcal_mol, row.strain_restrained_kcal_mol, row.strain_local_kcal_mol
        )  # fmt: skip
        assert sorted((h_only, restrained, local), reverse=True) == pytest.approx(
            [h_only, restrained, local], abs=0.02
        )
        assert local >= 0
    assert anti.strain_restrained_kcal_mol < 0.1
    assert 0.4 < gauche.strain_local_kcal_mol < 1.1
    assert gauche.strain_restrained_kcal_mol == pytest.approx(gauche.strain_local_kcal_mol, abs=0.1)
    assert 2.0 < barrier.strain_h_only_kcal_mol < 4.5
    assert barrier.strain_local_kcal_mol == pytest.approx(gauche.strain_local_kcal_mol, abs=0.1)
    assert 0 < barrier.rmsd_restrained_angstrom <= barrier.rmsd_local_angstrom + 0.01


def test_noise_of_bond_lengths_is_no_strain_once_the_flat_bottom_took_it(
    potential: Potential,
) -> None:
    mol = geometry("CC(=O)Nc1ccc(O)cc1")
    conformer, rng = mol.GetConformer(), np.random.default_rng(1)
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() > 1:
            x = np.array(conformer.GetAtomPosition(atom.GetIdx()))
            conformer.SetAtomPosition(atom.GetIdx(), x + rng.normal(scale=0.05, size=3))
    given = posed(Chem.RemoveHs(mol))  # as crystal structures come
    [row] = strain([given], searched("CC(=O)Nc1ccc(O)cc1"), potential, SETTINGS)
    assert row.flags == ["hydrogens_added"]
    assert row.strain_h_only_kcal_mol > 8.0
    assert 0 <= row.strain_restrained_kcal_mol < 1.5
    heavy = given.numbers > 1
    moved = row.positions_restrained_angstrom - given.conformers()[0]
    assert np.linalg.norm(moved, axis=1)[heavy].max() < 0.45


def test_without_a_search_the_poses_minima_are_all_there_is(potential: Potential) -> None:
    poses = [posed(butane(a), k) for k, a in enumerate((65.0, 180.0))]
    gauche, anti = strain(poses, {}, potential, SETTINGS)
    assert (gauche.global_found_by, anti.global_found_by) == (FoundBy.OTHER_POSE, FoundBy.POSE)
    assert anti.strain_local_kcal_mol == 0.0
    assert 0.4 < gauche.strain_local_kcal_mol < 1.1
    assert "the search found no conformer" in (anti.message or "")
    assert anti.n_search_conformers == 0


def test_charged_poses_need_a_solvent(potential: Potential) -> None:
    poses = [posed(geometry("CC(=O)[O-]"), 0), posed(geometry("C[N+](=O)[O-]"), 1)]
    acetate, nitro = strain(poses, {}, potential, SETTINGS)
    assert (acetate.status, acetate.reason) == ("rejected", Reason.CHARGED_IN_VACUUM)
    assert acetate.strain_restrained_kcal_mol is None
    assert acetate.pose_energy_ev is None
    assert nitro.status == "ok"

    def solvate(geometries: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> list[float]:
        return [-3.0 * abs(charge) - 0.1 for _, _, charge in geometries]

    acetate, wet = strain(poses, {}, potential, SETTINGS, solvate)
    assert (acetate.status, acetate.solvent) == ("ok", "water")
    assert acetate.strain_local_kcal_mol == 0.0
    # The same energy of every geometry moves energies and no strain.
    assert wet.global_energy_ev == pytest.approx(nitro.global_energy_ev - 0.1, abs=1e-6)
    assert wet.strain_restrained_kcal_mol == pytest.approx(
        nitro.strain_restrained_kcal_mol, abs=1e-4
    )
    lost = strain(poses, {}, potential, SETTINGS, lambda geometries: [None] * len(geometries))
    assert [row.status for row in lost] == ["failed"] * 2


def test_protons_of_a_zwitterion_stay_where_the_pose_has_them(potential: Potential) -> None:
    given = posed(geometry("[NH3+]CC(=O)[O-]"))
    [row] = strain([given], {}, potential, SETTINGS, lambda geometries: [0.0] * len(geometries))
    assert (row.status, row.flags) == ("ok", [*given.flags, "protons_held"])
    bonds = given.held_bonds
    assert len(bonds) == 3
    for x in (row.positions_restrained_angstrom, row.positions_local_angstrom):
        lengths = np.linalg.norm(x[bonds[:, 0]] - x[bonds[:, 1]], axis=1)
        assert lengths.max() < 1.35
        assert lengths.min() > 0.95


@pytest.mark.parametrize(
    ("smiles", "charged"),
    [
        ("CCO", False),
        ("C[N+](=O)[O-]", False),
        ("C[N+](C)(C)[O-]", False),
        ("[NH3+]CC(=O)[O-]", True),
        ("CC(=O)[O-]", True),
        ("C[N+](C)(C)C", True),
    ],
)
def test_charges_side_by_side_are_none(smiles: str, charged: bool) -> None:
    assert is_charged(smiles) is charged
