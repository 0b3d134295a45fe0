"""The compiled kernels on a CUDA device. `pytest -m gpu`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.reference import SHORT_NAMES, find_model
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops.program import AnalyticEngine
from mlff_core.ops.triton import engine as engines
from mlff_core.ops.triton import first_message, pairs, tiles
from mlff_core.testing import (
    NAMED_MOLECULES,
    drug_like,
    random_model,
    random_molecule,
    script_at,
)
from mlff_core.units import EV_KCAL_MOL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

coarse_engine = script_at(Path(__file__).with_name("coarse_engine.py")).coarse_engine
SMALL = [NAMED_MOLECULES["water"], NAMED_MOLECULES["ammonium"]]
SIZES = (1, 2, 3, 7, 16, 31, 33, 64, 65, 66, 67, 90, 130, 250)
#: Forces in eV/Å of what is no molecule. What a trained model makes of such clouds, up to 10⁹, it
#: makes by cancellation that multiplies every rounding: how far float32 is off there is chance.
SENSIBLE = 90.0
#: The widest of the shipped models.
SHIPPED = ["default"]


@pytest.fixture(scope="module", params=["random", *SHIPPED])
def network(request) -> PaiNN:
    if request.param == "random":
        return random_model(1)
    return read_checkpoint(find_model(request.param))[0]


def on_gpu(network, dtype=torch.float32):
    model = PaiNN(network.config)
    model.load_state_dict(network.state_dict())
    model = model.to("cuda", dtype).requires_grad_(False)
    model.reference_energy = network.reference_energy.double().cuda()
    return model


@pytest.fixture(params=["walk", "products"])
def first_block(request, monkeypatch):
    """How the first block is computed, whatever the numbers of atoms and features."""
    monkeypatch.setattr(first_message, "SOONER", {})
    if request.param == "products":
        monkeypatch.setattr(first_message, "SOONER", dict.fromkeys(tiles.CLASSES, 0))
    return request.param


@pytest.fixture(scope="module")
def batch(network):
    clouds = [random_molecule(n, n, charge=n % 3 - 1) for n in SIZES]
    rng = np.random.default_rng(0)
    hot = [(z, x + rng.normal(scale=0.07, size=x.shape), q) for z, x, q in drug_like()[::16]]
    both = MolBatch.from_arrays([*NAMED_MOLECULES.values(), *clouds, *hot], device="cuda")
    _, forces = in_float64(network, both)
    largest = [float(f.abs().max()) for f in forces.split(both.ptr.diff().tolist())]
    kept = [k for k, force in enumerate(largest) if force < SENSIBLE]
    # Which clouds are kept is the model's doing; what is a molecule has to be.
    first = len(NAMED_MOLECULES)
    assert set(range(both.n_mols)) - set(kept) <= set(range(first, first + len(clouds)))
    return both.select(kept)


@pytest.fixture(scope="module")
def displaced(network, batch):
    """The batch with its atoms displaced at random, several times, and its true forces each time.

    How far off forces of one geometry are is a draw. Where much cancels, in a cloud of two atoms
    say, it differs by ten times between ways to compute them that are as good.
    """
    generator = torch.Generator("cuda").manual_seed(0)
    found = []
    for _ in range(16):
        noise = torch.randn(batch.positions.shape, device="cuda", generator=generator)
        moved = batch.with_positions(batch.positions + 0.02 * noise)
        found.append((moved, in_float64(network, moved)[1]))
    return found


def errors_of(evaluate, displaced):
    """What `evaluate` makes of the forces less the true ones, eV/Å [n_batches, n_atoms, 3]."""
    return torch.stack([evaluate(*arguments(moved))[1] - true for moved, true in displaced])


def by_molecule(errors, batch):
    """Root of the mean square of errors of each molecule [n_mols]."""
    means = [e.square().mean() for e in errors.split(batch.ptr.diff().tolist(), dim=1)]
    return torch.stack(means).sqrt()


def engine_of(network, precision="float32"):
    from mlff_core.ops.triton.engine import TritonEngine

    return TritonEngine(on_gpu(network), precision)


def arguments(batch):
    return batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge


def in_float64(network, batch):
    return AnalyticEngine(on_gpu(network, torch.float64)).evaluate(
        *arguments(batch.to(dtype=torch.float64))
    )[:2]


def atomic_scale(network, batch):
    """Σ |energy of an atom beyond its reference| of each molecule in eV."""
    model = on_gpu(network, torch.float64)
    x = batch.positions.double()
    i, j = neighbor_pairs(x, batch.ptr, model.config.cutoff)
    species = model.atom_index[batch.numbers]
    charge = batch.charge[batch.mol_idx]
    atomic = model.atomic_energy(species, x, charge, i, j, batch.mol_idx)
    return torch.zeros_like(batch.charge, dtype=torch.float64).index_add(
        0, batch.mol_idx, atomic.abs()
    )


@pytest.mark.usefixtures("first_block")
def test_float32_is_as_near_to_float64_as_plain_pytorch(network, batch, displaced):
    engine = engine_of(network)
    energy, *_ = engine.step(*arguments(batch))
    true_energy, _ = in_float64(network, batch)
    assert ((energy - true_energy).abs() <= 1e-5 * atomic_scale(network, batch) + 1e-5).all()
    errors = errors_of(engine.step, displaced)
    plain_errors = errors_of(AnalyticEngine(on_gpu(network)).evaluate, displaced)
    assert errors.abs().max() <= 4 * plain_errors.abs().max() + 1e-5


def test_fast_is_as_near_to_float64_as_plain_pytorch_with_products_as_coarse(
    network, batch, displaced, first_block
):
    # How far coarse products take it is the model's doing. The kernels may add nothing but what
    # matrix units, which cut off, lose more than float32, which rounds.
    by_elements = first_block == "products"
    coarse = coarse_engine(on_gpu(network), "fast", first_by_elements=by_elements)
    plain = AnalyticEngine(on_gpu(network))
    error, coarse_error, plain_error = (
        by_molecule(errors_of(evaluate, displaced), batch)
        for evaluate in (engine_of(network, "fast").step, coarse.evaluate, plain.evaluate)
    )
    ratio = error / (coarse_error + 10 * plain_error + 1e-6)
    # Of two atoms alone 16 geometries say it within a factor of two, of all within a few per cent.
    assert ratio.max() <= 3
    assert ratio.median() <= 1.3


@pytest.mark.usefixtures("first_block")
def test_energies_of_dense_clouds_are_as_near_to_float64_as_plain_pytorch(network):
    # Matrix units cut off where float32 rounds; added up carelessly that shows here first.
    clouds = [random_molecule(n, seed) for n in (130, 190, 250) for seed in range(8)]
    dense = MolBatch.from_arrays(clouds, device="cuda")
    energy, *_ = engine_of(network).step(*arguments(dense))
    plain, *_ = AnalyticEngine(on_gpu(network)).evaluate(*arguments(dense))
    true_energy, _ = in_float64(network, dense)
    # Untrained models and unlikely atoms: energies reach thousands of eV, and errors go with them.
    scale = atomic_scale(network, dense)
    error, plain_error = ((e - true_energy).abs() / scale for e in (energy, plain))
    # The worst of few clouds is a draw: of squares each counts, and one of 24 does not decide.
    assert error.mean() <= 4 * plain_error.mean() + 1e-8
    assert error.square().mean() <= 4**2 * plain_error.square().mean() + 1e-16


@pytest.mark.parametrize(
    ("name", "least"),
    # Where a batch is large, those take products for the first block.
    [(name, None) for name in SHORT_NAMES] + [(name, 0) for name in SHIPPED],
)
@pytest.mark.parametrize(("precision", "worst"), [("float32", 1e-4), ("fast", 2e-3)])
def test_forces_and_relative_energies_of_conformers_are_kept(
    name, least, precision, worst, monkeypatch
):
    chosen = {} if least is None else dict.fromkeys(tiles.CLASSES, least)
    monkeypatch.setattr(first_message, "SOONER", chosen)
    network = read_checkpoint(find_model(name))[0]
    few = drug_like()[::8]
    generator = torch.Generator("cuda").manual_seed(0)
    energies = []
    for _ in range(4):
        batch = MolBatch.from_arrays(few, device="cuda")
        noise = torch.randn(batch.positions.shape, device="cuda", generator=generator)
        batch = batch.with_positions(batch.positions + 0.05 * noise)
        energy, forces, *_ = engine_of(network, precision).step(*arguments(batch))
        true_energy, true_forces = in_float64(network, batch)
        assert (forces - true_forces).abs().max() <= worst
        energies.append(energy - true_energy)
    relative = torch.stack(energies)
    relative -= relative[0].clone()
    assert relative.abs().max() <= 0.02 / EV_KCAL_MOL
    # One of the first 64 at rest is farther off than any of those that were displaced.
    at_rest = MolBatch.from_arrays(drug_like()[:64], device="cuda")
    _, forces, *_ = engine_of(network, precision).step(*arguments(at_rest))
    _, true_forces = in_float64(network, at_rest)
    assert (forces - true_forces).abs().max() <= worst


def test_a_batch_in_pieces_gives_what_the_whole_gives(network, batch, displaced, monkeypatch):
    engine = engine_of(network)
    energy, forces, *_ = engine.step(*arguments(batch))
    monkeypatch.setattr(engines, "PIECE_MAX_ATOMS", 200)
    in_pieces = engine.evaluate(*arguments(batch))
    # Fewer rows take other tiles and sum in another order, which may change what float32 is off.
    off = errors_of(AnalyticEngine(on_gpu(network)).evaluate, displaced).abs().max().item()
    torch.testing.assert_close(in_pieces[0], energy, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(in_pieces[1], forces, rtol=0, atol=2 * off + 1e-5)


@pytest.mark.usefixtures("first_block")
def test_results_repeat_bit_for_bit(network, batch):
    engine = engine_of(network)
    first, second = engine.step(*arguments(batch)), engine.step(*arguments(batch))
    replayed = [engine.evaluate(*arguments(batch)) for _ in range(2)]
    for k in range(2):
        assert torch.equal(first[k], second[k])
        assert torch.equal(replayed[0][k], replayed[1][k])


def test_a_graph_gives_what_the_launches_give_and_sees_new_coordinates(network, batch):
    engine = engine_of(network)
    for _ in range(2):  # The first call of a size compiles, the second captures.
        engine.evaluate(*arguments(batch))
    moved = batch.with_positions(batch.positions + 0.05 * torch.randn_like(batch.positions))
    smaller = moved.select(range(batch.n_mols - 7))
    for some in (moved, smaller):
        for _ in range(2):
            engine.evaluate(*arguments(some))
        for found, expected in zip(
            engine.evaluate(*arguments(some)), engine.step(*arguments(some)), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(engine.graphs) == 2
    assert all(captured is not None for captured in engine.graphs.values())


def test_a_graph_takes_coordinates_that_begin_anywhere_in_memory(network, batch):
    # From the second time on the kernel that fills the graph's buffers is launched as it was found,
    # which was for tensors that begin at multiples of 16 bytes.
    engine = engine_of(network)
    results = [engine.evaluate(*arguments(batch)) for _ in range(4)]
    memory = torch.empty(3 * batch.n_atoms + 1, device="cuda")
    memory[1:] = batch.positions.flatten()
    elsewhere = memory[1:].view(-1, 3)
    assert elsewhere.data_ptr() % 16 != 0
    results += [engine.evaluate(*arguments(batch.with_positions(elsewhere)))]
    results += [engine.evaluate(*arguments(batch))]
    for energy, forces, *_ in results[2:]:
        assert torch.equal(energy, results[1][0])
        assert torch.equal(forces, results[1][1])


def test_a_graph_that_is_replayed_reserves_no_memory(network, batch):
    engine = engine_of(network)
    sizes = [batch, batch.select(range(4, batch.n_mols - 8))]
    for some in sizes:
        for _ in range(3):  # Launched, recorded, replayed.
            engine.evaluate(*arguments(some))
    assert all(captured is not None for captured in engine.graphs.values())
    before = torch.cuda.memory_reserved()
    for _ in range(5):
        for some in sizes:
            moved = some.positions + 0.01 * torch.randn_like(some.positions)
            engine.evaluate(*arguments(some.with_positions(moved)))
    assert torch.cuda.memory_reserved() == before


def test_recorded_steps_share_their_memory_and_leave_each_other_alone(network, batch):
    engine = engine_of(network)
    some = [batch, batch.select(range(4, batch.n_mols - 8)), batch.select(range(6))]
    first = [[engine.evaluate(*arguments(b)) for _ in range(3)][-1] for b in some]
    assert len(engine.graphs) == len(some)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    for stream in (torch.cuda.current_stream(), side, torch.cuda.current_stream()):
        with torch.cuda.stream(stream):
            again = [engine.evaluate(*arguments(b)) for b in some]
        torch.cuda.synchronize()
        for found, expected in zip(again, first, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_a_caller_can_capture_a_step_and_change_the_molecules_in_it(network, batch):
    engine = engine_of(network)
    few, other = batch.select([2, 3, 4, 9]), batch.select([5, 4])
    buffers = [t.clone() for t in arguments(few)]
    engine.evaluate(*buffers)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        energy, forces, *_ = engine.evaluate(*buffers)
    n_atoms = other.n_atoms
    for buffer, given in zip(buffers[:3], arguments(other)[:3], strict=True):
        buffer[:n_atoms] = given
    buffers[3].fill_(n_atoms)
    buffers[3][:3] = other.ptr
    buffers[4][:2] = other.charge
    graph.replay()
    expected_energy, expected_forces, *_ = engine.step(*arguments(other))
    torch.testing.assert_close(energy[:2], expected_energy, rtol=0, atol=1e-5)
    torch.testing.assert_close(forces[:n_atoms], expected_forces, rtol=1e-5, atol=1e-5)
    assert (energy[2:] == 0).all()
    assert (forces[n_atoms:] == 0).all()


@pytest.mark.usefixtures("first_block")
def test_a_molecule_does_not_feel_its_neighbours_in_the_batch(network, batch):
    engine = engine_of(network)
    energy, forces, *_ = engine.step(*arguments(batch))
    rest_energy, rest_forces, *_ = engine.step(*arguments(batch.select(range(6, batch.n_mols))))
    first = int(batch.ptr[6])
    # Of the same class of tiles: bit for bit.
    assert torch.equal(rest_energy, energy[6:])
    assert torch.equal(rest_forces, forces[first:])


@pytest.mark.usefixtures("first_block")
@pytest.mark.parametrize("fault", ["nan", "inf", "in one place", "too many neighbours"])
def test_bad_molecules_get_nan_and_leave_the_others_alone(network, batch, fault, monkeypatch):
    engine = engine_of(network)
    energy, forces, *_ = engine.step(*arguments(batch))
    positions = batch.positions.clone()
    victims = torch.zeros(batch.n_mols, dtype=torch.bool, device="cuda")
    if fault == "too many neighbours":
        i, _ = neighbor_pairs(positions, batch.ptr, engine.cutoff)
        neighbors = torch.bincount(i, minlength=batch.n_atoms)
        most = torch.stack([n.max() for n in neighbors.split(batch.ptr.diff().tolist())])
        # Half of the molecules are no more crowded than that, one of them just as much.
        limit = int(most.median())
        monkeypatch.setattr(pairs, "MAX_NEIGHBORS", limit)
        victims = most > limit
        assert victims.any()
    else:
        first = batch.ptr[9]
        positions[first + 2, 1] = {"nan": torch.nan, "inf": torch.inf}.get(fault, 0.0)
        if fault == "in one place":
            positions[first + 2] = positions[first]
        victims[9] = True
    bad_energy, bad_forces, *_ = engine.step(*arguments(batch.with_positions(positions)))
    hit = victims[batch.mol_idx]
    assert bad_energy[victims].isnan().all()
    assert bad_forces[hit].isnan().all()
    assert torch.equal(bad_energy[~victims], energy[~victims])
    assert torch.equal(bad_forces[~hit], forces[~hit])


def test_where_a_molecule_is_costs_nothing_if_its_positions_are_float64(network):
    batch = MolBatch.from_arrays(SMALL)
    engine = engine_of(network)
    x = batch.positions.double()
    results = []
    for shift in (0.0, 1e4):
        for _ in range(3):  # Launched at first, then from a graph.
            moved = batch.with_positions(x + shift).to("cuda")
            results.append(engine.evaluate(*arguments(moved)))
    for energy, forces, *_ in results[1:]:
        torch.testing.assert_close(energy, results[0][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(forces, results[0][1], rtol=0, atol=1e-5)


def test_constant_energy_dynamics_drift_no_more_than_with_the_reference(network):
    # Water and ammonium, velocity Verlet, 0.25 fs in Å sqrt(amu/eV), from rest.
    batch = MolBatch.from_arrays(SMALL, device="cuda")
    mass = torch.where(batch.numbers == 1, 1.008, 15.0)[:, None].double()
    dt = 0.25 / 10.18

    def drift(engine, dtype):
        x, v = batch.positions.double(), torch.zeros_like(batch.positions, dtype=torch.float64)
        _, forces, *_ = engine.evaluate(*arguments(batch.with_positions(x.to(dtype))))
        totals = []
        for _ in range(200):
            v = v + 0.5 * dt * forces.double() / mass
            x = x + dt * v
            energy, forces, *_ = engine.evaluate(*arguments(batch.with_positions(x.to(dtype))))
            v = v + 0.5 * dt * forces.double() / mass
            totals.append(energy.sum() + 0.5 * (mass * v.square()).sum())
        return (totals[-1] - totals[0]).abs().item()

    truth = drift(AnalyticEngine(on_gpu(network, torch.float64)), torch.float64)
    assert drift(engine_of(network), torch.float32) <= truth + 1e-3
