"""Protons of charged groups are held where the model would move them, and nothing else changes."""

import numpy as np
import pytest
import torch
from rdkit import Chem

from mlff_core import load_potential
from mlff_core.batch import MolBatch
from mlff_core.chem.held import SANE, held_bonds, stretched
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.chem.topology import rearranged
from mlff_core.elements import COVALENT_RADII
from mlff_core.models.force_field import Domain, Outputs, evaluate_checked
from mlff_core.models.potential import Potential
from mlff_core.models.reference import SHORT_NAMES
from mlff_core.moves.held import STIFFNESS, HeldProtons, labelled, relax_where_protons_moved
from mlff_core.moves.relax import relax_conformers
from mlff_core.outcome import final_rows
from mlff_core.shard import relaxed_row
from mlff_core.status import ConformerStatus, Flag

GLYCINE = "[NH3+]CC(=O)[O-]"


@pytest.mark.parametrize(
    ("smiles", "n_held"),
    [
        (GLYCINE, 3),
        ("C[NH+](C)CCC(=O)[O-]", 1),
        ("NC(=[NH2+])NCC", 5),
        ("c1c[nH]c[nH+]1", 2),
        ("Nc1cc[nH+]cc1", 3),
        ("CP(=O)(O)[O-]", 1),
        ("C[NH2+]CCO", 2),  # the hydroxyl group is no part of the charged one
        ("CC(=O)O", 0),
        ("CC(=O)[O-]", 0),
        ("C[N+](C)(C)CCO", 0),
        ("O=[N+]([O-])CCO", 0),  # written with charges, but neutral
        ("C[N+](C)([O-])CO", 0),
        ("OCCN=[N+]=[N-]", 0),
    ],
)
def test_bonds_to_hydrogen_of_charged_groups_are_the_held_ones(smiles, n_held):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    bonds = held_bonds(mol)
    assert bonds.shape == (n_held, 2)
    for heavy, hydrogen in bonds.tolist():
        assert mol.GetAtomWithIdx(hydrogen).GetAtomicNum() == 1
        assert mol.GetBondBetweenAtoms(heavy, hydrogen) is not None
        assert mol.GetAtomWithIdx(heavy).GetAtomicNum() in (7, 8, 16)
    assert prepare(0, None, smiles, ChemistrySettings()).held_bonds.shape == (n_held, 2)


class Nothing:
    """A force field without any force."""

    name, sha256, device, dtype = "nothing", "", torch.device("cpu"), torch.float64
    domain, cutoff, bytes_per_edge, bare_step = Domain(), float("inf"), 0, None

    def evaluate(self, batch: MolBatch) -> Outputs:
        assert batch.numbers.max() < 100  # the labels are not passed on
        return Outputs(batch.charge.double(), torch.zeros_like(batch.positions))


def test_springs_are_slack_where_bonds_are_sane_and_pull_beyond():
    ammonium = (np.array([7, 1, 1, 1, 1]), np.array([[0, 1], [0, 2]]))
    rng = np.random.default_rng(3)
    positions = rng.normal(size=(5, 3))
    positions /= np.linalg.norm(positions, axis=1, keepdims=True)
    positions[0] = 0.0
    water = (np.array([8, 1, 1]), rng.normal(size=(3, 3)), 0)

    def evaluate(x: np.ndarray) -> Outputs:
        molecule = (labelled(*ammonium), x, 1)
        return HeldProtons(Nothing()).evaluate(
            MolBatch.from_arrays([water, molecule], dtype=torch.float64)
        )

    sane = evaluate(positions)
    assert sane.energy.tolist() == [0.0, 1.0]
    assert not sane.forces.any()
    positions[1] *= 1.4
    positions[3] *= 2.0  # not held
    beyond = 1.4 - SANE * (COVALENT_RADII[1] + COVALENT_RADII[7])
    pulled = evaluate(positions)
    assert pulled.energy.tolist() == pytest.approx([0.0, 1.0 + 0.5 * STIFFNESS * beyond**2])
    step = 1e-5
    for atom in range(5):
        for axis in range(3):
            there, back = positions.copy(), positions.copy()
            there[atom, axis] += step
            back[atom, axis] -= step
            slope = (evaluate(there).energy[1] - evaluate(back).energy[1]) / (2 * step)
            assert pulled.forces[3 + atom, axis] == pytest.approx(float(-slope), abs=1e-6)
    assert not pulled.forces[:3].any()


@pytest.fixture(scope="module", params=SHORT_NAMES)
def potential(request: pytest.FixtureRequest) -> Potential:
    return load_potential(request.param, device="cpu")


def change(molecule: PreparedMolecule, positions: np.ndarray) -> str | None:
    topology = (molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
    return rearranged(positions, *topology)


def test_a_zwitterion_keeps_the_state_that_was_given_and_says_so(potential):
    smiles = [GLYCINE, "CCO", "[NH3+]CCS(=O)(=O)[O-]", "C[NH+](C)CCC(=O)[O-]"]
    molecules = [prepare(k, None, s, ChemistrySettings()) for k, s in enumerate(smiles)]
    conformers = [(m.numbers, m.positions[0], m.charge or 0) for m in molecules]
    plain = relax_conformers(conformers, potential)
    assert "broken" in (change(molecules[0], plain[0].positions) or "")
    with_bonds = [(*c, m.held_bonds) for c, m in zip(conformers, molecules, strict=True)]
    held = relax_where_protons_moved(with_bonds, plain, potential)
    # Ethanol stays what it is by itself.
    assert set(held) == {0, 2, 3}
    for k, end in held.items():
        molecule = molecules[k]
        assert end.status == ConformerStatus.CONVERGED
        assert end.max_force <= 0.05
        assert change(molecule, end.positions) is None
        assert stretched(end.positions, molecule.numbers, molecule.held_bonds, SANE) == 1
        # Energy and forces are the model's own.
        charge = molecule.charge or 0
        batch = MolBatch.from_arrays([(molecule.numbers, end.positions, charge)])
        out = evaluate_checked(potential, batch)
        assert end.energy == pytest.approx(float(out.energy[0]), abs=1e-6)
        assert np.allclose(end.forces, out.forces.numpy(), atol=1e-5)
        assert end.energy > plain[k].energy  # the proton would have liked to go
        _, hydrogen = next(
            bond
            for bond in molecule.held_bonds.tolist()
            if stretched(end.positions, molecule.numbers, np.array([bond]), SANE)
        )
        pull = np.linalg.norm(end.forces[hydrogen])
        assert pull > (0.3 if k == 2 else 0.5)
        # Alone it ends where it ends beside others.
        [alone] = relax_where_protons_moved([with_bonds[k]], [plain[k]], potential).values()
        assert alone.energy == pytest.approx(end.energy, abs=1e-4)
    rows = [
        relaxed_row(m, 0, held.get(k, plain[k]), held=k in held) for k, m in enumerate(molecules)
    ]
    final_rows(molecules, rows)
    assert molecules[1].flags == []
    assert Flag.ZWITTERION_IN_VACUUM in molecules[2].flags
    for k in held:
        assert molecules[k].status == "ok"
        assert Flag.PROTONS_HELD in molecules[k].flags
        assert "its bond was held in 1 of 1 conformers (0)" in (molecules[k].message or "")
        assert rows[k].protons_held == 1
    assert rows[1].protons_held == 0


def test_what_rearranges_otherwise_stays_rearranged(potential):
    # The acid's proton goes to the amine: the state that was given has no charge to hold.
    molecule = prepare(0, None, "CN(C)CCCS(=O)(=O)O", ChemistrySettings())
    assert molecule.held_bonds.shape == (0, 2)
    start = (molecule.numbers, molecule.positions[0], 0)
    end = relax_conformers([start], potential)
    assert relax_where_protons_moved([(*start, molecule.held_bonds)], end, potential) == {}
