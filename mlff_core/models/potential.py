"""PaiNN as a force field: a model on a device, behind a backend."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.buckets import BYTES_PER_EDGE_AND_FEATURE
from mlff_core.errors import DeviceError, ModelFileError
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.force_field import Domain, Outputs, evaluate_checked
from mlff_core.models.painn import PaiNN, PaiNNConfig
from mlff_core.models.readout_file import with_readout
from mlff_core.models.reference import find_model, name_or_path
from mlff_core.ops.program import AnalyticEngine

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
Backend = Literal["auto", "triton", "numba", "plain", "torch"]
Precision = Literal["auto", "float32", "fast", "float64"]

#: So few atoms on a CPU are one thread's work: to wake a second takes longer than it saves.
FEW_ATOMS = 24
#: How far forces of `fast` may be off float64's, eV/Å.
FAST_ERROR = 2e-3


class Engine(Protocol):
    """One way to compute energies and forces of a PaiNN; all of them mean the same."""

    def evaluate(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, ...]:
        """Energy in eV, float64 [n_mols], forces in eV/Å [n_atoms, 3], charges if there are any."""


class Potential:
    """A PaiNN on a device: energies and forces of a batch. A `ForceField`.

    Its weights do not change, so a deep copy is the same object. Pickled, a model that came from a
    file is a reference: name or path, sha256, device, backend and precision; it is loaded again,
    and the sha256 checked, where it is unpickled.

    A process that was forked cannot use it: start processes by "spawn" or "forkserver", or load it.

    Attributes:
        model: The network; its weights do not require gradients.
        name: Name of the checkpoint.
        card: The checkpoint's model card (JSON).
        sha256: Of the checkpoint's tensors file; empty for a model that was never saved.
        source: The checkpoint's tensors file; None for a model that was never saved.
        device: Where it computes.
        backend: What it computes with: "triton", "numba", or "plain", the operators of
            `ops.plain`, which are slower and in float64 the reference.
        precision: "float32", "fast", "float64"; or "auto", which is float32 and brings `coarse`
            along.
        coarse: The same in "fast", to walk to a minimum with, where the precision is "auto" and the
            backend triton.
        coarse_error: How far its forces may be off, eV/Å.
        why: Why this backend: that it was asked for, or what `auto` came to.
        dtype: Of the positions that it computes in.
        domain: Which molecules it knows. What a network was trained on its card says; one without
            a card is asked for elements and charges only.
        cutoff: Å.
        bytes_per_edge: Memory that a pair of atoms within the cutoff takes.
        bare_step: The step that a CUDA graph can hold, of the triton backend.
    """

    def __init__(
        self,
        model: PaiNN,
        *,
        name: str = "unsaved",
        card: dict[str, Any] | None = None,
        sha256: str = "",
        source: Path | None = None,
        device: Device | torch.device | str = "cpu",
        backend: Backend = "auto",
        precision: Precision = "float32",
        check: bool = True,
    ):
        """Put a model on a device, behind a backend.

        Args:
            model: The network; what follows is told above and in `load_potential`.
            name: Of the checkpoint.
            card: Of the checkpoint.
            sha256: Of its tensors file.
            source: Its tensors file.
            device: Where it computes; "auto" is CUDA where there is one.
            backend: What it computes with.
            precision: "auto", "float32", "fast" or "float64".
            check: Compare kernels with the plain operators on a small molecule first.

        Raises:
            DeviceError: The device or the backend is not available here.
            ValueError: An argument is not one of its choices.
        """
        self.device = choose_device(device)
        if precision not in ("auto", "float32", "fast", "float64"):
            raise ValueError(
                f"precision: expected auto, float32, fast or float64, found {precision!r}"
            )
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        # Never through float32, which would round the energy of a heavy atom by some meV.
        reference_energy = model.reference_energy.double()
        self.model = model.to(self.device, self.dtype).requires_grad_(False).eval()
        self.model.reference_energy = reference_energy.to(self.device)
        self.name, self.card, self.sha256, self.source = name, card or {}, sha256, source
        computed: Precision = "float32" if precision == "auto" else precision
        self.backend, self.engine, self.why = _make_engine(
            self.model, backend, computed, self.device, check
        )
        self.coarse: Potential | None = None
        self.coarse_error = FAST_ERROR
        if precision == "auto" and self.backend == "triton":
            self.coarse = Potential(
                self.model,
                name=name,
                card=card,
                device=self.device,
                backend="triton",
                precision="fast",
                # Who walks with it is judged by this one; what is not compiled costs no time.
                check=False,
            )
        self.precision = computed if self.coarse is None else precision
        config = self.config
        self.domain = Domain(
            config.elements, config.min_charge, config.max_charge, closed_shells=bool(self.card)
        )
        self.cutoff = config.cutoff
        self.bytes_per_edge = BYTES_PER_EDGE_AND_FEATURE[self.backend] * config.n_features
        self.bare_step: Callable[[MolBatch], Outputs] | None = None
        if self.backend == "triton":
            self.bare_step = self._bare_step
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"Potential({self.name}, {self.device}, {self.backend}, {self.precision})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Potential":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        how = {"device": str(self.device), "backend": self.backend, "precision": self.precision}
        if self.source is not None:
            more = how | {"charges": self.config.charges_after > 0}
            return _load_again, (name_or_path(self.source), self.sha256, more)
        # Never saved: there is no file to refer to, so the weights travel.
        weights = {name: tensor.cpu().numpy() for name, tensor in self.model.state_dict().items()}
        return _make_again, (self.config.to_dict(), weights, self.name, self.card, how)

    @property
    def device_name(self) -> str:
        """Type of the device, and which card it is."""
        if self.device.type != "cuda":
            return self.device.type
        return f"cuda: {torch.cuda.get_device_name(self.device)}"

    @property
    def tiles(self) -> str | None:
        """Where the sizes of the kernels' tiles come from; None without Triton."""
        return getattr(self.engine, "tiles", None)

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
        """Refuse what the model was not trained on; see `Domain.check`."""
        self.domain.check(batch, self.name)

    def evaluate(self, batch: MolBatch) -> Outputs:
        """The bare computation, unchecked; the batch is on this device.

        With the triton backend positions may be in float64: it rounds differences, not coordinates,
        and the energy of dynamics wanders less. The others round coordinates. With it, nothing
        waits for the device, so a CUDA graph can hold it.

        Raises:
            RuntimeError: This process was forked from the one that loaded the model.
            ValueError: On a CPU, an index of the batch points outside of it.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                f"model {self.name} was loaded before this process was forked, and what computes "
                "it stayed behind in the parent: start processes by 'spawn' or 'forkserver' "
                "(multiprocessing.get_context), or load the model in each"
            )
        if self.device.type == "cpu":
            batch.check_bounds()
        positions = batch.positions
        if self.backend != "triton":
            positions = positions.to(self.dtype)
        with _threads_for(batch.n_atoms, self.device):
            return Outputs(
                *self.engine.evaluate(
                    batch.numbers, positions, batch.mol_idx, batch.ptr, batch.charge
                )
            )

    def _bare_step(self, batch: MolBatch) -> Outputs:
        # A graph of the engine's own inside of another would help nobody, and what warms up for a
        # capture has to be exactly what is captured.
        return Outputs(
            *self.engine.step(  # type: ignore[attr-defined]
                batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge
            )
        )

    def __call__(self, batch: MolBatch) -> Outputs:
        """Energies and forces of a batch.

        A molecule with a coordinate that is not finite, or with two atoms in one place, gets NaN
        and leaves its neighbours in the batch alone.

        Raises:
            OutOfDomainError: The batch holds an element or a charge that the model does not know,
                or a molecule with an odd number of electrons.
            TypeError: It is no batch.
        """
        return evaluate_checked(self, batch)


@contextmanager
def _threads_for(n_atoms: int, device: torch.device) -> Iterator[None]:
    """As many threads inside as so many atoms keep busy."""
    n_threads = torch.get_num_threads()
    if device.type != "cpu" or n_atoms > FEW_ATOMS or n_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _load_again(source: str, sha256: str, how: dict[str, Any]) -> Potential:
    """The model that a pickle refers to.

    Raises:
        ModelFileError: It is not there any more, or another.
    """
    potential = load_potential(source, **how)
    if potential.sha256 != sha256:
        raise ModelFileError(
            f"{source}: not the model that was pickled: expected sha256 {sha256}, "
            f"found {potential.sha256}"
        )
    return potential


def _make_again(
    config: dict[str, Any],
    weights: dict[str, Any],
    name: str,
    card: dict[str, Any],
    how: dict[str, Any],
) -> Potential:
    """A model that was never saved, from its weights."""
    network = PaiNN(PaiNNConfig.from_dict(config)).double()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return Potential(network, name=name, card=card, **how)


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
    model: PaiNN, backend: Backend, precision: Precision, device: torch.device, check: bool
) -> tuple[str, Engine, str]:
    """The backend that is meant and can run here, its engine, and why it is this one."""
    if backend not in ("auto", "triton", "numba", "plain", "torch"):
        raise ValueError(f"backend: expected auto, triton, numba or plain, found {backend!r}")
    compiled = "numba" if device.type == "cpu" and precision != "float64" else "plain"
    wanted: str = backend
    why = f"{backend} was asked for"
    if backend == "torch":
        warnings.warn(
            f"backend 'torch' has its true name now: {compiled!r}; 'torch' will be refused in the "
            "next release",
            FutureWarning,
            stacklevel=3,
        )
        wanted = compiled
    elif backend == "auto":
        wanted = "triton" if device.type == "cuda" and precision != "float64" else compiled
        why = f"auto, on {device.type} in {precision}"
    elif backend == "numba":
        if device.type != "cpu":
            raise DeviceError(
                f"the numba backend computes on a CPU, not on {device}; use backend 'triton' or "
                "'auto'"
            )
        # Its tables of the filters are for float32; in float64 they would be what errs most.
        wanted = compiled
    if wanted == "triton":
        # Triton is an extra: importing it must not be the price of the other backends.
        try:
            from mlff_core.ops.triton.engine import TritonEngine

            engine = TritonEngine(model, precision, check=check)
        except Exception as error:
            if backend == "triton":
                raise DeviceError(f"the triton backend cannot run here: {error}") from error
            wanted, why = "plain", f"auto, triton cannot run here: {' '.join(str(error).split())}"
            log.warning("falling back to the plain backend: %s", why)
        else:
            log.info("backend: triton (%s, %s)", device, precision)
            return "triton", engine, why
    log.info("backend: %s (%s, %s)", wanted, device, precision)
    if wanted == "plain":
        return "plain", AnalyticEngine(model), why
    # To import these loads what Numba has compiled, which the other backends need not wait for.
    from mlff_core.ops.numba.atoms import ATOM_OPS
    from mlff_core.ops.numba.charges import CHARGE_OPS
    from mlff_core.ops.numba.message import MessageOps

    edge_ops = MessageOps(model.config.cutoff).edge_ops
    return "numba", AnalyticEngine(model, edge_ops, ATOM_OPS, CHARGE_OPS), why


def load_potential(
    model: str | Path = "default",
    *,
    device: Device | torch.device | str = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    charges: bool = False,
) -> Potential:
    """Load a checkpoint.

    Args:
        model: "default"; "small", in less than half of the time; or the path of a .safetensors
            file with its .json beside it.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        backend: "auto" (triton on CUDA, numba on a CPU, plain in float64), "triton", "numba", which
            is plain in float64, or "plain". "torch", as "numba" was called, still does, with a
            warning.
        precision: "auto", which is float32, and with the triton backend lets relaxations walk in
            "fast"; "float32"; "fast", which lowers the precision of products where that helps on
            the triton backend; "float64", the reference.
        charges: Whether what reads partial charges is taken from beside the model, too.

    Raises:
        ModelFileError: The checkpoint is missing or damaged, or has no charges to read.
        DeviceError: The device or the backend is not available here.
        TypeError: `model` is neither a name nor a path.
    """
    if not isinstance(model, (str, Path)):
        raise TypeError(f"model: expected a name or a path, found {type(model).__name__}")
    tensors_file = find_model(model)
    network, card, sha256 = read_checkpoint(tensors_file)
    if charges:
        network = with_readout(network, tensors_file, sha256)
    return Potential(
        network,
        name=card.get("name", tensors_file.stem),
        card=card,
        sha256=sha256,
        source=tensors_file,
        device=device,
        backend=backend,
        precision=precision,
    )
