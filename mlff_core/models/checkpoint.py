"""Checkpoints: NAME.safetensors (the tensors) with NAME.json beside it.

The JSON is the model card: shape, domain, how it was made, how good it is. Nothing here reads
pickle.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from mlff_core.errors import ModelFileError
from mlff_core.models.painn import PaiNN, PaiNNConfig
from mlff_core.models.reference import read_card
from mlff_core.store import write_whole


def read_checkpoint(tensors_file: Path) -> tuple[PaiNN, dict[str, Any], str]:
    """A network, its card and the sha256 of its tensors, checked against each other.

    Raises:
        ModelFileError: A file is missing, damaged, or not one of ours.
    """
    card_file = tensors_file.with_suffix(".json")
    try:
        card = read_card(card_file)
        config = PaiNNConfig.from_dict(card["config"])
        expected = card["sha256"]
    except OSError as error:
        raise ModelFileError(f"{card_file}: no model card beside the tensors: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{card_file}: not a model card of mlff-screen: {error!r}") from error
    data = tensors_file.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ModelFileError(f"{tensors_file}: damaged: expected sha256 {expected}, found {found}")
    try:
        state = load_safetensors(data)
        n_weights = sum(tensor.numel() for tensor in state.values())
        widest = config.n_features * max(config.n_features, config.n_rbf)
        if widest * config.n_interactions > n_weights:  # such a network may fill any memory
            raise RuntimeError(f"its network has more than the {n_weights:,} weights that are here")
        network = PaiNN(config)
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise ModelFileError(f"{tensors_file}: does not fit its card: {error}") from error
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise ModelFileError(f"{tensors_file}: has weights that are not finite numbers")
    return network, card, found


def save_checkpoint(network: PaiNN, tensors_file: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write NAME.safetensors and NAME.json; returns the card with config and sha256 filled in.

    Each is written whole, the tensors last: whoever finds them finds their card.
    """
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    data = save_safetensors(state)
    full = {
        **card,
        "name": tensors_file.stem,
        "config": network.config.to_dict(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    tensors_file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(full, indent=2, ensure_ascii=False)
    write_whole(tensors_file.with_suffix(".json"), f"{text}\n".encode())
    write_whole(tensors_file, data)
    return full
