"""A training stage on one device, or in a process on each of several GPUs."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mlff_core.distill.embedding import Embedder
from mlff_core.distill.kinds import KindConfig
from mlff_core.distill.labelling import LabelConfig
from mlff_core.distill.lines import Lines
from mlff_core.distill.ranks import Ranks, launch
from mlff_core.distill.sampling import SamplingConfig
from mlff_core.distill.stage import Stage, StageConfig, StageResult
from mlff_core.distill.teacher import LabelsMolecules
from mlff_core.distill.training_config import TrainingConfig
from mlff_core.models.painn import PaiNN, PaiNNConfig


def run_stage(
    smiles: Sequence[str],
    teacher: LabelsMolecules,
    start: Path | PaiNNConfig,
    checkpoint: Path,
    *,
    stage: StageConfig,
    sampling: SamplingConfig,
    labels: LabelConfig,
    training: TrainingConfig,
    card: dict[str, Any],
    validate: Callable[[PaiNN], dict[str, float]] | None = None,
    ranks: Ranks | None = None,
    kinds: Sequence[KindConfig] = (),
    kind_of: Sequence[str] = (),
) -> StageResult:
    """Train for a given time and write the averaged weights.

    Args:
        smiles: Molecules, in the order in which they are used.
        teacher: On the device where everything runs.
        start: A checkpoint to go on from, or the shape of a new student.
        checkpoint: Where the weights go (.safetensors, with a .json beside).
        stage: Length and proportions.
        sampling: How geometries are made.
        labels: Which labels count.
        training: Losses and schedule.
        card: What the checkpoint's JSON says besides.
        validate: Called with the averaged student now and then; what it returns is logged.
        ranks: Which of several processes this is. Each takes its share of the molecules, and the
            first writes the files.
        kinds: Of which kinds of molecules the geometries are made otherwise, and how.
        kind_of: Kind of each molecule; may be empty if there are no such kinds.

    Raises:
        ModelFileError: There are no such weights as shall drive the sampling.
        ValueError: Not one molecule could be labelled; or the weights that shall drive the sampling
            do not know an element or a charge of the student's.
    """
    ranks = ranks or Ranks()
    embedder = Embedder(
        smiles[ranks.rank :: ranks.size],
        n_conformers=stage.n_conformers,
        seed=stage.seed + 1_000_003 * ranks.rank,
        n_processes=stage.n_processes,
        timeout_s=stage.embed_timeout_s,
    )
    try:
        lines = Lines(
            kinds,
            kind_of[ranks.rank :: ranks.size],
            driver=stage.driver,
            sampling=sampling,
            labels=labels,
            n_conformers=stage.n_conformers,
        )
        return Stage(embedder, teacher, start, stage, lines, labels, training, ranks).run(
            checkpoint, card, validate
        )
    finally:
        embedder.close()


def run_stage_on_gpus(
    n_gpus: int,
    smiles: Sequence[str],
    open_teacher: Callable[[torch.device], LabelsMolecules],
    start: Path | PaiNNConfig,
    checkpoint: Path,
    *,
    stage: StageConfig,
    sampling: SamplingConfig,
    labels: LabelConfig,
    training: TrainingConfig,
    card: dict[str, Any],
    validate: Callable[[PaiNN], dict[str, float]] | None = None,
    kinds: Sequence[KindConfig] = (),
    kind_of: Sequence[str] = (),
) -> None:
    """`run_stage` in a process on each of several GPUs; the checkpoint is what comes out.

    Args:
        n_gpus: How many.
        smiles: As for `run_stage`, and so are all that are not named here.
        open_teacher: Gives the teacher on a device; it and `validate` are sent to other processes.
        start: See `run_stage`.
        checkpoint: See `run_stage`.
        stage: See `run_stage`.
        sampling: See `run_stage`.
        labels: See `run_stage`.
        training: See `run_stage`.
        card: See `run_stage`.
        validate: See `run_stage`.
        kinds: See `run_stage`.
        kind_of: See `run_stage`.
    """
    options = {
        "stage": stage, "sampling": sampling, "labels": labels, "training": training, "card": card,
        "validate": validate, "kinds": kinds, "kind_of": list(kind_of),
    }  # fmt: skip
    arguments = (list(smiles), open_teacher, start, checkpoint, options)
    launch(n_gpus, _run_on_gpu, *arguments, cuda=True)


def _run_on_gpu(
    ranks: Ranks,
    smiles: list[str],
    open_teacher: Callable[[torch.device], LabelsMolecules],
    start: Path | PaiNNConfig,
    checkpoint: Path,
    options: dict[str, Any],
) -> None:
    if ranks.rank == 0:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    teacher = open_teacher(torch.device("cuda", ranks.rank))
    run_stage(smiles, teacher, start, checkpoint, ranks=ranks, **options)
