"""A student that has grown says what it said before, and can learn more."""

from dataclasses import replace

import pytest
import torch

from mlff_core.distill.growth import grown
from mlff_core.errors import ModelFileError
from mlff_core.models.painn import PaiNNConfig
from mlff_core.models.potential import Potential
from mlff_core.neighbors import neighbor_pairs
from mlff_core.testing import named_batch, random_model

CONFIG = PaiNNConfig(n_features=16, n_interactions=2, n_rbf=8)
GROWN = [
    replace(CONFIG, n_interactions=3),
    replace(CONFIG, n_rbf=9),
    replace(CONFIG, n_features=32),
    replace(CONFIG, n_features=24),
    replace(CONFIG, n_features=48, n_interactions=4, n_rbf=9),
    replace(CONFIG, charges_after=1, charge_feedback=True, coulomb=True),
]
SHAPES = pytest.mark.parametrize(
    "config", GROWN, ids=["blocks", "rbf", "features", "half as many more", "all", "charges"]
)


@SHAPES
def test_a_grown_student_says_the_same(config):
    small = random_model(3, CONFIG)
    large = grown(small, config)
    assert large.config == config
    batch = named_batch(torch.float64)
    found, expected = (Potential(m, precision="float64")(batch) for m in (large, small))
    # Copies of a feature share a weight of float32, which rounds each part.
    atol = 1e-9 if config.n_features == CONFIG.n_features else 1e-6
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=atol)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=atol)


@SHAPES
def test_what_is_new_learns(config):
    """Some gradient reaches each new part, or it would stay as it is for ever."""
    large = grown(random_model(3, CONFIG), config)
    batch = named_batch(torch.float32)
    i, j = neighbor_pairs(batch.positions, batch.ptr, config.cutoff)
    energy = large(batch.numbers, batch.positions, batch.mol_idx, batch.charge, i, j)
    energy.sum().backward()
    for k, (message, update) in enumerate(zip(large.message, large.update, strict=True)):
        assert message.phi[2].weight.grad.abs().max() > 0
        assert update.a[2].weight.grad.abs().max() > 0
        assert (message.filter.weight.grad.abs().amax(0) > 0).all() or k >= CONFIG.n_interactions


def test_features_that_were_alike_learn_different_things():
    large = grown(random_model(3, CONFIG), replace(CONFIG, n_features=32))
    batch = named_batch(torch.float32)
    i, j = neighbor_pairs(batch.positions, batch.ptr, CONFIG.cutoff)
    energy = large(batch.numbers, batch.positions, batch.mol_idx, batch.charge, i, j)
    energy.sum().backward()
    for name, parameter in large.named_parameters():
        if name.endswith("bias") and len(parameter) % 32 == 0:
            one, other = parameter.grad.view(-1, 2, 16).unbind(1)
            assert (parameter.view(-1, 2, 16).diff(dim=1) == 0).all(), name
            assert (one - other).abs().max() > 0.1 * one.abs().max(), name


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, n_features=17),
        replace(CONFIG, n_features=8),
        replace(CONFIG, n_interactions=1),
        replace(CONFIG, n_rbf=7),
        replace(CONFIG, cutoff=6.0),
    ],
)
def test_a_shape_that_it_cannot_grow_into_is_refused(config):
    with pytest.raises(ModelFileError, match="cannot grow into"):
        grown(random_model(3, CONFIG), config)


def test_a_student_with_charges_grows_into_none_without_or_of_fewer_blocks():
    charged = random_model(3, replace(CONFIG, charges_after=2))
    for config in (CONFIG, PaiNNConfig(n_features=16, n_interactions=1, n_rbf=8)):
        with pytest.raises(ModelFileError, match="cannot grow into"):
            grown(charged, config)
