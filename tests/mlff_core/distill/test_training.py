"""Losses, schedule, optimiser, and a few steps of training."""

import dataclasses

import numpy as np
import pytest
import torch

from mlff_core.distill.fused import Fused, compiled
from mlff_core.distill.losses import Weights, charge_losses, losses
from mlff_core.distill.metrics import Metrics
from mlff_core.distill.optimizer import Optimizer, joined_blocks, orthogonalised, square_blocks
from mlff_core.distill.pool import LabelPool
from mlff_core.distill.reference_energy import fit_reference_energy
from mlff_core.distill.training import Trainer, schedule
from mlff_core.distill.training_config import TrainingConfig
from mlff_core.models.painn import PaiNN, PaiNNConfig
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops.program import PLAIN_OPS
from mlff_core.testing import SpringTeacher, random_molecule

SMALL = PaiNNConfig(n_features=16, n_interactions=2)


@pytest.fixture
def pool() -> LabelPool:
    """Forty small clouds of atoms, three geometries each, labelled by springs."""
    torch.manual_seed(0)
    teacher, pool = SpringTeacher(), LabelPool(40, 3, 12, "cpu", with_charges=True)
    numbers, x = torch.zeros(40, 12, dtype=torch.int64), torch.zeros(40, 3, 12, 3)
    for k in range(40):
        z, y, _ = random_molecule(5 + k % 7, k)
        numbers[k, : len(z)] = torch.tensor(z)
        x[k, :, : len(z)] = torch.tensor(y) + 0.15 * torch.randn(3, len(z), 3)
    labels = [teacher(numbers, x[:, k], torch.zeros(40)) for k in range(3)]
    energy = torch.stack([label.energy for label in labels], 1)
    forces = torch.stack([label.forces for label in labels], 1)
    charges = torch.stack([label.charges for label in labels], 1)
    valid = torch.ones(40, 3, dtype=torch.bool)
    pool.add(numbers, torch.zeros(40), x, energy, forces, valid, charges)
    return pool


def trained(
    pool: LabelPool, steps: int, shape: PaiNNConfig = SMALL, **changes: object
) -> tuple[Trainer, list[float]]:
    torch.manual_seed(1)
    config = TrainingConfig(n_mols=8, learning_rate=5e-3, warmup_steps=5, ema_decay=0.9, **changes)
    trainer = Trainer(PaiNN(shape), pool, config)
    numbers = pool.numbers.long()
    reference = fit_reference_energy(numbers, pool.energy.mean(1), SMALL.elements)
    trainer.student.reference_energy.copy_(reference)
    trainer.averaged.reference_energy.copy_(reference)
    trainer.size_batches(1.5)
    curve = []
    for k in range(steps):
        trainer.step(k / steps)
        if k % 10 == 9:
            curve.append(trainer.metrics.read()["force_mae"])
    return trainer, curve


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_lowers_the_error(pool, optimizer):
    trainer, curve = trained(pool, 100, optimizer=optimizer)
    assert curve[-1] < 0.6 * curve[0]
    assert trainer.step_count == 100
    assert int(trainer.skipped) == 0


CHARGED = dataclasses.replace(SMALL, charges_after=1, charge_feedback=True, coulomb=True)


def test_training_teaches_charges_and_what_they_do(pool):
    trainer, _ = trained(pool, 40, CHARGED)
    read = trainer.student.partial_charges
    assert read.feedback.abs().max() > 0.01
    assert read.strength.abs() > 0.01
    torch.manual_seed(3)
    batch = pool.draw(8, trainer.config.n_atoms, trainer.config.n_edges, SMALL.cutoff)
    start = Trainer(PaiNN(CHARGED), pool, trainer.config)
    errors = []
    for each in (start, trainer):
        each.metrics.read()
        with torch.no_grad():
            each.loss(batch, PLAIN_OPS, each.metrics)
        errors.append(each.metrics.read())
    before, after = errors
    assert after["charge_mae"] < 0.5 * before["charge_mae"]
    assert after["dipole_mae"] < 0.5 * before["dipole_mae"]


def test_what_charges_do_learns_as_much_faster_as_the_recipe_says(pool):
    for times in (1.0, 10.0):
        trainer, _ = trained(pool, 1, CHARGED, charge_rate=times)
        read = trainer.student.partial_charges
        for weights in (read.strength, read.feedback):
            # The first step of Adam is as long as its rate, of which the warm-up gives a fifth.
            longest = float(weights.detach().abs().max())
            assert longest == pytest.approx(times * 5e-3 / 5, rel=1e-3)


def test_the_total_charge_of_each_atom_fades_to_that_of_an_uncharged_molecule(pool):
    def spread(rows):
        return float((rows - rows[-SMALL.min_charge]).abs().max().detach())

    trainer, _ = trained(pool, 1, CHARGED, total_fades=0.5)
    rows = trainer.student.charge.weight
    rows.data += 3.0 * torch.arange(len(rows))[:, None]
    before = spread(rows)
    assert before > 6.0
    trainer.step(1 / 12)
    assert spread(rows) == pytest.approx(5 / 6 * before, rel=0.02)
    for k in range(2, 12):
        trainer.step(k / 12)
    assert spread(rows) == 0.0
    # That of which the weights are shipped has nothing left either.
    assert spread(trainer.averaged.charge.weight) == 0.0


def test_the_dipole_of_the_loss_is_that_of_the_charges(pool):
    trainer, _ = trained(pool, 1, CHARGED)
    batch = pool.draw(8, trainer.config.n_atoms, trainer.config.n_edges, SMALL.cutoff)
    charges, first = batch.charges.clone(), (batch.mol_idx == 0).nonzero().squeeze(1)
    charges[first[0]] += 0.1
    charges[first[1]] -= 0.1
    config = dataclasses.replace(trainer.config, charge_weight=0.0, dipole_weight=1.0)
    metrics = Metrics("cpu")
    loss = charge_losses(charges, batch, Weights.first(config, "cpu"), config, metrics)
    d = float((batch.positions[first[0]] - batch.positions[first[1]]).norm())
    # A tenth of a charge moved by d, in one of eight molecules; the others' lengths end at 0.001.
    assert float(loss) == pytest.approx((0.1 * d + 7 * 1e-3) / 8, rel=1e-3)
    assert metrics.read()["dipole_mae"] == pytest.approx(4.8032 * float(loss), rel=1e-3)


def test_a_student_with_charges_needs_labels_of_them(pool):
    without = LabelPool(4, 3, 12, "cpu")
    with pytest.raises(ValueError, match="expected labels with charges"):
        Trainer(PaiNN(CHARGED), without, TrainingConfig())
    with pytest.raises(ValueError, match=r"charge_weight above 0, found 0\.0"):
        Trainer(PaiNN(CHARGED), pool, TrainingConfig(charge_weight=0.0))


def test_the_averaged_weights_follow_the_trained_ones(pool):
    trainer, _ = trained(pool, 20)
    pairs = list(zip(trainer.averages, trainer.parameters, strict=True))
    assert all(not torch.equal(a, b) for a, b in pairs if b.numel() > 100)
    gap = sum(float((a - b).detach().norm()) for a, b in pairs)
    size = sum(float(b.detach().norm()) for _, b in pairs)
    assert gap < 0.2 * size


def test_what_is_left_of_the_start_in_the_averaged_weights_is_known(pool):
    config = TrainingConfig(n_mols=8, learning_rate=0.0, ema_decay=0.8, n_atoms=768, n_edges=8192)
    trainer = Trainer(PaiNN(SMALL), pool, config)
    for average in trainer.averages:
        average += 1.0  # The others do not move, so what is left is that of the start.
    for k in range(3):
        trainer.step(k / 3)
    assert trainer.start_left == pytest.approx(0.8**3)
    for average, parameter in zip(trainer.averages, trainer.parameters, strict=True):
        off = average - parameter.detach()
        torch.testing.assert_close(
            off, torch.full_like(off, trainer.start_left), rtol=1e-4, atol=1e-5
        )


def test_the_averaged_weights_carry_no_history(pool):
    """Or they would remember every step that was ever taken."""
    trainer, _ = trained(pool, 3)
    for parameter in trainer.averaged.parameters():
        assert parameter.is_leaf
        assert not parameter.requires_grad


def test_a_step_that_is_not_finite_is_left_out_and_counted(pool):
    trainer, _ = trained(pool, 3)
    before = [p.clone() for p in trainer.parameters]
    pool.energy.fill_(torch.inf)
    trainer.step(0.5)
    assert int(trainer.skipped) == 1
    # Nor does it spoil the means over the three steps before.
    means = trainer.metrics.read()
    assert means["batches"] == 3
    assert all(np.isfinite(value) for value in means.values())
    # Weight decay and momentum still move the weights a little; nothing becomes NaN.
    for parameter, old in zip(trainer.parameters, before, strict=True):
        assert parameter.isfinite().all()
        assert (parameter - old).abs().max() < 0.02


def test_the_loss_of_a_perfect_student_is_nothing(pool):
    trainer, _ = trained(pool, 1)
    batch = pool.draw(8, trainer.config.n_atoms, trainer.config.n_edges, SMALL.cutoff)
    metrics = Metrics("cpu")
    loss = losses(batch.energy, batch.forces, batch, trainer.weights, trainer.config, metrics)
    assert float(loss) < 2e-3  # the smooth length of a zero vector
    assert metrics.read()["force_rmse"] == 0.0


def test_padding_has_no_part_in_the_loss(pool):
    trainer, _ = trained(pool, 1)
    config = trainer.config
    batch = pool.draw(8, config.n_atoms, config.n_edges, SMALL.cutoff)
    spoiled = batch.forces.clone()
    spoiled[batch.mol_idx == 8] = 1e6
    one = losses(batch.energy, batch.forces, batch, trainer.weights, config)
    other = losses(batch.energy, spoiled, batch, trainer.weights, config)
    assert torch.equal(one, other)


def test_a_constant_shift_of_a_molecule_costs_only_the_absolute_term(pool):
    trainer, _ = trained(pool, 1)
    config = dataclasses.replace(trainer.config, energy_weight=0.0)
    batch = pool.draw(8, config.n_atoms, config.n_edges, SMALL.cutoff)
    shift = torch.tensor([1.0, -2.0, 0.5, 3.0]).repeat(2).double()
    weights = Weights.first(config, "cpu")
    free = losses(batch.energy + shift, batch.forces, batch, weights, config)
    none = losses(batch.energy, batch.forces, batch, weights, config)
    torch.testing.assert_close(free, none, rtol=0, atol=1e-6)


def test_the_loss_has_the_gradient_that_finite_differences_give(pool):
    trainer, _ = trained(pool, 5)
    config = trainer.config
    torch.manual_seed(4)
    batch = pool.draw(8, config.n_atoms, config.n_edges, SMALL.cutoff)
    weight = trainer.student.message[0].phi[0].weight
    (gradient,) = torch.autograd.grad(trainer.loss(batch, PLAIN_OPS), weight)
    direction = gradient / gradient.norm()
    step = 1e-2
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * step * direction
            values.append(float(trainer.loss(batch, PLAIN_OPS)))
            weight -= sign * step * direction
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx(float(gradient.norm()), rel=0.02)


def test_weights_of_the_loss_go_from_the_first_to_the_last_or_stay(pool):
    changes = {"energy_weight": 0.1, "final_energy_weight": 0.5, "dipole_weight": 0.2}
    trainer, _ = trained(pool, 1, pair_weight=0.5, final_pair_weight=1.0, **changes)
    for progress, expected in (
        (0.0, (0.5, 0.1, 0.2)),
        (0.25, (0.625, 0.2, 0.2)),
        (1.0, (1, 0.5, 0.2)),
    ):
        trainer.step(progress)
        assert [float(w) for w in trainer.weights] == pytest.approx(expected)


def test_the_schedule_warms_up_and_ends_at_nothing():
    assert schedule(0.0, 0, 100) == pytest.approx(0.01)
    assert schedule(0.0, 500, 100) == 1.0
    assert schedule(0.5, 500, 100) == pytest.approx(0.5)
    assert schedule(1.0, 500, 100) == 0.0
    assert schedule(1.2, 500, 100) == 0.0
    assert schedule(0.25, 500, 100, decay="linear") == pytest.approx(0.75)
    assert schedule(0.25, 49, 100, final=0.2, decay="linear") == pytest.approx(0.5 * 0.8)
    assert schedule(1.2, 500, 100, decay="linear") == 0.0


def test_a_stage_says_how_its_rate_falls(pool):
    trainer, _ = trained(pool, 1, decay="linear")
    trainer.step_count = 1000  # warm
    trainer.step(0.75)
    assert float(trainer.optimizer.learning_rate) == pytest.approx(0.25 * 5e-3)
    with pytest.raises(ValueError, match="cosine or linear"):
        TrainingConfig(decay="exponential")


def test_stages_may_be_parts_of_one_way_from_the_highest_rate_to_none(pool):
    rates = []
    for part in ({"begins": 0.0, "ends": 0.5}, {"begins": 0.5, "ends": 1.0}, {}):
        trainer, _ = trained(pool, 1, **part)
        for progress in (0.0, 0.5, 1.0):
            trainer.step_count = 1000  # warm
            trainer.step(progress)
            rates.append(float(trainer.optimizer.learning_rate) / 5e-3)
    cosine = [0.5 * (1.0 + np.cos(np.pi * way)) for way in (0, 0.25, 0.5, 0.5, 0.75, 1, 0, 0.5, 1)]
    assert rates == pytest.approx(cosine, abs=1e-6)


def test_reference_energies_are_those_that_made_the_sums():
    rng = np.random.default_rng(0)
    elements = (1, 6, 8)
    numbers = torch.tensor(rng.choice([0, *elements], (60, 10)))
    truth = torch.tensor([-13.6, -1036.0, -2043.0], dtype=torch.float64)
    energy = sum((numbers == z).sum(1) * e for z, e in zip(elements, truth, strict=True))
    found = fit_reference_energy(numbers, energy, elements)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-3)


def test_an_element_that_does_not_occur_gets_no_energy():
    numbers = torch.tensor([[1, 1, 0], [1, 1, 1]])
    found = fit_reference_energy(numbers, torch.tensor([-2.0, -3.0]), (1, 53))
    torch.testing.assert_close(
        found, torch.tensor([-1.0, 0.0], dtype=torch.float64), atol=1e-4, rtol=0
    )


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 24) * torch.tensor([1e-6, 1.0, 1e4])[:, None, None]
    values = torch.linalg.svdvals(orthogonalised(matrices))
    # The smallest directions of a random matrix are the last to come up.
    assert values.max() < 1.3
    assert (values > 0.5).float().mean() > 0.85
    left, _, right = torch.linalg.svd(matrices)
    aligned = torch.einsum("nij,nij->n", orthogonalised(matrices), left @ right) / 24
    assert (aligned > 0.8).all()


def test_blocks_of_a_matrix_are_put_back_where_they_were():
    weight = torch.arange(8 * 12.0).view(8, 12)
    blocks = square_blocks(weight, 4)
    assert blocks.shape == (6, 4, 4)
    assert torch.equal(blocks[1], weight[:4, 4:8])
    assert torch.equal(joined_blocks(blocks, weight.shape), weight)


def test_muon_takes_the_square_blocks_and_adamw_the_rest():
    network = PaiNN(SMALL)
    optimizer = Optimizer(
        network, 16, betas=(0.9, 0.99), momentum=0.95, weight_decay=0.0, use_muon=True
    )
    optimizer.learning_rate.fill_(1e-2)
    before = {name: p.clone() for name, p in network.named_parameters()}
    gradients = [torch.randn_like(p) for p in network.parameters()]
    optimizer.step(gradients)
    for name, parameter in network.named_parameters():
        change = (parameter.detach() - before[name].detach()).abs()
        if name.endswith(("phi.0.weight", "phi.2.weight", "uv.weight", "a.0.weight", "a.2.weight")):
            rms = float(change.square().mean().sqrt())
            assert 0.1e-2 < rms < 0.3e-2, f"{name}: {rms}"
        else:  # the first step of Adam is the learning rate itself
            torch.testing.assert_close(change, torch.full_like(change, 1e-2), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_mols": 7}, "n_mols"),
        ({"optimizer": "sgd"}, "sgd"),
        ({"begins": 0.5, "ends": 0.5}, "begins < ends"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**change)


def test_batches_are_sized_by_the_atoms_and_pairs_of_the_pool(pool):
    trainer = Trainer(PaiNN(SMALL), pool, TrainingConfig(n_mols=400))
    config = trainer.size_batches(spare=1.0)
    sizes = (pool.numbers > 0).sum(1)
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    i, _ = neighbor_pairs(pool.positions[:, 0][pool.numbers > 0], ptr, SMALL.cutoff)
    n_atoms, n_pairs = 400 / 40 * len(pool.numbers[pool.numbers > 0]), 400 / 40 * len(i)
    assert 0 <= config.n_atoms - (n_atoms + 256) < 256
    assert 0 <= config.n_edges - int(1.01 * n_pairs) < 1024


# The tracer looks at the gradients of tensors that have none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("charges", [{}, {"charges_after": 1, "coulomb": True}])
def test_compiled_operators_give_the_same_gradient(pool, charges):
    trainer, _ = trained(pool, 1, dataclasses.replace(SMALL, **charges))
    config = trainer.config
    batch = pool.draw(8, config.n_atoms, config.n_edges, SMALL.cutoff)
    gradients = []
    # Traced and differentiated as for a card, but not turned into machine code.
    for trainer.fused in (Fused(), compiled("aot_eager")):
        loss = trainer.loss(batch, PLAIN_OPS)
        gradients.append(torch.autograd.grad(loss, trainer.parameters))
    for meant, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, meant, rtol=1e-4, atol=1e-6)
