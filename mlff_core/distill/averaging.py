"""One network from several of one shape that come from one start: the mean of their weights.

P. Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018
(arXiv:1803.05407): networks between which the loss has no barrier, as those of stages that go on
from each other, are each off in ways of their own, some of which the mean does not share.
"""

from collections.abc import Sequence

import torch

from mlff_core.errors import ModelFileError
from mlff_core.models.painn import PaiNN


def mean_of(networks: Sequence[PaiNN]) -> PaiNN:
    """The network whose every weight is the mean of theirs.

    Args:
        networks: One at least.

    Raises:
        ModelFileError: Their shapes differ.
    """
    configs = {network.config for network in networks}
    if len(configs) > 1:
        raise ModelFileError(f"weights of different shapes have no mean: {configs}")
    states = [network.state_dict() for network in networks]
    mean = PaiNN(networks[0].config)
    mean.load_state_dict(
        {
            name: torch.stack([state[name].double() for state in states]).mean(0)
            for name in states[0]
        }
    )
    return mean
