"""The steps of a distillation, each from files to a file, each finished once its file is there.

    choose     the SMILES table -> molecules.parquet: which molecules, and which are held out
    make_test  held-out molecules -> test.npz: geometries sampled and labelled by the teacher
    train_stage  molecules -> stage-001.safetensors …: sampling, labelling and training side by side
    average    the last stages -> mean-….safetensors: the mean of their weights
    evaluate   that mean -> metrics-….json: the student against the test
    package    the mean and its metrics -> NAME.safetensors and NAME.json, as they are shipped

A file appears under its final name only when it is whole, so a run that was cut off goes on with
the step that it was in. Within a stage the weights are written every so often; a stage that was cut
off leaves them, and is run again from there.
"""

import copy
import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from mlff_core.distill import evaluation, training_log
from mlff_core.distill.averaging import mean_of
from mlff_core.distill.devices import run_stage, run_stage_on_gpus
from mlff_core.distill.embedding import Embedded, Embedder
from mlff_core.distill.evaluation import Evaluate, TestBlock
from mlff_core.distill.growth import grown
from mlff_core.distill.molecules import choose_molecules
from mlff_core.distill.recipe import Recipe
from mlff_core.distill.stage import SMALL
from mlff_core.distill.table import read_table
from mlff_core.distill.teacher import LabelsMolecules
from mlff_core.distill.training_log import read_training_log, write_training_log
from mlff_core.errors import ModelFileError, OutputError
from mlff_core.models.checkpoint import read_checkpoint, save_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.potential import Potential, load_potential
from mlff_core.store import whole_file, write_whole

log = logging.getLogger(__name__)

#: Gives the teacher on a device; sent to other processes where there are several GPUs.
OpenTeacher = Callable[[torch.device], LabelsMolecules]


def claim(folder: Path, recipe: Recipe) -> Path:
    """Make a folder a recipe's, or find that it is; returns the copy of the recipe in it.

    Raises:
        OutputError: The folder holds the results of another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, text = folder / "recipe.json", json.dumps(recipe.to_dict(), indent=1) + "\n"
    if file.exists() and file.read_text() != text:
        raise OutputError(f"{folder} holds the results of another recipe; choose another folder")
    write_whole(file, text.encode())
    return file


def choose(table: str, recipe: Recipe, folder: Path, *, n_processes: int) -> Path:
    """Write which molecules are used; the file's metadata says how many were left out, and why."""
    file = folder / "molecules.parquet"
    if file.exists():
        return file
    smiles, kinds, sha256 = read_table(table, recipe)
    chosen, left_out = choose_molecules(
        smiles, recipe.molecules, n_processes=n_processes, kinds=kinds
    )
    if not any(choice.held_out for choice in chosen) or all(choice.held_out for choice in chosen):
        raise ValueError(
            f"{table}: expected molecules on both sides of the split, found {len(chosen)} in all, "
            f"{sum(choice.held_out for choice in chosen)} of them held out; left out: "
            f"{dict(left_out)}"
        )
    log.info("chose %d molecules; left out: %s", len(chosen), dict(left_out))
    columns = pa.Table.from_pylist([dataclasses.asdict(choice) for choice in chosen])
    about = {"table_sha256": sha256, "left_out": json.dumps(left_out)}
    with whole_file(file) as stream:
        pq.write_table(columns.replace_schema_metadata(about), stream, compression="zstd")
    return file


def make_test(molecules: Path, open_teacher: OpenTeacher, device: str, recipe: Recipe) -> Path:
    """Write labelled geometries of held-out molecules, some of them charged on purpose."""
    file = molecules.with_name("test.npz")
    if file.exists():
        return file
    test = recipe.test
    held_out = pq.read_table(molecules).filter(pc.field("held_out"))
    smiles, charges = held_out["smiles"].to_pylist(), held_out["charge"].to_pylist()
    chosen = smiles[: test.n_molecules]
    charged = [s for s, q in zip(smiles, charges, strict=True) if q][: test.n_charged]
    chosen += sorted(set(charged) - set(chosen))
    embedded, counts = embed_all(chosen, test.n_conformers, test.seed, recipe.stage.n_processes)
    if not embedded:
        raise ValueError(f"not one held-out molecule could be embedded: {dict(counts)}")
    blocks = evaluation.make_test_blocks(
        open_teacher(torch.device(device)),
        embedded,
        recipe.sampling,
        recipe.labels,
        counts,
        seed=test.seed,
    )
    log.info("test: %d molecules, %s", len(embedded), dict(counts))
    write_test(file, blocks, counts)
    return file


def write_test(file: Path, blocks: list[TestBlock], counts: Counter[str]) -> None:
    """Write labelled geometries, and what was counted on the way, for `read_test`."""
    arrays: dict[str, np.ndarray] = {"counts": np.array(json.dumps(counts))}
    for k, block in enumerate(blocks):
        for field in dataclasses.fields(block):
            arrays[f"{k}/{field.name}"] = getattr(block, field.name).cpu().numpy()
    with whole_file(file) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_test(file: Path, device: torch.device | str) -> tuple[list[TestBlock], dict[str, int]]:
    """The labelled geometries that `write_test` wrote, on a device, and what was counted."""
    names = [field.name for field in dataclasses.fields(TestBlock)]
    with np.load(file, allow_pickle=False) as stored:
        n_blocks = len({name.split("/")[0] for name in stored.files if "/" in name})
        blocks = [
            TestBlock(**{n: torch.from_numpy(stored[f"{k}/{n}"]).to(device) for n in names})
            for k in range(n_blocks)
        ]
        return blocks, json.loads(str(stored["counts"]))


class Validation:
    """Errors of a student in training on a part of the test, for the learning curve."""

    def __init__(self, test: Path, *, n_molecules: int = 500, every_s: float = 60.0):
        """Remember where the test is; whoever validates reads it, maybe in another process.

        Args:
            test: What `make_test` wrote.
            n_molecules: Molecules of the part, at most.
            every_s: Calls in between give nothing.
        """
        self.test, self.n_molecules, self.every_s = test, n_molecules, every_s
        self.last = -float("inf")
        self.blocks: list[TestBlock] = []

    def __call__(self, student: PaiNN) -> dict[str, float]:
        """Headline errors, or nothing if it is too early."""
        if time.monotonic() - self.last < self.every_s:
            return {}
        device = student.reference_energy.device
        if not self.blocks:
            self.blocks = self._read(device)
        potential = Potential(copy.deepcopy(student), device=device, backend="auto")
        errors = summary(self.blocks, evaluation.on_padded(potential))
        self.last = time.monotonic()
        return errors["all"]

    def _read(self, device: torch.device) -> list[TestBlock]:
        blocks, _ = read_test(self.test, device)
        share = self.n_molecules / sum(len(block.numbers) for block in blocks)
        # Some of every size: a block holds molecules of similar size.
        return [
            TestBlock(
                **{
                    field.name: getattr(block, field.name)[: max(1, int(share * len(block.index)))]
                    for field in dataclasses.fields(block)
                }
            )
            for block in blocks
        ]


def train_stage(
    number: int,
    molecules: Path,
    test: Path,
    open_teacher: OpenTeacher,
    device: str,
    recipe: Recipe,
    start: Path | None,
    *,
    gpus: int = 1,
) -> Path:
    """Train for the time of one stage; returns the weights' file.

    Args:
        number: Of the stage, from 1; each takes other molecules, and another seed.
        molecules: What `choose` wrote; the stage's files go beside it.
        test: What `make_test` wrote.
        open_teacher: Gives what labels.
        device: Where, if it is not several GPUs.
        recipe: All choices.
        start: Weights to go on from, grown into the recipe's shape if theirs is smaller; None for
            random ones.
        gpus: How many train together.

    Raises:
        ModelFileError: The weights cannot grow into that shape.
    """
    finished = molecules.with_name(f"stage-{number:03d}.safetensors")
    if finished.exists():
        return finished
    rows = _learnt(molecules, recipe.stage.small_repeats)
    # Where an earlier stage stopped is not known in advance; each begins at a share of the list.
    first = len(rows) * (number - 1) // max(recipe.stage.n_stages, number)
    rows = rows[first:] + rows[:first]
    smiles, kind_of = ([row[k] for row in rows] for k in (0, 1))
    under_way = finished.with_suffix(".part.safetensors")
    stage = dataclasses.replace(recipe.stage, seed=recipe.stage.seed + number)
    stages: list[dict[str, Any]] = []
    averaged = 1
    goes_on = _is_whole(under_way)
    if start:
        network, card, _ = read_checkpoint(start)
        stages, averaged = read_training_log(start), _averaged(card)
        if network.config != recipe.student and not goes_on:
            start = finished.with_suffix(".grown.safetensors")
            save_checkpoint(grown(network, recipe.student, seed=stage.seed), start, {})
    if goes_on:
        start = under_way
        stage = dataclasses.replace(stage, seed=stage.seed + 1000)
        log.info("stage %d was cut off: going on from what it left", number)
    begin: Any = start or recipe.student
    options: dict[str, Any] = {
        "stage": stage, "sampling": recipe.sampling, "labels": recipe.labels,
        "training": recipe.training, "card": {},
        "validate": Validation(test, every_s=recipe.stage.validate_s),
        "kinds": recipe.kinds, "kind_of": kind_of,
    }  # fmt: skip
    if gpus > 1:
        run_stage_on_gpus(gpus, smiles, open_teacher, begin, under_way, **options)
    else:
        run_stage(smiles, open_teacher(torch.device(device)), begin, under_way, **options)
    network, card, _ = read_checkpoint(under_way)
    report = card["last_stage"] | {
        "goes_on_from_a_cut_one": goes_on,
        "starts_from_mean_of": averaged,
        "n_parameters": sum(weights.numel() for weights in network.parameters()),
    }
    # The tensors last: whoever finds them finds the log and the card as well.
    write_training_log(finished, [*stages, report])
    save_checkpoint(network, finished, {})
    for suffix in (training_log.SUFFIX, ".json", ".safetensors"):
        under_way.with_suffix(suffix).unlink(missing_ok=True)
        finished.with_suffix(f".grown{suffix}").unlink(missing_ok=True)
    return finished


def _learnt(molecules: Path, small_repeats: int) -> list[tuple[str, str]]:
    """The molecules of all stages in their order, those of few atoms spread over it evenly.

    Each is its SMILES and its kind; a file written before there were kinds has none.
    """
    table = pq.read_table(molecules).filter(~pc.field("held_out"))
    smiles = table["smiles"].to_pylist()
    kinds = table["kind"].to_pylist() if "kind" in table.column_names else [""] * len(smiles)
    rows = list(zip(smiles, kinds, strict=True))
    sizes = table["n_atoms"].to_pylist()
    few = [row for row, n in zip(rows, sizes, strict=True) if n <= SMALL] * (small_repeats - 1)
    places = [len(rows) * (k + 1) // (len(few) + 1) for k in range(len(few))]
    for place, row in zip(reversed(places), reversed(few), strict=True):
        rows.insert(place, row)
    return rows


def average(stages: list[Path]) -> Path:
    """The mean of the weights of some stages, with the log of the last; of one, that one itself.

    Raises:
        ModelFileError: A file is damaged, or their shapes differ.
    """
    if len(stages) == 1:
        return stages[0]
    file = stages[0].with_name(f"mean-of-{stages[0].stem}-to-{stages[-1].stem}.safetensors")
    if _is_whole(file):
        return file
    networks = [read_checkpoint(stage)[0] for stage in stages]
    # The tensors last, as above.
    write_training_log(file, read_training_log(stages[-1]))
    save_checkpoint(mean_of(networks), file, {"averaged_stages": len(stages)})
    return file


def evaluate(weights: Path, test: Path, device: str) -> Path:
    """Write how far the student is from its teacher on the test."""
    potential = load_potential(weights, device=device)
    file = test.with_name(f"metrics-{potential.sha256[:12]}.json")
    if file.exists():
        return file
    blocks, counts = read_test(test, potential.device)
    metrics = {
        "model_sha256": potential.sha256,
        "test": counts,
        **summary(blocks, evaluation.on_padded(potential)),
    }
    write_whole(file, (json.dumps(metrics, indent=1) + "\n").encode())
    return file


def summary(blocks: list[TestBlock], student: Evaluate) -> dict[str, Any]:
    """Headline errors of all geometries, of each kind and of each charge."""
    errors = evaluation.geometry_errors(blocks, student)
    charge = errors["charge"]
    return {
        "all": evaluation.summarise(errors),
        "by_kind": evaluation.by_kind(errors),
        "by_charge": {
            int(q): evaluation.summarise(evaluation.subset(errors, charge == q))
            for q in np.unique(charge)
        },
    }


def package(
    weights: Path, metrics: Path, molecules: Path, teacher_sha256: str, recipe: Recipe
) -> Path:
    """Write weights as they are shipped, with where they come from in the card.

    Args:
        weights: Of the last stages; their training log has the stages before.
        metrics: What `evaluate` wrote of them.
        molecules: What `choose` wrote; the package goes into a folder beside it.
        teacher_sha256: Of the teacher's file.
        recipe: All choices.
    """
    network, card, _ = read_checkpoint(weights)
    table = pq.ParquetFile(molecules)
    about = table.schema_arrow.metadata or {}
    held_out = pq.read_table(molecules, columns=["held_out"])["held_out"]
    found = json.loads(metrics.read_text())
    full: dict[str, Any] = {
        "teacher_sha256": teacher_sha256,
        "table_sha256": about.get(b"table_sha256", b"").decode(),
        "molecules": {
            "chosen": table.metadata.num_rows,
            "held_out": sum(held_out.to_pylist()),
            "left_out": json.loads(about.get(b"left_out", b"{}")),
        },
        "recipe": recipe.to_dict(),
        "averaged_stages": _averaged(card),
        "metrics": found,
        "headline": headline(found["all"]),
    }
    file = molecules.parent / "package" / f"{recipe.name}.safetensors"
    save_checkpoint(network, file, full)
    write_training_log(file, read_training_log(weights))
    return file


def _averaged(card: dict[str, Any]) -> int:
    """The mean of how many weights these are; cards had another name for it before."""
    return int(card.get("averaged_stages", card.get("averaged_legs", 1)))


def headline(errors: dict[str, float]) -> dict[str, str]:
    """The numbers that `mlff-screen info` shows."""
    return {
        "held-out force MAE / RMSE": f"{errors['force_mae']:.0f} / {errors['force_rmse']:.0f} "
        f"meV/Å ({errors['n_molecules']:,.0f} molecules, against the teacher)",
        "held-out energy MAE": f"{errors['energy_mae']:.2f} kcal/mol within a molecule",
    }


def embed_all(
    smiles: list[str], n_conformers: int, seed: int, n_processes: int
) -> tuple[list[Embedded], Counter[str]]:
    """Conformers of all molecules, in their order, and how many have none, by reason."""
    embedder = Embedder(smiles, n_conformers=n_conformers, seed=seed, n_processes=n_processes)
    molecules: list[Embedded] = []
    try:
        while embedder.running:
            molecules += embedder.take(wait_s=1.0)
    finally:
        embedder.close()
    # As the processes finish, they come in another order each time.
    return sorted(molecules, key=lambda molecule: molecule.index), embedder.failed


def _is_whole(weights: Path) -> bool:
    """Whether there is a checkpoint, and not the half of one that a cut leaves."""
    try:
        read_checkpoint(weights)
    except (ModelFileError, OSError):
        return False
    return True
