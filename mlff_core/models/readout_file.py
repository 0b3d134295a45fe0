"""What reads partial charges from a shipped model: NAME.charges, safetensors, beside its tensors.

The model itself is left as it is, and so are its energies and forces to the last bit; what reads
the charges is taken up where they are asked for.
"""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mlff_core.errors import ModelFileError
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.reference import readout_beside
from mlff_core.store import write_whole


def save_readout(tensors_file: Path, weights: dict[str, Tensor], after: int) -> Path:
    """Write what reads charges beside a model's tensors; returns the file.

    Args:
        tensors_file: The model's.
        weights: State of a `PartialCharges`.
        after: The block after which the charges are read, from 1.

    Raises:
        ModelFileError: The weights do not fit the model.
    """
    network, _, sha256 = read_checkpoint(tensors_file)
    _joined(network, weights, after, tensors_file)
    file = readout_beside(tensors_file)
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_whole(file, save(own, {"model_sha256": sha256, "after": str(after)}))
    return file


def with_readout(network: PaiNN, tensors_file: Path, sha256: str) -> PaiNN:
    """A network with what reads its charges, from the file beside its tensors.

    Args:
        network: Without charges; one that has them already is given back.
        tensors_file: Where it comes from.
        sha256: Of that.

    Raises:
        ModelFileError: There is no such file, or it is damaged or another model's.
    """
    if network.config.charges_after:
        return network
    file = readout_beside(tensors_file)
    if not file.is_file():
        raise ModelFileError(f"{tensors_file.stem} has no partial charges: there is no {file.name}")
    try:
        with safe_open(file, "pt") as stored:
            about = stored.metadata() or {}
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        after = int(about["after"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelFileError(f"{file}: damaged: {error!r}") from error
    if about.get("model_sha256") != sha256:
        raise ModelFileError(
            f"{file}: of another model: expected sha256 {sha256}, found {about.get('model_sha256')}"
        )
    return _joined(network, weights, after, file)


def _joined(network: PaiNN, weights: dict[str, Tensor], after: int, file: Path) -> PaiNN:
    try:
        larger = PaiNN(replace(network.config, charges_after=after))
        own = {f"partial_charges.{name}": tensor for name, tensor in weights.items()}
        larger.load_state_dict(network.state_dict() | own)
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"{file}: does not fit the model: {error}") from error
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise ModelFileError(f"{file}: has weights that are not finite numbers")
    # A buffer of float64, which a network that is made anew may hold in float32.
    larger.reference_energy = network.reference_energy.clone()
    return larger
