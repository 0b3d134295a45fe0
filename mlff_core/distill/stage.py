"""A training stage: embedding, sampling, labelling and training side by side, for a given time.

The GPU is shared between making labels and learning from them in a fixed proportion of its time;
embedding runs in processes beside it. With several GPUs each has a process that embeds, labels and
draws batches by itself; all take every step together. A stage may be cut off at any moment: the
averaged weights are written every so often, and the next stage starts from whatever is there.
"""

import copy
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlff_core.distill.embedding import Embedder
from mlff_core.distill.evaluation import driver_of, on_padded
from mlff_core.distill.kinds import TEACHER
from mlff_core.distill.labelling import Buckets, LabelConfig, fill, pad
from mlff_core.distill.lines import Line, Lines
from mlff_core.distill.pool import LabelPool
from mlff_core.distill.ranks import Ranks
from mlff_core.distill.reference_energy import fit_reference_energy
from mlff_core.distill.sampling import KINDS, Driver
from mlff_core.distill.second_teacher import SecondTeacher
from mlff_core.distill.teacher import LabelsMolecules
from mlff_core.distill.training import Trainer
from mlff_core.distill.training_config import TrainingConfig
from mlff_core.models.checkpoint import read_checkpoint, save_checkpoint
from mlff_core.models.painn import PaiNN, PaiNNConfig
from mlff_core.models.potential import Potential, load_potential

log = logging.getLogger(__name__)

#: Steps after which the student that drives the sampling is replaced by what it has become: each
#: time an engine is set up and its graphs are recorded anew.
DRIVER_STEPS = 3000
#: Atoms of a molecule, hydrogens counted, that `StageConfig.small_repeats` is about.
SMALL = 10


@dataclass(frozen=True)
class StageConfig:
    """How a stage is run.

    Attributes:
        seconds: How long training lasts, the first labels included.
        n_conformers: Conformers of a molecule.
        n_processes: Processes that embed, for each device.
        embed_timeout_s: Longest embedding of a molecule.
        capacity: Molecules that the pool of a device holds.
        first_molecules: Molecules in it before training starts.
        label_share: Share of the device's time spent on making labels, at the least.
        max_repeats: How often a label is learnt from, on average, before more are made, whatever
            their share of the time.
        driver: Weights that drive the sampling, a shipped model's name or a file: a smaller network
            takes less time for it. Empty for the student as it becomes.
        second_teacher: Weights of a student that went before, a shipped model's name or a file,
            whose labels of molecules without charged groups are mixed with the teacher's
            (`second_teacher.SecondTeacher`); empty for none.
        second_share: Their share in a label.
        student_drives_after: Without such weights, steps after which a new student drives the
            sampling; until then a member of the teacher does.
        checkpoint_s: Time between checkpoints.
        validate_s: Time between validations; each holds up all devices, for some 9 s on one H100.
        n_stages: How many stages the molecules are divided among.
        small_repeats: How often each molecule of at most `SMALL` atoms comes: there are few.
        averaged_stages: Of how many of the last stages the weights are averaged in the end.
        seed: Of everything random.
    """

    seconds: float = 400.0
    n_conformers: int = 2
    n_processes: int = 15
    embed_timeout_s: int = 10
    capacity: int = 400_000
    first_molecules: int = 2000
    label_share: float = 0.35
    max_repeats: float = 12.0
    driver: str = ""
    second_teacher: str = ""
    second_share: float = 0.5
    student_drives_after: int = 3000
    checkpoint_s: float = 30.0
    validate_s: float = 60.0
    n_stages: int = 1
    small_repeats: int = 1
    averaged_stages: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        if self.averaged_stages < 1:
            raise ValueError(f"averaged_stages: expected at least 1, found {self.averaged_stages}")


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

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


class Stage:
    """A stage under way, in one process."""

    def __init__(
        self,
        embedder: Embedder,
        teacher: LabelsMolecules,
        start: Path | PaiNNConfig,
        stage: StageConfig,
        lines: Lines,
        labels: LabelConfig,
        training: TrainingConfig,
        ranks: Ranks,
    ):
        self.began = time.monotonic()
        self.embedder, self.device = embedder, teacher.device
        self.teacher: LabelsMolecules = teacher
        self.second: SecondTeacher | None = None
        if stage.second_teacher:
            former = load_potential(stage.second_teacher, device=self.device)
            self.second = SecondTeacher(on_padded(former), stage.second_share)
        self.stage, self.lines, self.labels, self.ranks = stage, lines, labels, ranks
        self.is_new = isinstance(start, PaiNNConfig)
        if isinstance(start, PaiNNConfig):
            student = new_student(start, stage.seed)
        else:
            student = read_checkpoint(start)[0]
        # The same weights everywhere, but geometries and batches of each one's own.
        torch.manual_seed(stage.seed + 1_000_003 * ranks.rank)
        widest = max(Buckets(labels.atoms_a_call, 1).sizes)
        # The same everywhere, since nobody trains before the last has its labels.
        self.depths = random.Random(stage.seed)
        self.pool = LabelPool(
            stage.capacity,
            len(KINDS) * stage.n_conformers,
            widest,
            self.device,
            with_charges=student.config.charges_after > 0,
        )
        self.trainer = Trainer(student, self.pool, training, ranks)
        self.counts: Counter[str] = Counter()
        self.spent = {"labels": 0.0, "training": 0.0, "waiting": 0.0}
        self.first_energies: list[tuple[Tensor, Tensor]] = []
        self.curve: list[dict[str, float]] = []
        self.guides = {name: self.open_guide(name) for name in lines.weights}
        self.driver: Driver | None = None
        self.driver_step = 0  # of the student that drives

    def run(
        self,
        checkpoint: Path,
        card: dict[str, Any],
        validate: Callable[[PaiNN], dict[str, float]] | None,
    ) -> StageResult:
        """All of it, from the first labels to the checkpoint."""
        stage, trainer, spent, first = self.stage, self.trainer, self.spent, self.ranks.rank == 0
        self.prepare()
        elapsed = self.ranks.agree(time.monotonic() - self.began)[0]
        training_began = saved = logged = elapsed
        while elapsed < stage.seconds or not trainer.step_count:
            progress = (elapsed - training_began) / max(1e-9, stage.seconds - training_began)
            behind = self.labels_are_due()
            # One clock decides for all: who trains alone waits for the others' gradients for ever,
            # and who labels alone lets the others wait.
            elapsed, progress, due = self.ranks.agree(
                time.monotonic() - self.began, progress, float(behind)
            )
            self.lines.add(self.embedder.take())
            if due:
                self.make_next_labels()
            since = time.monotonic()
            for _ in range(50 if self.device.type == "cuda" else 1):
                trainer.step(progress)
            _synchronize(self.device)
            spent["training"] += time.monotonic() - since
            if first and elapsed - logged > 10.0:
                logged = elapsed
                self.log(elapsed, validate(trainer.averaged) if validate else {})
            if first and elapsed - saved > stage.checkpoint_s:
                saved = elapsed
                save_checkpoint(trainer.averaged, checkpoint, card)
        report = self.report()
        if first:
            save_checkpoint(trainer.averaged, checkpoint, card | {"last_stage": report})
        return StageResult(trainer.averaged, report)

    def labels_are_due(self) -> bool:
        """Whether labels had less than their share of the time, or have been seen too often."""
        spent, stage = self.spent, self.stage
        drawn = self.trainer.step_count * self.trainer.config.n_mols
        return (
            spent["labels"] < stage.label_share * (spent["labels"] + spent["training"])
            or drawn > stage.max_repeats * self.counts["labels"]
        )

    def prepare(self) -> None:
        """The first labels, and what follows from them: energies of atoms, sizes of batches."""
        stage, trainer = self.stage, self.trainer
        while self.pool.n_stored < stage.first_molecules and (
            self.embedder.running or not self.lines.empty
        ):
            since = time.monotonic()
            self.lines.add(self.embedder.take(wait_s=0.0 if self.lines.full else 1.0))
            self.spent["waiting"] += time.monotonic() - since
            # The sizes of batches come from these: kinds of small molecules must not go before.
            self.make_labels(self.lines.longest, partial=not self.embedder.running)
        if not all(self.ranks.gather(self.pool.n_stored)):
            raise ValueError(
                f"no molecule could be labelled: {dict(self.embedder.failed)}, {dict(self.counts)}"
            )
        if self.is_new:
            self.fit_reference()
        if not trainer.config.n_atoms:
            sized = trainer.size_batches()
            log.info("batches of %d atoms, %d pairs", sized.n_atoms, sized.n_edges)
        elapsed = time.monotonic() - self.began
        log.info("first %d molecules after %.1f s", self.pool.n_stored, elapsed)
        if self.device.type == "cuda":
            since = time.monotonic()
            trainer.capture()
            _synchronize(self.device)
            log.info("captured the step in %.1f s", time.monotonic() - since)

    def fit_reference(self) -> None:
        """Energies of single atoms, from the first labels of the first process."""
        width = max(numbers.shape[1] for numbers, _ in self.first_energies)
        numbers = torch.cat(
            [torch.nn.functional.pad(z, (0, width - z.shape[1])) for z, _ in self.first_energies]
        )
        mean = torch.cat([energy.nanmean(1) for _, energy in self.first_energies])
        known = mean.isfinite()
        elements = self.trainer.student.config.elements
        reference = fit_reference_energy(numbers[known], mean[known], elements)
        self.ranks.agree_(reference)
        for network in (self.trainer.student, self.trainer.averaged):
            network.reference_energy.copy_(reference)

    def make_next_labels(self) -> None:
        """Label molecules of the first line that fills a call in every process.

        At the end of the list what waits in any line is labelled, too, if there are several: there
        may be whole kinds in it.
        """
        lines, ranks = self.lines.all, self.ranks
        # The same line in all: a call of another kind may take many times as long.
        line = next((line for line in lines if ranks.all(line.buckets.full)), None)
        ended = line is None and len(lines) > 1 and ranks.all(not self.embedder.running)
        if ended:
            line = next((line for line in lines if not ranks.all(not line.n_waiting)), None)
        if line is not None:
            self.make_labels(line, partial=ended)

    def make_labels(self, line: Line, *, partial: bool = False) -> None:
        """Label one call's worth of a line's molecules, or fewer if `partial`, if there are any."""
        taken = line.buckets.take(partial=partial)
        if taken is None:
            return
        since = time.monotonic()
        width, molecules = taken
        padded = pad(molecules, width, self.device)
        energy = fill(
            self.pool,
            self.teacher,
            self.who_drives(line.driver),
            padded,
            line.sampling.drawn(self.depths),
            self.labels,
            self.counts,
            self.second,
        )
        if self.trainer.step_count == 0:
            self.first_energies.append((padded.numbers.cpu(), energy.cpu()))
        _synchronize(self.device)
        self.spent["labels"] += time.monotonic() - since

    def open_guide(self, name: str) -> Driver:
        """Forces of weights that the recipe names."""
        potential = load_potential(name, device=self.device)
        knows, shall = potential.config, self.trainer.student.config
        unknown = sorted(set(shall.elements) - set(knows.elements))
        if unknown:
            raise ValueError(f"driver: {name} does not know the elements {unknown}")
        if knows.min_charge > shall.min_charge or knows.max_charge < shall.max_charge:
            raise ValueError(
                f"driver: {name} knows charges from {knows.min_charge:+d} to "
                f"{knows.max_charge:+d}, the student shall from {shall.min_charge:+d} to "
                f"{shall.max_charge:+d}"
            )
        return driver_of(potential)

    def who_drives(self, name: str) -> Driver:
        """What makes the next geometries of a line, by what it calls its driver."""
        if name in self.guides:
            return self.guides[name]
        if name == TEACHER:
            return self.teacher_drives
        ready = not self.is_new or self.trainer.step_count >= self.stage.student_drives_after
        return self.student_drives() if ready else self.teacher_drives

    def teacher_drives(self, numbers: Tensor, x: Tensor, charge: Tensor) -> Tensor:
        """Forces of one member of the teacher."""
        return self.teacher.member(0, numbers, x, charge).forces

    def student_drives(self) -> Driver:
        """Forces of the averaged student as it was not long ago, at the speed of a screen."""
        age = self.trainer.step_count - self.driver_step
        if self.driver is not None and age < DRIVER_STEPS:
            return self.driver
        potential = Potential(
            copy.deepcopy(self.trainer.averaged), device=self.device, backend="auto"
        )
        self.driver, self.driver_step = driver_of(potential), self.trainer.step_count
        return self.driver

    def log(self, elapsed: float, validated: dict[str, float]) -> None:
        """A point of the learning curve."""
        trainer, size = self.trainer, self.ranks.size
        samples = trainer.step_count * trainer.config.n_mols * size
        point = {
            "seconds": elapsed,
            "steps": float(trainer.step_count),
            "samples": float(samples),
            "samples_a_second_of_training": samples / max(1e-9, self.spent["training"]),
            "molecules": float(self.pool.n_stored * size),
            "embedded": float(self.embedder.n_embedded * size),
            **trainer.metrics.read(),
            **validated,
        }
        self.curve.append(point)
        log.info("%s", " ".join(f"{k}={v:.4g}" for k, v in point.items()))

    def report(self) -> dict[str, Any]:
        """Counts of all processes; times and the curve of the first."""
        trainer, embedder = self.trainer, self.embedder

        def total(counts: dict[str, int]) -> dict[str, int]:
            sums: Counter[str] = Counter()
            for part in self.ranks.gather(counts):
                sums.update(part)
            return dict(sums)

        counted = total(
            {
                "molecules_embedded": embedder.n_embedded,
                "too_large": self.lines.too_large,
                "molecules_in_pool": int(self.pool.n_filled),
                "samples_left_out": int(trainer.left_out),
            }
        )
        by_kind = {"molecules_by_kind": total(self.lines.counts)} if self.lines.kinds else {}
        return {
            "seconds": time.monotonic() - self.began,
            "seconds_spent": self.spent,
            "n_devices": self.ranks.size,
            "steps": trainer.step_count,
            "steps_skipped": int(trainer.skipped),
            "start_left_in_mean": trainer.start_left,
            "samples": trainer.step_count * trainer.config.n_mols * self.ranks.size,
            **counted,
            **by_kind,
            "embedding_failed": total(embedder.failed),
            "labelling": total(self.counts),
            "n_atoms": trainer.config.n_atoms,
            "n_edges": trainer.config.n_edges,
            "curve": self.curve,
            "configs": {
                "stage": asdict(self.stage),
                "sampling": asdict(self.lines.all[-1].sampling),
                "labels": asdict(self.labels),
                "training": asdict(trainer.config),
                **({"kinds": [asdict(kind) for kind in self.lines.kinds]} if by_kind else {}),
            },
        }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
