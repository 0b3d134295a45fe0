"""One leg of training: embedding, sampling, labelling and training side by side, for a given time.

The GPU is shared between making labels and learning from them in a fixed proportion of its time;
embedding runs in processes beside it. A leg may be cut off at any moment: the averaged weights are
written every so often, and the next leg starts from whatever is there.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlff_core.distill.embedding import Embedder
from mlff_core.distill.labelling import Buckets, LabelConfig, fill, pad
from mlff_core.distill.pool import LabelPool
from mlff_core.distill.sampling import KINDS, Driver, SamplingConfig
from mlff_core.distill.teacher import LabelsMolecules
from mlff_core.distill.training import (
    Trainer,
    TrainingConfig,
    fit_reference_energy,
    padded_energy_and_forces,
)
from mlff_core.painn import PaiNN, PaiNNConfig
from mlff_core.potential import read_checkpoint, save_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LegConfig:
    """How a leg is run.

    Attributes:
        seconds: How long training lasts, the first labels included.
        n_conformers: Conformers of a molecule.
        n_processes: Processes that embed.
        embed_timeout_s: Longest embedding of a molecule.
        capacity: Molecules that the pool holds.
        first_molecules: Molecules in the pool before training starts.
        label_share: Share of the device's time spent on making labels.
        student_drives_after: Steps after which the student drives the sampling; until then a
            member of the teacher does.
        checkpoint_s: Time between checkpoints.
        n_legs: How many legs the molecules are divided among.
        seed: Of everything random.
    """

    seconds: float = 400.0
    n_conformers: int = 2
    n_processes: int = 15
    embed_timeout_s: int = 10
    capacity: int = 400_000
    first_molecules: int = 2000
    label_share: float = 0.35
    student_drives_after: int = 3000
    checkpoint_s: float = 30.0
    n_legs: int = 1
    seed: int = 1


@dataclass(frozen=True)
class LegResult:
    """What a leg did.

    Attributes:
        student: The averaged weights.
        report: Counts, times, throughput, and the learning curve.
    """

    student: PaiNN
    report: dict[str, Any]


def new_student(config: PaiNNConfig, seed: int) -> PaiNN:
    """A network with random weights."""
    torch.manual_seed(seed)
    return PaiNN(config)


def run_leg(
    smiles: Sequence[str],
    teacher: LabelsMolecules,
    start: Path | PaiNNConfig,
    checkpoint: Path,
    *,
    leg: LegConfig,
    sampling: SamplingConfig,
    labels: LabelConfig,
    training: TrainingConfig,
    card: dict[str, Any],
    validate: Callable[[PaiNN], dict[str, float]] | None = None,
) -> LegResult:
    """Train for a given time and write the averaged weights.

    Args:
        smiles: Molecules, in the order in which they are used.
        teacher: On the device where everything runs.
        start: A checkpoint to go on from, or the shape of a new student.
        checkpoint: Where the weights go (.safetensors, with a .json beside).
        leg: Length and proportions.
        sampling: How geometries are made.
        labels: Which labels count.
        training: Losses and schedule.
        card: What the checkpoint's JSON says besides.
        validate: Called with the averaged student now and then; what it returns is logged.
    """
    began = time.monotonic()
    device = teacher.device
    torch.manual_seed(leg.seed)
    embedder = Embedder(
        smiles,
        n_conformers=leg.n_conformers,
        seed=leg.seed,
        n_processes=leg.n_processes,
        timeout_s=leg.embed_timeout_s,
    )
    try:
        return _run(
            embedder, teacher, start, checkpoint, leg, sampling, labels, training, card, validate,
            began, device,
        )  # fmt: skip
    finally:
        embedder.close()


def _run(
    embedder: Embedder,
    teacher: LabelsMolecules,
    start: Path | PaiNNConfig,
    checkpoint: Path,
    leg: LegConfig,
    sampling: SamplingConfig,
    labels: LabelConfig,
    training: TrainingConfig,
    card: dict[str, Any],
    validate: Callable[[PaiNN], dict[str, float]] | None,
    began: float,
    device: torch.device,
) -> LegResult:
    is_new = isinstance(start, PaiNNConfig)
    if isinstance(start, PaiNNConfig):
        student = new_student(start, leg.seed)
    else:
        student = read_checkpoint(start)[0]
    widest = max(Buckets(labels.atoms_a_call, 1).sizes)
    pool = LabelPool(leg.capacity, len(KINDS) * leg.n_conformers, widest, device)
    trainer = Trainer(student, pool, training)
    buckets = Buckets(labels.atoms_a_call, leg.n_conformers)
    counts: Counter[str] = Counter()
    spent = {"labels": 0.0, "training": 0.0, "waiting": 0.0}
    first_energies: list[tuple[Tensor, Tensor]] = []

    def teacher_drives(numbers: Tensor, x: Tensor, charge: Tensor) -> Tensor:
        return teacher.member(0, numbers, x, charge).forces

    def student_drives(numbers: Tensor, x: Tensor, charge: Tensor) -> Tensor:
        torch.set_float32_matmul_precision("high")
        forces = padded_energy_and_forces(trainer.averaged, numbers, x, charge)[1]
        torch.set_float32_matmul_precision("highest")
        # Where the student errs wildly, molecules must not fly apart.
        return forces.nan_to_num().clamp(-30.0, 30.0)

    def make_labels(*, wait: bool) -> bool:
        buckets.add(embedder.take())
        taken = buckets.take()
        if taken is None and wait:
            since = time.monotonic()
            buckets.add(embedder.take(wait_s=1.0))
            taken = buckets.take(partial=not embedder.running)
            spent["waiting"] += time.monotonic() - since
        if taken is None:
            return False
        since = time.monotonic()
        width, molecules = taken
        ready = not is_new or trainer.step_count >= leg.student_drives_after
        driver: Driver = student_drives if ready else teacher_drives
        padded = pad(molecules, width, device)
        energy = fill(pool, teacher, driver, padded, sampling, labels, counts)
        if trainer.step_count == 0:
            first_energies.append((padded.numbers.cpu(), energy.cpu()))
        _synchronize(device)
        spent["labels"] += time.monotonic() - since
        return True

    while pool.n_stored < leg.first_molecules and (
        embedder.running or any(buckets.waiting.values())
    ):
        make_labels(wait=True)
    if pool.n_stored == 0:
        raise ValueError(f"no molecule could be labelled: {dict(embedder.failed)}, {dict(counts)}")
    if is_new:
        _fit_reference(trainer, first_energies)
    if not training.n_atoms:
        sized = trainer.size_batches()
        log.info("batches of %d atoms, %d pairs", sized.n_atoms, sized.n_edges)
    log.info("first %d molecules after %.1f s", pool.n_stored, time.monotonic() - began)
    if device.type == "cuda":
        since = time.monotonic()
        trainer.capture()
        _synchronize(device)
        log.info("captured the step in %.1f s", time.monotonic() - since)
    training_began = time.monotonic()
    saved = logged = training_began
    curve: list[dict[str, float]] = []
    while (elapsed := time.monotonic() - began) < leg.seconds:
        now = time.monotonic()
        busy = now - training_began
        behind = spent["labels"] < leg.label_share * (spent["labels"] + spent["training"])
        if not (behind and embedder.running and make_labels(wait=False)):
            since = time.monotonic()
            progress = (now - training_began) / max(1e-9, leg.seconds - (training_began - began))
            for _ in range(50 if device.type == "cuda" else 1):
                trainer.step(progress)
            _synchronize(device)
            spent["training"] += time.monotonic() - since
        if now - logged > 10.0:
            logged = now
            point = {
                "seconds": elapsed,
                "steps": float(trainer.step_count),
                "samples": float(trainer.step_count * training.n_mols),
                "samples_a_second_of_training": trainer.step_count
                * training.n_mols
                / max(1e-9, spent["training"]),
                "molecules": float(pool.n_stored),
                "embedded": float(embedder.n_embedded),
                **trainer.metrics.read(),
                **(validate(trainer.averaged) if validate else {}),
            }
            curve.append(point)
            log.info("%s", " ".join(f"{k}={v:.4g}" for k, v in point.items()) + f" busy={busy:.0f}")
        if now - saved > leg.checkpoint_s:
            saved = now
            save_checkpoint(trainer.averaged, checkpoint, card)
    report = {
        "seconds": time.monotonic() - began,
        "seconds_spent": spent,
        "steps": trainer.step_count,
        "samples": trainer.step_count * training.n_mols,
        "molecules_embedded": embedder.n_embedded,
        "embedding_failed": dict(embedder.failed),
        "too_large": buckets.too_large,
        "labelling": dict(counts),
        "molecules_in_pool": int(pool.n_filled),
        "steps_skipped": int(trainer.skipped),
        "samples_left_out": int(trainer.left_out),
        "n_atoms": trainer.config.n_atoms,
        "n_edges": trainer.config.n_edges,
        "curve": curve,
        "configs": {
            "leg": asdict(leg),
            "sampling": asdict(sampling),
            "labels": asdict(labels),
            "training": asdict(training),
        },
    }
    save_checkpoint(trainer.averaged, checkpoint, card | {"last_leg": report})
    return LegResult(trainer.averaged, report)


def _fit_reference(trainer: Trainer, energies: list[tuple[Tensor, Tensor]]) -> None:
    width = max(numbers.shape[1] for numbers, _ in energies)
    numbers = torch.cat([torch.nn.functional.pad(z, (0, width - z.shape[1])) for z, _ in energies])
    mean = torch.cat([energy.nanmean(1) for _, energy in energies])
    known = mean.isfinite()
    elements = trainer.student.config.elements
    reference = fit_reference_energy(numbers[known], mean[known], elements)
    for network in (trainer.student, trainer.averaged):
        network.reference_energy.copy_(reference)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
