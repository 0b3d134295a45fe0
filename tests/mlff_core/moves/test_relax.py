import _thread
import signal
import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from ase.optimize import FIRE, LBFGS

from mlff_core.batch import MolBatch
from mlff_core.calculator import PaiNNCalculator
from mlff_core.models.force_field import Outputs
from mlff_core.models.potential import Potential
from mlff_core.moves import ase_lbfgs, in_flight
from mlff_core.moves.in_flight import InFlight
from mlff_core.moves.optimizers import OPTIMIZERS
from mlff_core.moves.relax import relax, relax_conformers
from mlff_core.moves.rules import connected
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule, Rows, evaluate_rows
from mlff_core.moves.state import each
from mlff_core.moves.threads import relax_molecules
from mlff_core.moves.waiting import WaitingQueue
from mlff_core.status import ConformerStatus
from mlff_core.testing import NAMED_MOLECULES, Journeys, random_model, random_molecule

CONVERGED = ConformerStatus.CONVERGED
SIZES = (9, 4, 14, 2, 11, 7)


def small_potential(kind: type[Potential] = Potential, precision: str = "float64") -> Potential:
    return kind(random_model(3, n_features=16), precision=precision)


def molecules(sizes=SIZES):
    return [random_molecule(n, seed=5) for n in sizes]


def batch_of(*chosen, dtype=torch.float64):
    return MolBatch.from_arrays(chosen, dtype=dtype)


@pytest.fixture(scope="module")
def potential():
    return small_potential()


class Cramped(Potential):
    """Runs out of memory above a number of atoms."""

    limit = 20

    def evaluate(self, batch):
        if batch.n_atoms > self.limit:
            raise torch.OutOfMemoryError("forced")
        return super().evaluate(batch)


class Repulsive(Potential):
    """Atoms of a molecule push each other away, 2 eV / d, up to the cutoff."""

    def evaluate(self, batch):
        mol_idx, charge, positions = batch.mol_idx, batch.charge, batch.positions
        positions = positions.detach().requires_grad_(True)
        difference = positions[:, None] - positions[None]
        pair = (mol_idx[:, None] == mol_idx[None]) & ~torch.eye(len(mol_idx), dtype=torch.bool)
        distance = torch.where(pair, difference.square().sum(-1), 1.0).sqrt()
        pair = pair & (distance < self.config.cutoff)
        energies = torch.where(pair, 1.0 / distance - 1.0 / self.config.cutoff, 0.0).sum(1)
        energy = torch.zeros(len(charge), dtype=torch.float64).index_add(
            0, mol_idx, energies.double()
        )
        return Outputs(energy.detach(), -torch.autograd.grad(energy.sum(), positions)[0])


class Turning(Potential):
    """From the fourth force call on, what it says about the molecule of charge 1 changes."""

    calls = 0
    energy_shift, force_factor = 0.0, 1.0

    def evaluate(self, batch):
        self.calls += 1
        out, mol_idx, charge = super().evaluate(batch), batch.mol_idx, batch.charge
        energy, forces = out.energy, out.forces
        if self.calls >= 4:
            energy = torch.where(charge == 1, energy + self.energy_shift, energy)
            forces = torch.where(
                (charge == 1)[mol_idx][:, None], forces * self.force_factor, forces
            )
        return Outputs(energy, forces)


def same_paths(result, reference, rows):
    """Whether molecules `rows` of one result moved as all molecules of the other did."""
    assert [result.status[k] for k in rows] == reference.status
    assert result.n_steps[rows].tolist() == reference.n_steps.tolist()
    torch.testing.assert_close(result.energy[rows], reference.energy, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        result.batch.select(rows).positions, reference.batch.positions, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_a_path_is_the_same_alone_in_a_batch_and_swapped_in(potential, optimizer):
    chosen = molecules()
    together = relax(batch_of(*chosen), potential, optimizer=optimizer, max_steps=60)
    in_flight = relax(batch_of(*chosen), potential, optimizer=optimizer, max_steps=60, capacity=2)
    assert len(set(together.n_steps.tolist())) > 3  # they really end at different times
    same_paths(in_flight, together, list(range(len(chosen))))
    for k in (0, 3, 5):
        alone = relax(batch_of(chosen[k]), potential, optimizer=optimizer, max_steps=60)
        same_paths(together, alone, [k])


def test_fire_takes_the_same_steps_as_that_of_ase(potential):
    chosen = molecules()[:4]
    ours = relax(batch_of(*chosen), potential, optimizer="fire", max_steps=400)
    for k, (numbers, positions, _) in enumerate(chosen):
        atoms = Atoms(numbers, positions, calculator=PaiNNCalculator(potential))
        optimizer = FIRE(atoms, logfile=None)
        assert optimizer.run(fmax=0.05, steps=400)
        assert optimizer.nsteps == ours.n_steps[k]
        found = ours.batch.select([k]).positions.numpy()
        np.testing.assert_allclose(found, atoms.positions, atol=1e-6)


@pytest.mark.parametrize("history", [100, 6])
def test_ase_lbfgs_takes_the_same_steps_as_that_of_ase(potential, history, monkeypatch):
    monkeypatch.setattr(ase_lbfgs, "ASE_HISTORY", history)
    # Whose paths do not grow rounding: on random surfaces some multiply it by 1e8.
    chosen = [random_molecule(n, seed=7) for n in SIZES[:4]]
    ours = relax(
        batch_of(*chosen), potential, optimizer="ase-lbfgs", max_steps=400, capacity=3, frozen=[0]
    )
    for k, (numbers, positions, _) in enumerate(chosen):
        atoms = Atoms(numbers, positions, calculator=PaiNNCalculator(potential))
        atoms.set_constraint(FixAtoms([0] if k == 0 else []))
        optimizer = LBFGS(atoms, logfile=None, memory=history)
        assert optimizer.run(fmax=0.05, steps=400)
        assert optimizer.nsteps == ours.n_steps[k]
        found = ours.batch.select([k]).positions.numpy()
        np.testing.assert_allclose(found, atoms.positions, rtol=0, atol=1e-9)


def test_ase_lbfgs_keeps_positions_as_precisely_as_ase_whatever_the_model_computes_in():
    potential, (numbers, near, charge) = small_potential(precision="float32"), molecules()[0]
    far = near + 1e5  # where float32 knows hundredths of an ångström
    atoms = Atoms(numbers, far, calculator=PaiNNCalculator(potential))
    LBFGS(atoms, logfile=None).run(fmax=0.05, steps=12)
    ours = relax(batch_of((numbers, far, charge)), potential, optimizer="ase-lbfgs", max_steps=12)
    assert ours.n_steps.tolist() == [12]
    assert ours.energy.item() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)


@pytest.mark.parametrize("model_hessian", [True, False])
def test_lbfgs_needs_no_more_steps_than_that_of_ase(potential, model_hessian):
    chosen = molecules((5, 8, 10, 12, 15))
    ours = relax(batch_of(*chosen), potential, model_hessian=model_hessian)
    theirs = []
    for numbers, positions, _ in chosen:
        optimizer = LBFGS(
            Atoms(numbers, positions, calculator=PaiNNCalculator(potential)), logfile=None
        )
        assert optimizer.run(fmax=0.05, steps=400)
        theirs.append(optimizer.nsteps)
    assert ours.status == [CONVERGED] * len(chosen)
    ratio = np.median(ours.n_steps.numpy() / np.array(theirs))
    assert ratio <= (0.8 if model_hessian else 1.1)


def test_what_is_reported_is_what_the_potential_says_of_the_final_positions(potential):
    batch = batch_of(*molecules())
    result = relax(batch, potential, fmax=0.02, max_steps=25)
    assert {CONVERGED, ConformerStatus.MAX_STEPS} == set(result.status)
    final, initial = potential(result.batch), potential(batch)
    torch.testing.assert_close(result.energy, final.energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.initial_energy, initial.energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.forces, final.forces, rtol=0, atol=1e-8)
    largest = torch.stack([f.norm(dim=1).max() for f in result.batch.split(final.forces)])
    torch.testing.assert_close(result.max_force, largest, rtol=0, atol=1e-8)
    for status, force, n_steps in zip(result.status, largest, result.n_steps, strict=True):
        assert (force < 0.02) if status == CONVERGED else (force >= 0.02 and n_steps == 25)


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_nothing_that_converged_is_above_its_start(optimizer):
    potential = small_potential(precision="float32")
    batch = batch_of(*molecules(range(2, 16)), dtype=torch.float32)
    loose = relax(batch, potential, optimizer=optimizer, fmax=0.3, max_steps=200)
    # From the first result on there is little to gain, and rounding is all that moves the energy.
    tight = relax(loose.batch, potential, optimizer=optimizer, fmax=0.01, max_steps=500)
    for result in (loose, tight):
        done = torch.tensor([status == CONVERGED for status in result.status])
        assert done.float().mean() > 0.9
        assert (result.energy <= result.initial_energy)[done].all()


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire", "ase-lbfgs"])
def test_bad_molecules_end_with_a_status_and_leave_the_others_alone(potential, optimizer):
    # Of ASE's steps some paths on random surfaces multiply rounding by 1e8, those of seed 5 do.
    good = [random_molecule(n, seed=7 if optimizer == "ase-lbfgs" else 5) for n in (9, 4)]
    overlapping = ([6, 6, 1], [[0.0, 0, 0], [0, 0, 0], [0, 0, 1.1]], 0)
    nearly = ([6, 6, 1, 1], [[0.0, 0, 0], [0, 0, 0.3], [0, 1, 0], [1, 0, 0]], 0)
    not_a_number = ([8, 1], [[0.0, 0, 0], [0, np.nan, 1]], 0)
    ion = NAMED_MOLECULES["hydride"]
    result = relax(
        batch_of(good[0], overlapping, ion, nearly, not_a_number, good[1]),
        potential,
        optimizer=optimizer,
        max_steps=60,
    )
    same_paths(result, relax(batch_of(*good), potential, optimizer=optimizer, max_steps=60), [0, 5])
    in_flight = relax(
        batch_of(not_a_number, good[0], overlapping, nearly, ion, good[1]),
        potential,
        optimizer=optimizer,
        max_steps=60,
        capacity=2,
    )
    assert [in_flight.status[k] for k in (1, 2, 4, 3, 0, 5)] == result.status
    same_paths(
        in_flight, relax(batch_of(good[0]), potential, optimizer=optimizer, max_steps=60), [1]
    )
    assert result.status[1] == result.status[4] == ConformerStatus.NON_FINITE
    assert result.n_steps[1] == 0
    for name in ("energy", "initial_energy", "max_force"):
        assert getattr(result, name).isnan().tolist() == [k in (1, 4) for k in range(6)], name
    finite = [bool(forces.isfinite().all()) for forces in result.batch.split(result.forces)]
    assert finite == [k not in (1, 4) for k in range(6)]
    assert result.status[2] == CONVERGED
    assert result.n_steps[2] == 0
    assert result.max_force[2] == 0
    assert result.status[3] != ConformerStatus.NON_FINITE
    assert result.energy[3] < result.initial_energy[3] - 10  # the overlap is gone


def test_a_molecule_that_falls_apart_has_exploded_and_not_converged():
    water = NAMED_MOLECULES["water"]
    apart = NAMED_MOLECULES["two fluorides beyond the cutoff"]
    other = random_molecule(6, seed=5)
    potential = small_potential(Repulsive)
    result = relax(batch_of(water, apart, other), potential, fmax=0.01)
    # The second began in two parts.
    assert result.status[:2] == [ConformerStatus.EXPLODED, CONVERGED]
    assert result.max_force[0] < 0.01
    same_paths(result, relax(batch_of(other), potential, fmax=0.01), [2])


@pytest.mark.parametrize(
    ("optimizer", "compiled"),
    [("lbfgs", True), ("lbfgs", False), ("fire", False), ("ase-lbfgs", False)],
)
def test_who_goes_far_together_has_not_exploded(optimizer, compiled, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, optimizer, replace(OPTIMIZERS[optimizer], numba=compiled))
    journeys = Journeys()
    result = relax(journeys.batch, journeys, optimizer=optimizer, fmax=0.01, max_steps=500)
    ends = zip(journeys.chains, result.status, strict=True)
    assert dict(ends) == {name: status for name, (_, _, status) in journeys.chains.items()}
    travel = (result.batch.positions - journeys.batch.positions).norm(dim=1).view(4, 12)
    assert (travel.amax(1)[:2] > 11.9).all()
    # Parts that fly off are not waited for.
    assert 10.0 < travel[3].max() < 11.0


@pytest.mark.parametrize(
    ("optimizer", "energy_shift", "force_factor", "status"),
    [
        ("fire", 10.0, 1.0, ConformerStatus.EXPLODED),
        ("fire", 0.0, 1e4, ConformerStatus.EXPLODED),
        ("fire", torch.nan, 1.0, ConformerStatus.NON_FINITE),
        ("lbfgs", -100.0, 1.0, ConformerStatus.EXPLODED),
        ("lbfgs", 0.0, 1e4, ConformerStatus.EXPLODED),
        ("lbfgs", 0.0, torch.nan, ConformerStatus.NON_FINITE),
        ("lbfgs", torch.inf, 1.0, ConformerStatus.NON_FINITE),
    ],
)
def test_a_molecule_that_goes_wrong_under_way_is_caught(
    optimizer, energy_shift, force_factor, status
):
    potential = small_potential(Turning)
    numbers, positions, _ = random_molecule(9, seed=5)
    bad, good = (numbers, positions, 1), (numbers, positions, 0)
    expected = relax(batch_of(good), potential, optimizer=optimizer, max_steps=30)
    potential.calls, potential.energy_shift = 0, energy_shift
    potential.force_factor = force_factor
    result = relax(batch_of(bad, good), potential, optimizer=optimizer, max_steps=30, n_threads=1)
    same_paths(result, expected, [1])
    assert result.status[0] == status
    if status == ConformerStatus.NON_FINITE:  # reported where everything still was a number
        assert result.energy[0].isfinite()
        assert result.forces.isfinite().all()


@pytest.mark.parametrize("as_mask", [True, False])
@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_frozen_atoms_stay_and_do_not_hold_up_convergence(potential, optimizer, as_mask):
    batch = batch_of(*molecules((9, 7)))
    indices = [0, 3, 4, 12]
    mask = np.isin(np.arange(16), indices)
    result = relax(
        batch, potential, optimizer=optimizer, frozen=mask if as_mask else indices, max_steps=500
    )
    assert result.status == [CONVERGED] * 2
    assert torch.equal(result.batch.positions[mask], batch.positions[mask])
    assert (result.batch.positions != batch.positions).any(1).numpy()[~mask].all()
    force = result.forces.norm(dim=1)
    assert force[~mask].max() < 0.05
    assert force[mask].max() > 0.05  # reported as they are


def test_only_hydrogens_move_when_asked_for(potential):
    batch = batch_of(*molecules((9, 7)))
    hydrogen = batch.numbers == 1
    result = relax(batch, potential, hydrogens_only=True)
    moved = (result.batch.positions != batch.positions).any(1)
    assert 0 < hydrogen.sum() < len(hydrogen)
    assert torch.equal(moved, hydrogen)


def test_a_molecule_of_frozen_atoms_only_has_converged_where_it_is(potential):
    batch = batch_of(*molecules((5,)))
    result = relax(batch, potential, frozen=range(5))
    assert (result.status, result.n_steps.tolist()) == ([CONVERGED], [0])
    assert torch.equal(result.batch.positions, batch.positions)


def test_an_empty_batch_gives_an_empty_result(potential):
    result = relax(batch_of(), potential)
    assert result.batch.n_mols == len(result.energy) == len(result.status) == 0
    assert relax_conformers([], potential) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "newton"}, r"optimizer: expected lbfgs, ase-lbfgs, fire, found 'newton'"),
        ({"fmax": 0.0}, r"fmax: expected more than 0 eV/Å, found 0.0"),
        ({"fmax": float("nan")}, r"fmax: expected more than 0"),
        ({"max_steps": -1}, r"max_steps: expected 0 or more, found -1"),
        ({"n_threads": 0}, "n_threads: expected at least 1, found 0"),
        ({"capacity": 0}, r"capacity: expected at least 1 molecule, found 0"),
        ({"frozen": [2, 5]}, r"frozen: expected indices from 0 to 4, found 5"),
        ({"frozen": [-1]}, r"frozen: expected indices from 0 to 4, found -1"),
        ({"frozen": [True, False]}, r"frozen: expected \(5,\), found \(2,\)"),
    ],
)
def test_wrong_arguments_are_refused(potential, options, message):
    with pytest.raises(ValueError, match=message):
        relax(batch_of(*molecules((5,))), potential, **options)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_running_out_of_memory_changes_the_batch_and_not_the_result(n_threads):
    chosen = [random_molecule(n, seed=5) for n in (9, 7, 10, 8, 6, 9)]
    settings = RelaxSettings(max_steps=40)
    roomy = relax_conformers(chosen, small_potential(), settings, n_threads=n_threads)
    cramped = relax_conformers(chosen, small_potential(Cramped), settings, n_threads=n_threads)
    assert {r.batch_size for r in roomy} == {6 // n_threads}
    assert {r.batch_size for r in cramped} <= {1, 3}
    for a, b in zip(roomy, cramped, strict=True):
        assert (a.index, a.status, a.n_steps) == (b.index, b.status, b.n_steps)
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-6)


def test_a_molecule_that_was_put_back_waits_for_slots_that_are_wide_enough():
    sizes = (10, 9, 12, 7)
    queue = WaitingQueue([Molecule(k, *m) for k, m in enumerate(molecules(sizes))])
    [first] = queue.take(1, 100, 100)
    last = queue.take(3, 100, 9)
    assert [m.index for m in last] == [1, 3]
    assert queue.sizes == [12]
    queue.put_back(last)
    between = queue.take(3, 100, 9) + queue.take(1, 100, 12)
    assert [m.index for m in between] == [1, 3, 2]
    queue.put_back(between[:2])
    # Another thread makes its slots while the largest are elsewhere, and gets them before it.
    batch = InFlight(queue, small_potential(), RelaxSettings(max_steps=5), 4)
    queue.put_back([first, between[2]])
    assert sorted(ended.index for ended in batch) == [1, 3]
    assert [m.index for m in queue.take(2, 100, 12)] == [0, 2]


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_molecule_that_does_not_fit_alone_is_marked_and_the_rest_is_relaxed(
    n_threads, monkeypatch
):
    monkeypatch.setattr(Cramped, "limit", 24)
    chosen = [random_molecule(n, seed=5) for n in (9, 25, 7, 28, 24)]
    potential = small_potential(Cramped)
    results = relax_conformers(chosen, potential, RelaxSettings(max_steps=20), n_threads=n_threads)
    assert [r.status is None for r in results] == [False, True, False, True, False]
    assert [r.index for r in results] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(results[1].positions, chosen[1][1])
    with pytest.raises(torch.OutOfMemoryError, match="molecule 0 of 25 atoms does not fit"):
        relax(batch_of(chosen[1]), potential)


class Watched(Potential):
    """Computes each molecule by itself, and lets the test look in at every force call."""

    def look(self, charge):
        """Called with the charges of the molecules that are asked for."""

    def evaluate(self, batch):
        present = [(k, a, b) for k, (a, b) in enumerate(pairwise(batch.ptr.tolist())) if b > a]
        self.look({int(batch.charge[k]) for k, _, _ in present})
        energy = torch.zeros(batch.n_mols, dtype=torch.float64)
        forces = torch.zeros_like(batch.positions)
        for k, a, b in present:
            out = super().evaluate(batch.select([k]))
            energy[k : k + 1], forces[a:b] = out.energy, out.forces
        return Outputs(energy, forces)


@pytest.fixture
def two_threads():
    """As many for PyTorch; afterwards none of the relaxation's threads may be left."""
    before, alive = torch.get_num_threads(), set(threading.enumerate())
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    assert set(threading.enumerate()) == alive
    # What a thread finds that begins after them.
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [2]
    torch.set_num_threads(before)


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_batches_side_by_side_change_no_bit_of_a_path(optimizer, two_threads):
    chosen = molecules((9, 4, 14, 2, 11, 7, 3, 12, 5, 8))
    seen = set()
    both = threading.Barrier(2)

    def look(charge):
        if threading.get_ident() not in (known for known, _ in seen):
            seen.add((threading.get_ident(), torch.get_num_threads()))
            both.wait(30)

    potential = small_potential(Watched)
    options = {"optimizer": optimizer, "max_steps": 40, "capacity": 3}
    # A batch in flight has one thread; where two share a product of matrices, its sums may differ.
    torch.set_num_threads(1)
    expected = relax(batch_of(*chosen), potential, n_threads=1, **options)
    torch.set_num_threads(2)
    potential.look = look
    found = relax(batch_of(*chosen), potential, **options)
    assert len(set(found.n_steps.tolist())) > 3  # they really end at different times
    assert [n_threads for _, n_threads in seen] == [1, 1]
    assert found.status == expected.status
    for name in ("energy", "initial_energy", "forces", "max_force", "n_steps"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(found.batch.positions, expected.batch.positions)


def test_an_error_in_one_batch_reaches_the_caller_and_ends_the_others(two_threads):
    calls = []

    def look(charge):
        calls.append(charge)
        if 1 in charge and len(calls) > 6:
            raise RuntimeError("something else")

    potential = small_potential(Watched)
    potential.look = look
    chosen = [(*random_molecule(9, seed=5)[:2], int(k == 0)) for k in range(40)]
    with pytest.raises(RuntimeError, match="something else"):
        relax(batch_of(*chosen), potential, fmax=1e-9, max_steps=1000, capacity=2)
    assert len(calls) < 100  # the others did not go on


def test_threads_end_when_the_caller_does_not_want_more(two_threads):
    chosen = [Molecule(k, *random_molecule(5, seed=5)) for k in range(200)]
    relaxed = relax_molecules(chosen, small_potential(), RelaxSettings(max_steps=2), 2)
    assert next(relaxed).n_steps <= 2
    relaxed.close()


@pytest.fixture
def ctrl_c():
    """As Python handles it, whatever a shell in the background or an earlier test left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_the_threads(two_threads, ctrl_c):
    interrupted = []

    def look(charge):
        if not interrupted:
            interrupted.append(True)
            _thread.interrupt_main()

    potential = small_potential(Watched)
    potential.look = look
    with pytest.raises(KeyboardInterrupt):
        relax(batch_of(*molecules()), potential, fmax=1e-9, max_steps=100_000)


def test_another_error_is_not_taken_for_a_lack_of_memory():
    class Broken(Potential):
        def evaluate(self, batch):
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        relax(batch_of(*molecules()), small_potential(Broken))


@pytest.mark.parametrize(
    ("n_threads", "batch_sizes"), [(1, [2, 3, 2, 2, 3, 2, 3]), (2, [1, 2, 1, 1, 2, 1, 2])]
)
def test_conformers_come_back_in_order_with_their_bucket_and_batch_size(
    potential, n_threads, batch_sizes
):
    chosen = molecules((12, 3, 33, 12, 10, 31, 4))
    seen = []
    results = relax_conformers(
        chosen,
        potential,
        RelaxSettings(max_steps=3),
        n_threads=n_threads,
        progress=seen.append,
    )
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert [len(r.positions) for r in results] == [12, 3, 33, 12, 10, 31, 4]
    names = ["medium", "small", "large", "medium", "small", "large", "small"]
    assert [r.bucket for r in results] == names
    assert [r.batch_size for r in results] == batch_sizes
    for result, (numbers, positions, charge) in zip(results, chosen, strict=True):
        alone = relax(batch_of((numbers, positions, charge)), potential, max_steps=3)
        np.testing.assert_allclose(result.positions, alone.batch.positions, atol=1e-7)


def test_rows_that_are_left_out_are_not_computed(potential):
    chosen = [Molecule(k, *molecule) for k, molecule in enumerate(molecules())]
    rows = Rows.pack(chosen, 17, potential.device, potential.dtype)
    active = torch.tensor([True, False, True, True, False, True])
    energy, forces = evaluate_rows(rows, rows.positions, active, potential)
    out = potential(batch_of(*(molecules()[k] for k in (0, 2, 3, 5))))
    torch.testing.assert_close(energy[active], out.energy, rtol=0, atol=1e-10)
    here = (rows.numbers != 0) & active[:, None]
    torch.testing.assert_close(forces[here], out.forces, rtol=0, atol=1e-10)
    assert not energy[~active].any()
    assert not forces[~here].any()
    nobody = evaluate_rows(rows, rows.positions, torch.zeros_like(active), potential)
    assert not any(values.any() for values in nobody)


def test_a_host_that_is_behind_and_slots_that_are_given_up_change_no_path(potential, monkeypatch):
    chosen = [random_molecule(n, seed=5) for n in (9, 4, 14, 2, 11, 7, 3, 8)]
    expected = relax(batch_of(*chosen), potential, max_steps=40)
    left = []
    compact = in_flight.InFlight._compact

    def watched(batch, rows, state):
        rows, state = compact(batch, rows, state)
        left.append(len(batch.occupants))
        lengths = each(len, rows), each(len, state._replace(memory=())), each(len, state.memory)
        assert {n for tensors in lengths for n in tensors if isinstance(n, int)} == {left[-1]}
        return rows, state

    monkeypatch.setattr(in_flight.InFlight, "_compact", watched)
    monkeypatch.setattr(in_flight, "FEW_ATOMS", 0)
    monkeypatch.setattr(in_flight, "COMPACT_AT", 2)
    monkeypatch.setattr(in_flight, "BURST", {"cpu": 3})
    monkeypatch.setattr(in_flight, "LAG", {"cpu": 1})
    found = relax(batch_of(*chosen), potential, max_steps=40, capacity=6, n_threads=1)
    same_paths(found, expected, list(range(len(chosen))))
    assert 0 < left[-1] < 6


def test_connected_follows_chains_and_ignores_padding():
    chain = torch.arange(6.0)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    broken = chain + (torch.arange(6) > 3)[:, None] * torch.tensor([0.0, 0.6, 0.0])
    positions = torch.stack([chain, broken, broken])
    here = torch.ones(3, 6, dtype=torch.bool)
    here[2, 4:] = False
    assert connected(positions, here, 1.1).tolist() == [True, False, True]
