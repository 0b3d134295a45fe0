"""Atoms that are held near places: ASE's Hookean springs say the same, and free atoms are free."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.constraints import Hookean
from ase.optimize import BFGS

from mlff_core.batch import MolBatch
from mlff_core.models.ase_force_field import AseForceField
from mlff_core.models.force_field import Outputs, evaluate_checked
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.tethered import STIFFNESS, Tethered, label, relax_tethered, unlabelled
from mlff_core.testing import random_molecule, random_potential

SETTINGS = RelaxSettings(fmax=1e-4, max_steps=500)


def test_labels_keep_charges_and_molecules_apart() -> None:
    charges, molecules = [-3, 0, 3, -1, 2], [0, 0, 1, 1, 70_000]
    labels = torch.tensor([label(q, k) for q, k in zip(charges, molecules, strict=True)])
    found = unlabelled(labels)
    assert (found[0].tolist(), found[1].tolist()) == (molecules, charges)


def test_forces_are_the_slope_of_the_energy_with_its_springs() -> None:
    potential = random_potential(precision="float64", backend="plain")
    molecules = [random_molecule(7, 1, charge=1), random_molecule(5, 2, charge=-1)]
    rng = np.random.default_rng(0)
    places = [x + rng.normal(size=x.shape) for _, x, _ in molecules]
    held = [rng.random(len(x)) < 0.7 for _, x, _ in molecules]
    springs = Tethered(potential, places, held, reach=0.4)
    flat = np.concatenate([x for _, x, _ in molecules])

    def at(x: np.ndarray) -> Outputs:
        batch = MolBatch.from_arrays(
            [
                (n, piece, label(q, k))
                for k, ((n, _, q), piece) in enumerate(
                    zip(molecules, np.split(x, [7]), strict=True)
                )
            ],
            dtype=torch.float64,
        )
        return springs.evaluate(batch)

    out, h = at(flat), 1e-4
    for atom, axis in ((0, 0), (3, 1), (8, 2), (11, 0)):
        step = np.zeros_like(flat)
        step[atom, axis] = h
        slope = (at(flat + step).energy.sum() - at(flat - step).energy.sum()) / (2 * h)
        assert out.forces[atom, axis].item() == pytest.approx(-slope.item(), abs=1e-6)
    own = evaluate_checked(potential, MolBatch.from_arrays(molecules, dtype=torch.float64))
    moved = [np.linalg.norm(x - p, axis=1)[k] for (_, x, _), p, k in zip(
        molecules, places, held, strict=True)]  # fmt: skip
    pulls = [0.5 * STIFFNESS * np.clip(d - 0.4, 0, None) ** 2 for d in moved]
    expected = own.energy + torch.tensor([p.sum() for p in pulls], dtype=torch.float64)
    assert min(p.sum() for p in pulls) > 0
    assert torch.allclose(out.energy, expected, atol=1e-9)


def test_atoms_end_where_hookean_springs_of_ase_let_them() -> None:
    numbers = np.array([29, 29, 29, 29])
    start = np.array([[0, 0, 0], [2.9, 0, 0], [0, 3.0, 0], [0.3, 0.2, 3.1]], float)
    held = np.array([True, True, False, True])
    [found] = relax_tethered(
        [(numbers, start, 0)], [start], [held], AseForceField(EMT()), SETTINGS, reach=0.05
    )
    atoms = Atoms(numbers, start, calculator=EMT())
    atoms.set_constraint(
        [Hookean(int(k), tuple(start[k]), rt=0.05, k=STIFFNESS) for k in np.flatnonzero(held)]
    )
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=500)
    assert found.status == "converged"
    assert np.abs(found.positions - atoms.positions).max() < 2e-3
    away = np.linalg.norm(found.positions - start, axis=1)
    assert away[held].max() > 0.05  # the springs do pull
    bare = Atoms(numbers, found.positions, calculator=EMT())
    # Without the springs they are computed again at coordinates in float32.
    assert found.energy == pytest.approx(bare.get_potential_energy(), abs=1e-6)
    assert np.abs(found.forces - bare.get_forces()).max() < 1e-5


def test_a_reach_that_nobody_exhausts_changes_nothing() -> None:
    potential = AseForceField(MorsePotential())
    one = (np.array([10, 10]), np.array([[0.0, 0, 0], [1.3, 0, 0]]), 0)
    tethers = [one[1]], [np.array([True, True])]
    [free] = relax_conformers([one], potential, SETTINGS)
    [held] = relax_tethered([one], *tethers, potential, SETTINGS, reach=1.0)
    assert held.energy == pytest.approx(free.energy, abs=1e-8)
    assert relax_tethered([], [], [], potential) == []
    with pytest.raises(ValueError, match="reach"):
        relax_tethered([one], *tethers, potential, reach=-0.1)
