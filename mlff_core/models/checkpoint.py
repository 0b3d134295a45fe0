"""Checkpoints: NAME.safetensors (the tensors) with NAME.json beside it.

The JSON is the model card: shape, domain, how it was made, how good it is. Nothing here reads
pickle.
"""

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from mlff_core.errors import ModelFileError
from mlff_core.models.painn import PaiNN, PaiNNConfig

#: Short names of models in mlff_core/weights: the one that is used unless another is asked for, and
#: one of a quarter of its weights.
SHORT_NAMES = {"default": "painn-aimnet2", "small": "painn-aimnet2-small"}


def find_model(model: str | Path = "default") -> Path:
    """Path of a checkpoint's tensors, from a name or a path.

    Raises:
        ModelFileError: There is none.
    """
    shipped = Path(str(resources.files("mlff_core") / "weights"))
    name = SHORT_NAMES.get(str(model), str(model))
    for candidate in (shipped / f"{name}.safetensors", Path(name)):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(p.stem for p in shipped.glob("*.safetensors"))) or "none"
    raise ModelFileError(
        f"no model {str(model)!r}: expected a path of a .safetensors file, "
        f"or the name of a shipped model ({known})"
    )


def read_checkpoint(tensors_file: Path) -> tuple[PaiNN, dict[str, Any], str]:
    """A network, its card and the sha256 of its tensors, checked against each other.

    Raises:
        ModelFileError: A file is missing, damaged, or not one of ours.
    """
    card_file = tensors_file.with_suffix(".json")
    try:
        card = json.loads(card_file.read_text(encoding="utf-8"))
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
        network = PaiNN(config)
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise ModelFileError(f"{tensors_file}: does not fit its card: {error}") from error
    return network, card, found


def save_checkpoint(network: PaiNN, tensors_file: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write NAME.safetensors and NAME.json; returns the card with config and sha256 filled in."""
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
    tensors_file.write_bytes(data)
    text = json.dumps(full, indent=2, ensure_ascii=False)
    tensors_file.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    return full
