"""What stages of their own computed, in the rows: order, populations, reasons."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.properties.added import Added, add, worth_it
from mlff_core.properties.teacher import rescore
from mlff_core.schema import ConformerRow
from mlff_core.status import ConformerStatus
from mlff_core.units import BOLTZMANN_EV_K, EV_KCAL_MOL


def rows(energies: list[float]) -> tuple[PreparedMolecule, list[ConformerRow]]:
    """A molecule with conformers of these energies in eV, all in the window, the first lowest."""
    molecule = prepare(3, None, "NCCO", ChemistrySettings())
    molecule.best_conformer = 0
    conformers = [
        ConformerRow(
            record=3, conformer=k, status=ConformerStatus.CONVERGED, energy_ev=energy,
            in_window=True, degeneracy=1, atomic_numbers=molecule.numbers,
            positions_angstrom=molecule.conformers()[0],
            forces_ev_per_angstrom=molecule.conformers()[0],
        )
        for k, energy in enumerate(energies)
    ]  # fmt: skip
    return molecule, conformers


def test_water_may_turn_the_order_over_and_the_vacuums_columns_stay() -> None:
    molecule, conformers = rows([-10.0, -9.9, -9.9])
    conformers[1].degeneracy = 2
    conformers[1].relative_energy_kcal_mol = before = 0.1 * EV_KCAL_MOL
    answers = ((-1.0, None), (-5.0, None), (None, "no"))
    added = [
        Added(record=3, variant=0, conformer=k, solvation_kcal_mol=gain, why=why)
        for k, (gain, why) in enumerate(answers)
    ]
    add([molecule], conformers, added)
    wet = [-10.0 - 1.0 / EV_KCAL_MOL, -9.9 - 5.0 / EV_KCAL_MOL]
    assert molecule.best_conformer == 0
    assert molecule.best_conformer_water == 1
    assert molecule.min_energy_water_ev == pytest.approx(wet[1], abs=1e-12)
    above = (wet[0] - wet[1]) * EV_KCAL_MOL
    assert conformers[0].relative_energy_water_kcal_mol == pytest.approx(above, abs=1e-9)
    assert conformers[1].relative_energy_water_kcal_mol == 0
    assert conformers[1].relative_energy_kcal_mol == before
    share = np.exp(-(wet[0] - wet[1]) / (BOLTZMANN_EV_K * 298.15))
    assert conformers[1].boltzmann_weight_water == pytest.approx(2 / (2 + share), abs=1e-9)
    assert conformers[2].boltzmann_weight_water is None
    assert molecule.message == "conformer 2: no"


def test_water_and_the_teacher_do_not_take_each_others_columns_away() -> None:
    molecule, conformers = rows([-10.0, -9.9])
    water = [Added(record=3, variant=0, conformer=k, solvation_kcal_mol=-k) for k in (0, 1)]
    teacher = [Added(record=3, variant=0, conformer=0, teacher_energy_ev=-10.5)]
    add([molecule], conformers, [*water, *teacher])
    assert [c.solvation_kcal_mol for c in conformers] == [0, -1]
    assert [c.teacher_energy_ev for c in conformers] == [-10.5, None]
    assert conformers[1].boltzmann_weight_water is not None
    assert molecule.energy_above_teacher_kcal_mol == pytest.approx(0.5 * EV_KCAL_MOL)


def test_many_failures_are_told_in_few_words() -> None:
    molecule, conformers = rows([-10.0] * 9)
    molecule.message = "before"
    failed = [Added(record=3, variant=0, conformer=k, why="killed") for k in range(9)]
    add([molecule], conformers, failed)
    assert molecule.message == (
        "before; conformer 0: killed; conformer 1: killed; conformer 2: killed; and 6 more alike"
    )


def test_duplicates_and_what_is_outside_the_window_are_not_worth_it() -> None:
    _, conformers = rows([-10.0, -9.9, -9.0, -9.8])
    conformers[1].duplicate_of = 0
    conformers[2].in_window = False
    conformers[3].in_window = None
    assert [c.conformer for c in worth_it(conformers)] == [0]
    # ... but that vacuum pulls the ions of a zwitterion together says nothing of water.
    for conformer in conformers[:3]:
        conformer.relative_energy_kcal_mol = 1.0
    assert [c.conformer for c in worth_it(conformers, {(3, 0)})] == [0, 2]


def test_the_teacher_is_asked_about_molecules_of_any_size_and_its_members_are_averaged() -> None:
    class Teacher:
        n_members = 3
        device = torch.device("cpu")

        def member(self, index, numbers, positions, charge):
            energy = (numbers * positions.square().sum(-1)).sum(-1) + charge + index
            return SimpleNamespace(energy=energy)

    rng = np.random.default_rng(1)
    geometries = [
        (rng.integers(1, 9, n), rng.normal(size=(n, 3)).astype(np.float32) + 100, q)
        for n, q in ((3, 0), (200, -1), (1, 1), (7, 2), (200, 0), (150, 0))
    ]
    answers = rescore(geometries, Teacher())
    for (z, x, q), answer in zip(geometries, answers, strict=True):
        exact = (z * ((x - x.mean(0)) ** 2).sum(1)).sum() + q + 1
        assert answer.energy_ev == pytest.approx(exact, rel=1e-4, abs=1e-3)
        assert answer.spread_kcal_mol == pytest.approx(np.sqrt(2 / 3) * EV_KCAL_MOL, rel=1e-3)
