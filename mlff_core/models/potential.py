"""Energy -> forces of a model on a device. Picks the backend."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.errors import DeviceError, OutOfDomainError
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.painn import PaiNN, PaiNNConfig
from mlff_core.models.reference import find_model
from mlff_core.neighbors import neighbor_pairs

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
Backend = Literal["auto", "triton", "torch"]
Precision = Literal["float32", "fast", "float64"]


@dataclass(frozen=True)
class PotentialOutput:
    """Attributes:
    energy: eV, float64 [n_mols].
    forces: eV/Å, type of the positions [n_atoms, 3].
    """

    energy: Tensor
    forces: Tensor


class Engine(Protocol):
    """One way to compute energies and forces of a PaiNN; all of them mean the same."""

    def evaluate(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energy in eV, float64 [n_mols], and forces in eV/Å [n_atoms, 3]."""


class TorchEngine:
    """The plain engine: PaiNN in PyTorch, forces by automatic differentiation."""

    def __init__(self, model: PaiNN):
        self.model = model

    def evaluate(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energy in eV, float64 [n_mols], and forces in eV/Å [n_atoms, 3]."""
        with torch.enable_grad():
            x = positions.detach().requires_grad_(True)
            i, j = neighbor_pairs(x.detach(), ptr, self.model.config.cutoff)
            energy = self.model(numbers, x, mol_idx, charge, i, j)
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        energy = energy.detach()
        # The gradient skips an atom at NaN, so the molecule's other forces would look sound.
        return energy, torch.where(energy.isnan()[mol_idx][:, None], torch.nan, -gradient)


class Potential:
    """A loaded model on a device: energies and forces of a batch.

    Attributes:
        model: The network; its weights do not require gradients.
        name: Name of the checkpoint.
        card: The checkpoint's model card (JSON).
        sha256: Of the checkpoint's tensors file; empty for a model that was never saved.
        device: Where it computes.
        backend: "torch" or "triton".
        precision: "float32", "fast" or "float64".
    """

    def __init__(
        self,
        model: PaiNN,
        *,
        name: str = "unsaved",
        card: dict[str, Any] | None = None,
        sha256: str = "",
        device: Device | torch.device | str = "cpu",
        backend: Backend = "torch",
        precision: Precision = "float32",
    ):
        """Put a model on a device, behind a backend.

        Raises:
            DeviceError: The device or the backend is not available here.
            ValueError: An argument is not one of its choices.
        """
        self.device = choose_device(device)
        if precision not in ("float32", "fast", "float64"):
            raise ValueError(f"precision: expected float32, fast or float64, found {precision!r}")
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        # Never through float32, which would round the energy of a heavy atom by some meV.
        reference_energy = model.reference_energy.double()
        self.model = model.to(self.device, self.dtype).requires_grad_(False).eval()
        self.model.reference_energy = reference_energy.to(self.device)
        self.name, self.card, self.sha256 = name, card or {}, sha256
        self.precision = precision
        self.backend, self.engine = _make_engine(self.model, backend, precision, self.device)

    @property
    def config(self) -> PaiNNConfig:
        """Shape and domain of the model."""
        return self.model.config

    @property
    def errors(self) -> dict[str, str]:
        """What the model's card says of its errors: a text for each quantity, if it has any."""
        # The card may have come with anyone's weights.
        stated = self.card.get("headline")
        return {str(k): str(v) for k, v in stated.items()} if isinstance(stated, dict) else {}

    def check(self, batch: MolBatch) -> None:
        """Refuse what the model was not trained on. Reads values, so it waits for the device.

        Raises:
            OutOfDomainError: Names the first element or charge that is outside.
        """
        config = self.config
        for z in batch.numbers.unique().tolist():
            if z not in config.elements:
                raise OutOfDomainError(
                    f"element {z} is unknown to model {self.name}, which knows "
                    f"{', '.join(map(str, config.elements))}"
                )
        for q in batch.charge.unique().tolist():
            if not config.min_charge <= q <= config.max_charge:
                raise OutOfDomainError(
                    f"total charge {q:+d} is unknown to model {self.name}, which knows "
                    f"{config.min_charge:+d} to {config.max_charge:+d}"
                )

    def rounded(self, positions: Tensor) -> Tensor:
        """Positions as precise as `evaluate` can take them.

        The triton backend takes float64 as well: it rounds differences, not coordinates, and the
        energy of dynamics wanders less.
        """
        return positions if self.backend == "triton" else positions.to(self.dtype)

    def evaluate(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The bare computation, unchecked; arguments are those of a MolBatch on this device.

        With the triton backend it never waits for the device, so a CUDA graph can hold it.

        Returns:
            Energy in eV, float64 [n_mols], and forces in eV/Å [n_atoms, 3].
        """
        return self.engine.evaluate(numbers, positions, mol_idx, ptr, charge)

    def __call__(self, batch: MolBatch) -> PotentialOutput:
        """Energies and forces of a batch.

        A molecule with a coordinate that is not finite, or with two atoms in one place, gets NaN
        and leaves its neighbours in the batch alone.

        Raises:
            OutOfDomainError: The batch holds an element or a charge that the model does not know.
        """
        batch = batch.to(self.device, self.dtype)
        if batch.n_mols == 0:
            return PotentialOutput(
                torch.zeros(0, dtype=torch.float64, device=self.device),
                torch.zeros_like(batch.positions),
            )
        self.check(batch)
        return PotentialOutput(
            *self.evaluate(batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge)
        )


def choose_device(device: Device | torch.device | str) -> torch.device:
    """The device meant; "auto" is CUDA where there is one.

    Raises:
        DeviceError: CUDA is asked for and not there, or the name means nothing.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"device: expected auto, cpu or cuda, found {device!r}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "CUDA was asked for, but PyTorch finds no CUDA device here; "
            "use device 'cpu' or 'auto', or install a CUDA build of torch"
        )
    return chosen


def _make_engine(
    model: PaiNN, backend: Backend, precision: Precision, device: torch.device
) -> tuple[str, Engine]:
    if backend not in ("auto", "triton", "torch"):
        raise ValueError(f"backend: expected auto, triton or torch, found {backend!r}")
    wanted = backend
    if wanted == "auto":
        wanted = "triton" if device.type == "cuda" and precision != "float64" else "torch"
    if wanted == "triton":
        # Triton is an extra: importing it must not be the price of the plain engine.
        try:
            from mlff_core.ops.triton.engine import TritonEngine

            engine = TritonEngine(model, precision)
        except Exception as error:
            if backend == "triton":
                raise DeviceError(f"the triton backend cannot run here: {error}") from error
            log.warning("falling back to the torch backend: triton cannot run here: %s", error)
        else:
            log.info("backend: triton (%s, %s)", device, precision)
            return "triton", engine
    if device.type == "cpu" and precision != "float64":
        # Numba brings the compiled operators; the plain engine needs nothing but PyTorch.
        try:
            from mlff_core.ops.numba.atoms import ATOM_OPS
            from mlff_core.ops.numba.message import MessageOps
            from mlff_core.ops.program import AnalyticEngine
        except ImportError as error:
            log.warning("the slow plain engine is used on this CPU: %s", error)
        else:
            log.info("backend: torch with compiled operators (%s, %s)", device, precision)
            edge_ops = MessageOps(model.config.cutoff).edge_ops
            return "torch", AnalyticEngine(model, edge_ops, ATOM_OPS)
    log.info("backend: torch (%s, %s)", device, precision)
    return "torch", TorchEngine(model)


def load_potential(
    model: str | Path = "default",
    *,
    device: Device | torch.device | str = "auto",
    backend: Backend = "auto",
    precision: Precision = "float32",
) -> Potential:
    """Load a checkpoint.

    Args:
        model: "default"; "small", which takes less than half of the time and errs by more; the name
            of a shipped model; or the path of a .safetensors file that has its .json beside it.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        backend: "auto" (triton on CUDA, torch on a CPU), "triton" or "torch".
        precision: "float32"; "fast", which lowers the precision of products where that helps on
            the triton backend; "float64" (torch backend), the reference.

    Raises:
        ModelFileError: The checkpoint is missing or damaged.
        DeviceError: The device or the backend is not available here.
    """
    tensors_file = find_model(model)
    network, card, sha256 = read_checkpoint(tensors_file)
    return Potential(
        network,
        name=card.get("name", tensors_file.stem),
        card=card,
        sha256=sha256,
        device=device,
        backend=backend,
        precision=precision,
    )
