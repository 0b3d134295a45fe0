"""A first walk with a cheaper force field: what is reported is the other one's all the same."""

import numpy as np
import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.chem.topology import Topology, rearrangements
from mlff_core.models.force_field import Outputs
from mlff_core.models.potential import Potential
from mlff_core.moves import legs
from mlff_core.moves.pre_relax import keeps_bonds
from mlff_core.moves.relax import _join_few, relax, relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule
from mlff_core.outcome import topology_of
from mlff_core.status import ConformerStatus
from mlff_core.testing import NAMED_MOLECULES, random_model, random_molecule

NETWORK = random_model(3, n_features=16)
ASKED = {"fmax": 0.05, "max_steps": 400, "n_threads": 1}


class Counting(Potential):
    """Counts the molecules of its force calls."""

    def __init__(self):
        super().__init__(NETWORK, precision="float64")
        self.n_computed = 0

    def evaluate(self, batch):
        self.n_computed += int((batch.ptr.diff() > 0).sum())
        return super().evaluate(batch)


class Cheap(Counting):
    """Another energy: a ripple of 0.2 eV/Å on that of the other one."""

    def evaluate(self, batch):
        out, x = super().evaluate(batch), batch.positions.to(self.dtype)
        energy = out.energy.index_add(0, batch.mol_idx, 0.02 * torch.cos(10.0 * x).sum(1).double())
        return Outputs(energy, out.forces + 0.2 * torch.sin(10.0 * x))


class Springs(Counting):
    """Every atom at a spring of 5 eV/Å² to its place: the only minimum is known."""

    def __init__(self, place):
        super().__init__()
        self.place = torch.from_numpy(np.asarray(place))

    def evaluate(self, batch):
        away = batch.positions - self.place
        return Outputs(2.5 * away.square().sum().double()[None], -5.0 * away)


class Blind(Counting):
    """Knows no energy."""

    def evaluate(self, batch):
        out = super().evaluate(batch)
        return Outputs(out.energy * torch.nan, out.forces * torch.nan)


class Lifting(Counting):
    """Pulls all atoms apart along x from their centre, and calls it downhill."""

    def evaluate(self, batch):
        self.n_computed += 1
        x = batch.positions[:, 0]
        force = torch.zeros_like(batch.positions)
        force[:, 0] = 0.3 * (torch.arange(len(x)) % 2 - 0.5)
        energy = torch.zeros(batch.n_mols, dtype=torch.float64)
        return Outputs(energy.index_add(0, batch.mol_idx, -(force[:, 0] * x).double()), force)


def molecules():
    return MolBatch.from_arrays(
        [random_molecule(n, seed=5) for n in (9, 4, 11, 2, 7)], dtype=torch.float64
    )


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire", "ase-lbfgs"])
def test_energies_forces_and_verdict_are_of_the_force_field_itself(optimizer):
    batch, own, cheap = molecules(), Counting(), Cheap()
    found = relax(batch, own, pre_relax=cheap, optimizer=optimizer, **ASKED)
    for where, energy in ((batch, found.initial_energy), (found.batch, found.energy)):
        torch.testing.assert_close(own(where).energy, energy, rtol=0, atol=1e-9)
    forces = own(found.batch).forces
    torch.testing.assert_close(found.forces, forces, rtol=0, atol=1e-8)
    assert found.status == [ConformerStatus.CONVERGED] * 5
    assert max(f.norm(dim=1).max() for f in found.batch.split(forces)) < 0.05
    assert (found.energy <= found.initial_energy).all()


def test_both_walks_count_as_steps_and_the_dear_one_computes_less():
    batch, own, cheap, alone = molecules(), Counting(), Cheap(), Counting()
    found = relax(batch, own, pre_relax=cheap, **ASKED)
    relax(batch, alone, **ASKED)
    # A force call more than moves in each walk, and one of the start.
    assert own.n_computed + cheap.n_computed == int(found.n_steps.sum()) + 3 * 5
    assert own.n_computed < alone.n_computed
    assert cheap.n_computed > 5


def test_slow_ones_go_on_with_the_dear_one_after_so_many_moves(monkeypatch):
    monkeypatch.setattr(legs, "MOST_BEFORE", 3)
    cheap = Cheap()
    found = relax(molecules(), own := Counting(), pre_relax=cheap, **ASKED)
    assert found.status == [ConformerStatus.CONVERGED] * 5
    assert cheap.n_computed <= 5 * 4
    assert own.n_computed + cheap.n_computed == int(found.n_steps.sum()) + 3 * 5


def test_it_ends_at_the_bottom_of_the_force_field_itself_wherever_the_other_s_is():
    numbers, place, charge = random_molecule(7, seed=1)
    rng = np.random.default_rng(0)
    start, elsewhere = (place + rng.normal(scale=s, size=place.shape) for s in (0.3, 0.1))
    batch = MolBatch.from_arrays([(numbers, start, charge)], dtype=torch.float64)
    asked = {"fmax": 1e-5, "max_steps": 200, "n_threads": 1, "model_hessian": False}
    found = relax(batch, Springs(place), pre_relax=Springs(elsewhere), **asked)
    torch.testing.assert_close(found.batch.positions.numpy(), place, rtol=0, atol=1e-5)
    assert float(found.energy[0]) == pytest.approx(0.0, abs=1e-9)
    assert float(found.initial_energy[0]) == pytest.approx(2.5 * ((start - place) ** 2).sum())


def test_a_path_does_not_depend_on_who_is_beside_it():
    batch = molecules()
    together = relax(batch, Counting(), pre_relax=Cheap(), **ASKED)
    for n_threads, capacity in ((1, 2), (2, 2)):
        asked = ASKED | {"n_threads": n_threads}
        few = relax(batch, Counting(), pre_relax=Cheap(), capacity=capacity, **asked)
        torch.testing.assert_close(few.energy, together.energy, rtol=0, atol=1e-10)
        assert torch.equal(few.n_steps, together.n_steps)
    alone = relax(batch.select([2]), Counting(), pre_relax=Cheap(), **ASKED)
    assert alone.n_steps[0] == together.n_steps[2]


class Full(Cheap):
    """Has no memory for more than so many molecules."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def evaluate(self, batch):
        if int((batch.ptr.diff() > 0).sum()) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().evaluate(batch)


@pytest.mark.parametrize("most", [2, 0])
def test_a_first_walk_without_memory_makes_do_with_fewer_slots_or_none(most):
    batch = molecules()
    expected = relax(batch, Counting(), pre_relax=Cheap(), **ASKED)
    cheap, own = Full(most), Counting()
    found = relax(batch, own, pre_relax=cheap, **ASKED)
    assert found.status == expected.status
    if most:
        # Those that were under way began again, on the same paths.
        assert torch.equal(found.n_steps, expected.n_steps)
        torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-10)
    else:
        # Alone there was no memory either, so all of it is left to the other one.
        assert own.n_computed > int(found.n_steps.sum())


@pytest.mark.parametrize("most", [0, 1, 5])
def test_moves_of_both_walks_together_are_no_more_than_allowed(most):
    batch = molecules()
    asked = ASKED | {"max_steps": most}
    found = relax(batch, own := Counting(), pre_relax=Cheap(), **asked)
    assert set(found.status) <= {ConformerStatus.MAX_STEPS, ConformerStatus.CONVERGED}
    assert (found.n_steps <= most).all()
    torch.testing.assert_close(own(found.batch).energy, found.energy, rtol=0, atol=1e-9)
    if most == 0:
        assert torch.equal(found.batch.positions, batch.positions)


def test_atoms_that_are_frozen_stay_in_both_walks():
    batch = molecules()
    frozen = torch.zeros(batch.n_atoms, dtype=torch.bool)
    frozen[::3] = True
    found = relax(batch, Counting(), pre_relax=Cheap(), frozen=frozen, **ASKED)
    moved = (found.batch.positions - batch.positions).norm(dim=1)
    assert torch.equal(moved[frozen], torch.zeros(int(frozen.sum()), dtype=torch.float64))
    assert float(moved[~frozen].min()) > 0


def test_a_walk_that_comes_to_nothing_is_made_by_the_force_field_alone():
    batch = molecules()
    found, alone = (
        relax(batch, Counting(), pre_relax=Blind(), **ASKED),
        relax(batch, Counting(), **ASKED),
    )
    assert found.status == [ConformerStatus.CONVERGED] * 5
    torch.testing.assert_close(found.initial_energy, alone.initial_energy, rtol=0, atol=1e-9)


def test_one_that_would_end_above_its_start_begins_there_once_more():
    numbers, x, charge = NAMED_MOLECULES["water"]
    batch = MolBatch.from_arrays([(numbers, x, charge)], dtype=torch.float64)
    own = Counting()
    bottom = relax(batch, own, fmax=1e-3, max_steps=500, n_threads=1).batch
    # From the bottom every way leads up, so what the other one leads to can be no better.
    found = relax(bottom, own, pre_relax=Lifting(), fmax=0.02, max_steps=5, n_threads=1)
    assert found.energy[0] <= found.initial_energy[0] + 0.5
    again = relax(bottom, own, pre_relax=Lifting(), fmax=0.02, max_steps=500, n_threads=1)
    assert again.status == [ConformerStatus.CONVERGED]
    assert again.energy[0] <= again.initial_energy[0]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_who_ends_as_another_molecule_begins_again_without_the_other_model(n_threads):
    conformers = [random_molecule(9, seed=5), random_molecule(7, seed=5)]
    own, settings = Counting(), RelaxSettings(fmax=0.05, max_steps=200)
    asked = []

    def keeps(places, positions):
        asked.extend(places)
        return [k != 0 for k in places]

    alone = relax_conformers(conformers, own, settings, n_threads=1)
    found = relax_conformers(
        conformers, own, settings, n_threads=n_threads, pre_relax=Cheap(), keeps=keeps
    )
    assert sorted(asked) == [0, 1]
    torch.testing.assert_close(found[0].positions, alone[0].positions, rtol=0, atol=1e-8)
    assert found[0].n_steps == alone[0].n_steps
    assert found[1].n_steps != alone[1].n_steps


def test_bonds_that_broke_or_formed_are_seen_but_those_of_held_protons_left_to_others():
    numbers, x, _ = NAMED_MOLECULES["ammonium"]
    x, bonds = np.array(x), np.array([(0, k) for k in (1, 2, 3, 4)])
    stereo = np.zeros((0, 4), int), np.zeros((0, 5), int)
    ammonium, ammonia = (Topology(np.array(numbers), bonds[:n], *stereo) for n in (4, 3))
    apart = x.copy()
    apart[4] *= 2.0
    none = bonds[:0]
    keeps = keeps_bonds([ammonium, ammonium, ammonium, ammonia], [none, none, bonds, none])
    assert keeps([0, 1, 2, 3], [x, apart, apart, x]) == [True, False, True, False]
    assert keeps([1], [x]) == [True]
    assert keeps([], []) == []


def test_size_classes_of_few_molecules_walk_with_the_next_larger_ones():
    few, many = [Molecule(0, np.ones(9), np.zeros((9, 3)), 0)] * 4, list(range(300))
    sizes = {"small": 32, "medium": 16, "large": 8, "very large": 4}
    groups = {"small": few, "medium": [], "large": many, "very large": []}
    _join_few(groups, sizes)
    assert groups == {"small": [], "medium": [], "large": few + many, "very large": []}
    groups = {"small": few + few, "medium": [], "large": many, "very large": few}
    expected = dict(groups)
    _join_few(groups, sizes)
    assert groups == expected


def test_all_geometries_are_told_as_one_by_one():
    smiles = ["C[C@H](O)C(=O)Nc1ccccc1", "C/C=C/[C@@H](F)Cl", "OCC#N", "[H][H]", "CS(=O)(=O)N"]
    prepared = [prepare(k, None, s, ChemistrySettings()) for k, s in enumerate(smiles)]
    topologies = [topology_of(m) for m in prepared]
    rng = np.random.default_rng(0)
    places, positions = [], []
    for k, molecule in enumerate(prepared):
        for size in (0.0, 0.05, 0.2, 0.4, 0.8):
            x = molecule.positions[0]
            mirrored = x * np.array([1, 1, -1]) if size == 0.4 else x
            positions.append(mirrored + rng.normal(scale=size, size=x.shape))
            places.append(k)
    positions[3][0, 0] = np.nan
    none = [np.zeros((0, 2), np.int64)] * len(prepared)
    expected = [
        change is None for change in rearrangements(positions, [topologies[k] for k in places])
    ]
    keeps = keeps_bonds(topologies, none)
    assert keeps(places, positions) == expected
    assert [keeps([k], [x])[0] for k, x in zip(places, positions, strict=True)] == expected
    assert {True, False} == set(expected)
