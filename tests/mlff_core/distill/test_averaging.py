"""The mean of networks, weight by weight."""

import pytest
import torch

from mlff_core.distill.averaging import mean_of
from mlff_core.errors import ModelFileError
from mlff_core.models.painn import PaiNNConfig
from mlff_core.testing import random_model

CONFIG = PaiNNConfig(n_features=16, n_interactions=2, n_rbf=8)


def test_every_weight_is_the_mean_of_all():
    networks = [random_model(seed, CONFIG) for seed in (1, 2, 3)]
    for seed, network in enumerate(networks):
        # As precise as a sum of hundreds of eV an atom has to be.
        network.reference_energy = torch.full_like(
            network.reference_energy, 1e4 + seed / 3
        ).double()
    mean = mean_of(networks)
    assert mean.config == CONFIG
    assert torch.allclose(mean.reference_energy, torch.tensor(1e4 + 1 / 3).double(), atol=1e-3)
    assert mean.reference_energy.dtype == torch.float64
    states = [network.state_dict() for network in networks]
    for name, weights in mean.state_dict().items():
        expected = sum(state[name] for state in states) / 3
        torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(mean_of(networks[:1]).state_dict()[name], states[0][name])
    # They are its own: who trains it does not change what it was made from.
    assert mean.element.weight.data_ptr() != networks[0].element.weight.data_ptr()


def test_different_shapes_have_no_mean():
    wide = PaiNNConfig(n_features=32, n_interactions=2, n_rbf=8)
    with pytest.raises(ModelFileError, match="different shapes"):
        mean_of([random_model(1, CONFIG), random_model(1, wide)])
