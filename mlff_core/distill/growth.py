"""A larger student that computes what a smaller one did, so that training need not begin anew."""

from dataclasses import replace

import torch
from torch import Tensor

from mlff_core.errors import ModelFileError
from mlff_core.models.painn import PaiNN, PaiNNConfig

#: What a block adds goes through these.
_LAST_LAYERS = ("phi.2.weight", "phi.2.bias", "a.2.weight", "a.2.bias")
#: Rows of features and columns of something else; the tables have it the other way round.
_FILTER = "filter.weight"
_TABLES = ("element.weight", "charge.weight")


def grown(network: PaiNN, config: PaiNNConfig, *, seed: int = 0) -> PaiNN:
    """The same energies from a network of another shape.

    Each feature becomes several alike (T. Chen et al., Net2Net, ICLR 2016), whose weights further
    on are shared out at random, so that they learn different things. What else is new adds nothing
    at first: the last layers of further blocks are zero, and so are the weights of further radial
    functions, and what partial charges do (`PartialCharges`).

    Args:
        network: The smaller one.
        config: The shape of the larger one: more blocks, radial functions or features (an even
            number), or partial charges where there were none, or did less.
        seed: Of how weights are shared out, and of the first layers of further blocks.

    Raises:
        ModelFileError: The shape differs in anything else, or is smaller.
    """
    old = network.config
    may_differ = ["n_features", "n_interactions", "n_rbf"]
    may_differ += [
        name for name in ("charges_after", "charge_feedback", "coulomb") if not getattr(old, name)
    ]
    if (
        config.n_features < old.n_features
        or (config.n_features != old.n_features and (config.n_features | old.n_features) % 2)
        or config.n_interactions < old.n_interactions
        or config.n_rbf < old.n_rbf
        # Last: fewer blocks than charges are read after would be no shape at all.
        or replace(old, **{name: getattr(config, name) for name in may_differ}) != config
    ):
        raise ModelFileError(f"a student of shape {old} cannot grow into {config}")
    torch.manual_seed(seed)
    larger = PaiNN(config)
    larger.reference_energy = network.reference_energy.clone()
    state, parameters = network.state_dict(), dict(network.named_parameters())
    with torch.no_grad():
        for name, weights in larger.state_dict().items():
            if name not in state:
                if name.endswith(_LAST_LAYERS):
                    weights.zero_()
                continue
            known = state[name]
            if config.n_features > old.n_features and name in parameters:
                known = _widened(name, known, old.n_features, config.n_features)
            weights.zero_()
            weights[tuple(slice(n) for n in known.shape)] = known
    return larger


def _widened(name: str, weights: Tensor, n_features: int, wanted: int) -> Tensor:
    """A layer's weights, or a table's, for more features, which are copies of the first ones.

    The copies of one chunk (U, V, a third of phi) stand side by side.
    """
    axes = [1] if name in _TABLES else [0] if name.endswith(_FILTER) else range(weights.ndim)
    for axis in axes:
        size = weights.shape[axis]
        # The readout's hidden layer is half as wide as the features, and what it gives is no
        # feature.
        chunk = n_features if size % n_features == 0 else n_features // 2
        if size % chunk:
            continue
        source = torch.arange(wanted * chunk // n_features) % chunk
        wide = weights.unflatten(axis, (-1, chunk)).index_select(axis + 1, source)
        if axis == 1 and name not in _TABLES:
            # What goes in is alike, so only the sum over the copies counts.
            copies = source.bincount().to(wide)
            unlike = torch.randn_like(wide)
            sums = unlike.new_zeros(*unlike.shape[:-1], chunk).index_add_(-1, source, unlike)
            unlike -= (sums / copies)[..., source]
            wide = (wide + unlike * (weights.std() / unlike.std())) / copies[source]
        weights = wide.flatten(axis, axis + 1)
    return weights
