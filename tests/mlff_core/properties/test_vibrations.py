"""Vibrations: ASE's own differences say the same, rigid motions are none, batches do not matter."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from mlff_core import PaiNNCalculator, load_potential
from mlff_core.batch import MolBatch
from mlff_core.models.ase_force_field import AseForceField
from mlff_core.models.force_field import Outputs
from mlff_core.models.potential import Potential
from mlff_core.properties import vibrations
from mlff_core.properties.vibrations import hessians, rigid_motions, wavenumbers
from mlff_core.testing import random_model, random_molecule, random_potential
from mlff_core.units import WAVENUMBER_PER_CM


class Springs(Calculator):
    """Every pair of atoms on a spring of 30 eV/Å² that is slack at its length in `rest`."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, rest: np.ndarray) -> None:
        super().__init__()
        self.rest = np.linalg.norm(rest[:, None] - rest[None], axis=-1)

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        away = atoms.positions[:, None] - atoms.positions[None]
        length = np.linalg.norm(away, axis=-1)
        beyond = length - self.rest
        pull = -30.0 * beyond / np.where(length > 0, length, 1.0)
        energy = 0.25 * 30.0 * (beyond**2).sum()
        self.results = {"energy": energy, "forces": (pull[..., None] * away).sum(1)}


def test_a_diatomic_vibrates_as_the_formula_says() -> None:
    x = np.array([[0.0, 0, 0], [0, 0, 1.1]])
    [hessian] = hessians([([6, 8], x, 0)], AseForceField(Springs(x)))
    [found] = wavenumbers(np.array([6, 8]), x, hessian)
    reduced = 12.011 * 15.999 / (12.011 + 15.999)
    assert found == pytest.approx(np.sqrt(30.0 / reduced) * WAVENUMBER_PER_CM, rel=1e-5)
    # 1 eV/Å² is 16.02 N/m: sqrt(k/m) / (2 pi c) in SI units.
    si = np.sqrt(30 * 16.02176634 / (reduced * 1.66053906892e-27)) / (2 * np.pi * 2.99792458e10)
    assert found == pytest.approx(si, rel=1e-4)


@pytest.mark.parametrize("name", ["H2O", "CH4", "CO2", "C2H2"])
def test_vibrations_are_those_of_ase(name: str, tmp_path) -> None:
    atoms = molecule(name)
    rest = atoms.positions.copy()
    atoms.calc = Springs(rest)
    theirs = Vibrations(atoms, name=str(tmp_path / "vib"), delta=0.005)
    theirs.run()
    expected = theirs.get_frequencies()
    n_rigid = 5 if name in ("CO2", "C2H2") else 6
    [hessian] = hessians([(atoms.numbers, rest, 0)], AseForceField(Springs(rest)))
    found = wavenumbers(atoms.numbers, rest, hessian)
    assert len(found) == 3 * len(atoms) - n_rigid
    # Springs along a line leave its bends without force: only what is stiff is compared.
    stiff = np.sort(expected.real)[n_rigid:]
    assert found[found > 100] == pytest.approx(stiff[stiff > 100], abs=0.5)
    assert np.abs(hessian - theirs.get_vibrations().get_hessian_2d()).max() < 1e-3


@pytest.fixture(scope="module")
def potential() -> Potential:
    return load_potential("small", device="cpu", precision="float64", backend="plain")


def test_ethanol_of_the_model_vibrates_as_with_the_calculator(
    potential: Potential, tmp_path
) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.calc = PaiNNCalculator(model="small", device="cpu", precision="float64", backend="plain")
    BFGS(atoms, logfile=None).run(fmax=0.002, steps=100)
    theirs = Vibrations(atoms, name=str(tmp_path / "vib"), delta=vibrations.STEP)
    theirs.run()
    expected = np.sort(theirs.get_frequencies().real)
    geometry = (atoms.numbers, atoms.positions, 0)
    [exact] = hessians([geometry], potential)
    found = wavenumbers(atoms.numbers, atoms.positions, exact)
    assert len(found) == 21
    assert found == pytest.approx(expected[6:], abs=1.0)
    assert found.min() > 100
    # What moves as a whole has no restoring force: the model knows directions and places of none.
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    rigid = np.linalg.qr(rigid_motions(atoms.numbers, atoms.positions))[0]
    curvature = np.abs(rigid.T @ (exact / np.outer(root, root)) @ rigid).max()
    assert np.sqrt(curvature) * WAVENUMBER_PER_CM < 30
    # Rounding of float32 is small beside what a model errs.
    [rounded] = hessians([geometry], load_potential("small", device="cpu", precision="float32"))
    assert wavenumbers(*geometry[:2], rounded) == pytest.approx(found, abs=4.0)


def test_neither_company_nor_the_size_of_batches_matters(monkeypatch) -> None:
    potential = Potential(random_model(n_features=16), precision="float64", backend="plain")
    geometries = [random_molecule(n, n, charge=q) for n, q in ((3, 0), (12, 1), (5, -1), (3, 0))]
    together = hessians(geometries, potential)
    for geometry, hessian in zip(geometries, together, strict=True):
        [alone] = hessians([geometry], potential)
        assert hessian == pytest.approx(alone, abs=1e-6)
        assert (hessian == hessian.T).all()
    # In pieces that end within a molecule, and memory that is there for seven copies only.
    calls = []

    class Small:
        def __getattr__(self, name: str) -> object:
            return getattr(potential, name)

        def evaluate(self, batch: MolBatch) -> Outputs:
            calls.append(batch.n_mols)
            if batch.n_mols > 7:
                raise torch.OutOfMemoryError("too many")
            return potential.evaluate(batch)

    told: list[int] = []
    pieces = hessians(geometries, Small(), progress=told.append)
    assert max(c for c in calls if c <= 7) == 4
    assert told == [1, 2, 3, 4]
    for piece, hessian in zip(pieces, together, strict=True):
        assert piece == pytest.approx(hessian, abs=1e-6)

    class None_(Small):
        def evaluate(self, batch: MolBatch) -> Outputs:
            raise torch.OutOfMemoryError("none")

    assert hessians(geometries, None_()) == [None] * 4


def test_a_saddle_point_has_an_imaginary_mode() -> None:
    # Three atoms in a row whose end-to-end spring wants to be shorter: it bends.
    x = np.array([[0.0, 0, 0], [1.2, 0, 0], [2.4, 0, 0]])
    rest = np.array([[0.0, 0, 0], [1.2, 0, 0], [2.0, 0.9, 0]])
    calculator = Springs(rest)
    atoms = Atoms("CCC", x, calculator=calculator)
    assert np.abs(atoms.get_forces()).max() > 1  # and it is no stationary point along the line
    [hessian] = hessians([([6, 6, 6], x, 0)], AseForceField(calculator))
    found = wavenumbers(np.array([6, 6, 6]), x, hessian)
    assert len(found) == 4
    assert (found < -20).sum() == 2  # in the plane and out of it


def test_a_step_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="step"):
        hessians([], random_potential(), step=0.0)
