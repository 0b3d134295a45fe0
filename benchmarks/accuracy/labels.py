"""The teacher's labels of geometries that a student goes to, made once and kept."""

import argparse
import functools
import hashlib
import json
import multiprocessing
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.accuracy import held_out
from benchmarks.accuracy.part import log
from mlff_core.cores import usable_cores
from mlff_core.distill import evaluation
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.labelling import LabelConfig
from mlff_core.distill.sampling import KINDS, Driver, SamplingConfig
from mlff_core.distill.steps import read_test, write_test
from mlff_core.distill.teacher import Teacher
from mlff_core.models.potential import Potential, load_potential

#: The test's own geometries: hotter and wider than a screen meets, rms force about 1.8 eV/Å.
SAMPLING = SamplingConfig(
    relax_steps=40, hot_steps=25, max_temperature=1000.0, min_displacement=0.04,
    max_displacement=0.10,
)  # fmt: skip
LABELS = LabelConfig(max_force=25.0)

#: Kinds of geometry that the targets call distorted.
MOVED = [KINDS.index("hot"), KINDS.index("distorted")]


def add_options(command: argparse.ArgumentParser) -> None:
    """The molecules, the teacher, and where its labels are kept."""
    held_out.add_options(command, n_molecules=5400, n_conformers=2)
    held_out.add_teacher(command)
    command.add_argument("--test", type=Path, help="folder in which the labels are kept")


def labelled(
    arguments: argparse.Namespace, molecules: list[Embedded], student: Potential
) -> tuple[list[evaluation.TestBlock], Counter[str], str]:
    """The teacher's labels of where the student goes; on CUDA all at once, on a CPU in small parts.

    They are kept in files of the folder of --test, and what is there is not made again, so that a
    student may be tested where another one went. Returned last is the name of the one that went.
    """
    device = student.device
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.test or Path(scratch)
        driven_by = claim(folder, arguments, len(molecules), student.name)
        by_size = sorted(molecules, key=lambda molecule: (len(molecule.numbers), molecule.index))
        size = len(by_size) if device.type == "cuda" else 32
        parts = [by_size[k : k + size] for k in range(0, len(by_size), size)]
        files = [folder / f"part-{k:04d}.npz" for k in range(len(parts))]
        jobs = [
            (arguments.teacher, arguments.model, device, part, file, arguments.seed + k)
            for k, (part, file) in enumerate(zip(parts, files, strict=True))
            if not file.exists()
        ]
        if device.type == "cuda":
            for job in jobs:
                write_labels(*job)
        else:
            n_processes = usable_cores()
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(n_processes, context, torch.set_num_threads, (1,)) as pool:
                waiting = [pool.submit(write_labels, *job) for job in jobs]
                for n_done, job in enumerate(as_completed(waiting), 1):
                    job.result()
                    log(f"{n_done} of {len(jobs)} parts")
        counts: Counter[str] = Counter()
        blocks: list[evaluation.TestBlock] = []
        for file in files:
            more, counted = read_test(file, device)
            blocks += more
            counts.update(counted)
    return blocks, counts, driven_by


def claim(folder: Path, arguments: argparse.Namespace, n_molecules: int, student: str) -> str:
    """Make a folder that of these labels, or find that it is; weights may differ, molecules not.

    Returns the name of the student whose it is.
    """
    made_of = {
        "held_out": hashlib.sha256(arguments.held_out.read_bytes()).hexdigest(),
        "molecules": n_molecules,
        "conformers": arguments.conformers,
        "seed": arguments.seed,
        "device": arguments.device,
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "made_of.json"
    if not file.exists():
        file.write_text(json.dumps(made_of | {"driven_by": student}))
    found = json.loads(file.read_text())
    driven_by = str(found.pop("driven_by"))
    if found != made_of:
        raise SystemExit(f"{folder}: holds labels of {found}, expected of {made_of}")
    return driven_by


@functools.cache
def open_both(file: Path, model: str, device: torch.device) -> tuple[Teacher, Driver]:
    """The teacher, and the student as a driver, once in each process."""
    return Teacher(file, device), evaluation.driver_of(load_potential(model, device=device))


def write_labels(
    file: Path, model: str, device: torch.device, molecules: list[Embedded], out: Path, seed: int
) -> None:
    """Sample and label some molecules."""
    teacher, driver = open_both(file, model, device)
    counts: Counter[str] = Counter()
    # On a CPU what is under way should fit its caches.
    labels = LABELS if device.type == "cuda" else replace(LABELS, atoms_a_call=1024)
    blocks = evaluation.make_test_blocks(
        teacher, molecules, SAMPLING, labels, counts, seed=seed, driver=driver
    )
    write_test(out, blocks, counts)
