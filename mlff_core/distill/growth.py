"""A larger student that says what a smaller one said, so that training need not begin anew."""

from dataclasses import replace

import torch

from mlff_core.errors import ModelFileError
from mlff_core.painn import PaiNN, PaiNNConfig

#: What a block adds goes through these.
_LAST_LAYERS = ("phi.2.weight", "phi.2.bias", "a.2.weight", "a.2.bias")


def grown(network: PaiNN, config: PaiNNConfig, *, seed: int = 0) -> PaiNN:
    """The same energies from a network of another shape.

    What is new adds nothing at first: the last layers of further blocks are zero, and so are the
    weights of further radial functions.

    Args:
        network: The smaller one.
        config: The shape of the larger one: more blocks or radial functions.
        seed: Of the first layers of further blocks.

    Raises:
        ModelFileError: The shape differs in anything else, or is smaller.
    """
    old = network.config
    if (
        replace(old, n_interactions=config.n_interactions, n_rbf=config.n_rbf) != config
        or config.n_interactions < old.n_interactions
        or config.n_rbf < old.n_rbf
    ):
        raise ModelFileError(f"a student of shape {old} cannot grow into {config}")
    torch.manual_seed(seed)
    larger = PaiNN(config)
    larger.reference_energy = network.reference_energy.clone()
    state = network.state_dict()
    with torch.no_grad():
        for name, weights in larger.state_dict().items():
            if name not in state:
                if name.endswith(_LAST_LAYERS):
                    weights.zero_()
                continue
            known = state[name]
            weights.zero_()
            weights[tuple(slice(n) for n in known.shape)] = known
    return larger
