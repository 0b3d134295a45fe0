"""How good the student is against its teacher.

    python benchmarks/accuracy.py teacher --teacher FILE --held-out FILE --out DIR
        Forces and energies of held-out molecules against the teacher's. Wants a GPU.
    python benchmarks/accuracy.py minima --teacher FILE --held-out FILE --out DIR
        Their conformers relaxed by both from the same start.

FILE of --teacher is what datasets/fetch_teacher.py prints; FILE of --held-out is a Parquet table
with a column `smiles`, of molecules that were not trained on. Each command writes
DIR/NAME.json, from which `benchmarks/model_card.py` makes the card.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlff_core.distill import evaluation
from mlff_core.distill.embedding import Embedded, Embedder
from mlff_core.distill.labelling import LabelConfig
from mlff_core.distill.sampling import KINDS, SamplingConfig
from mlff_core.distill.teacher import Teacher
from mlff_core.distill.training import padded_energy_and_forces
from mlff_core.potential import find_model, read_checkpoint

#: The test's own geometries: hotter and wider than a screen meets, rms force about 1.8 eV/Å.
SAMPLING = SamplingConfig(
    relax_steps=40, hot_steps=25, max_temperature=1000.0, min_displacement=0.04,
    max_displacement=0.10,
)  # fmt: skip
LABELS = LabelConfig(max_force=25.0)


def embed_all(smiles: list[str], n_conformers: int, seed: int) -> tuple[list[Embedded], Counter]:
    """Conformers of all molecules, on all cores."""
    embedder = Embedder(
        smiles, n_conformers=n_conformers, seed=seed, n_processes=os.cpu_count() or 1
    )
    molecules: list[Embedded] = []
    while embedder.running:
        molecules += embedder.take(wait_s=1.0)
    embedder.close()
    return molecules, embedder.failed


def setting(model: str) -> dict[str, Any]:
    """What was measured, and on what."""
    path = find_model(model)
    _, card, sha256 = read_checkpoint(path)
    cuda = torch.cuda.is_available()
    return {
        "model": card["name"],
        "model_sha256": sha256,
        "device": torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPU cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def against_teacher(arguments: argparse.Namespace) -> dict[str, Any]:
    """Forces and energies of held-out molecules."""
    teacher, student, smiles = load(arguments)
    began = time.monotonic()
    molecules, failed = embed_all(smiles[: arguments.molecules], 2, arguments.seed)
    log(f"embedded {len(molecules)} molecules, {time.monotonic() - began:.0f} s")
    counts: Counter[str] = Counter()
    blocks = evaluation.make_test_blocks(
        teacher, molecules, SAMPLING, LABELS, counts, seed=arguments.seed
    )
    log(f"labelled, {time.monotonic() - began:.0f} s: {dict(counts)}")
    errors = evaluation.geometry_errors(blocks, student)
    del blocks
    moved = np.isin(errors["kind"], [KINDS.index("hot"), KINDS.index("distorted")])
    charge = errors["charge"]
    result: dict[str, Any] = {
        **setting(arguments.model),
        "teacher_sha256": teacher.sha256,
        "n_embedded": len(molecules),
        "embedding_failed": dict(failed),
        "labels": dict(counts),
        "all": evaluation.summarise(errors),
        "distorted": evaluation.summarise(evaluation.subset(errors, moved)),
        "by_kind": evaluation.by_kind(errors),
        "neutral": evaluation.summarise(evaluation.subset(errors, charge == 0)),
        "charged": evaluation.summarise(evaluation.subset(errors, charge != 0)),
        "by_charge": {
            int(q): evaluation.summarise(evaluation.subset(errors, charge == q))
            for q in np.unique(charge)
        },
        "by_element": by_element(errors),
        "worst": worst(errors, smiles),
    }
    write(arguments.out, "teacher", result)
    save_sample(arguments.out / "teacher.npz", errors)
    log(f"forces and energies done, {time.monotonic() - began:.0f} s: {result['distorted']}")
    return result


def minima(arguments: argparse.Namespace) -> dict[str, Any]:
    """Conformers of held-out molecules, relaxed by teacher and student from the same start."""
    teacher, student, smiles = load(arguments)
    chosen = smiles[: arguments.molecules]
    molecules, _ = embed_all(chosen, 4, arguments.seed)
    began = time.monotonic()
    parts: list[evaluation.RelaxedConformers] = []
    result: dict[str, Any] = {}
    # A few at a time, smallest first, so that what is done is kept if this is cut off.
    molecules.sort(key=lambda m: len(m.numbers))
    for k in range(0, len(molecules), arguments.at_once):
        part = evaluation.compare_minima(
            teacher,
            student,
            molecules[k : k + arguments.at_once],
            LABELS,
            fmax=0.03,
            max_steps=arguments.max_steps,
        )
        parts.append(part)
        together = evaluation.join(parts)
        result = {
            **setting(arguments.model),
            "teacher_sha256": teacher.sha256,
            "all": evaluation.summarise_minima(together),
            "neutral": evaluation.summarise_minima(together, together.charge == 0),
            "charged": evaluation.summarise_minima(together, together.charge != 0),
        }
        write(arguments.out, "minima", result)
        log(f"{k + len(part.molecule)} {time.monotonic() - began:.0f} s: {result['all']}")
    return result


def load(arguments: argparse.Namespace) -> tuple[Teacher, evaluation.Evaluate, list[str]]:
    """The teacher, the student, and the held-out SMILES."""
    import pyarrow.parquet as pq

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(arguments.seed)
    teacher = Teacher(arguments.teacher, device)
    network, _, _ = read_checkpoint(find_model(arguments.model))
    network = network.to(device).requires_grad_(False)

    def student(numbers: Tensor, x: Tensor, charge: Tensor) -> tuple[Tensor, Tensor]:
        return padded_energy_and_forces(network, numbers, x, charge)

    table = pq.read_table(arguments.held_out)
    known = [
        network.config.min_charge <= q <= network.config.max_charge
        for q in table["charge"].to_pylist()
    ]
    smiles = [s for s, keep in zip(table["smiles"].to_pylist(), known, strict=True) if keep]
    return teacher, student, smiles


def by_element(errors: dict[str, np.ndarray]) -> dict[int, dict[str, float]]:
    """Force errors in meV/Å of the atoms of each element."""
    difference = 1e3 * (errors["student_force"] - errors["force"]).astype(np.float64)
    out = {}
    for z in np.unique(errors["number"]):
        part = difference[errors["number"] == z]
        out[int(z)] = {
            "n_atoms": len(part),
            "force_mae": float(np.abs(part).mean()),
            "force_rmse": float(np.sqrt(np.square(part).mean())),
        }
    return out


def worst(errors: dict[str, np.ndarray], smiles: list[str], n: int = 12) -> list[dict[str, Any]]:
    """The molecules with the largest force errors, to learn where the student fails."""
    square = np.square(errors["student_force"] - errors["force"], dtype=np.float64).mean(-1)
    molecule = errors["molecule"][errors["geometry"]]
    size = int(molecule.max()) + 1
    mean = np.bincount(molecule, square, size) / np.maximum(
        np.bincount(molecule, minlength=size), 1
    )
    return [
        {"smiles": smiles[k], "force_rmse": float(1e3 * np.sqrt(mean[k]))}
        for k in np.argsort(-mean)[:n]
    ]


def save_sample(path: Path, errors: dict[str, np.ndarray], n: int = 60_000) -> None:
    """What the plots need: all energies, and the forces of a random sample of the atoms."""
    rng = np.random.default_rng(0)
    atoms = np.sort(rng.permutation(len(errors["number"]))[:n])
    _, place, count = np.unique(errors["molecule"], return_inverse=True, return_counts=True)
    relative = {}
    for name in ("energy", "student_energy"):
        mean = np.bincount(place, errors[name]) / count
        relative[name] = (errors[name] - mean[place]).astype(np.float32)
    np.savez_compressed(
        path,
        **relative,
        charge=errors["charge"].astype(np.int8),
        kind=errors["kind"].astype(np.int8),
        number=errors["number"][atoms],
        force=errors["force"][atoms],
        student_force=errors["student_force"][atoms],
    )


def write(folder: Path, name: str, result: dict[str, Any]) -> None:
    """DIR/NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def log(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    teacher = commands.add_parser("teacher")
    teacher.add_argument("--teacher", type=Path, required=True)
    teacher.add_argument("--held-out", type=Path, required=True)
    teacher.add_argument("--molecules", type=int, default=5400)
    relaxed = commands.add_parser("minima")
    relaxed.add_argument("--teacher", type=Path, required=True)
    relaxed.add_argument("--held-out", type=Path, required=True)
    relaxed.add_argument("--molecules", type=int, default=200)
    relaxed.add_argument("--at-once", type=int, default=200)
    relaxed.add_argument("--max-steps", type=int, default=400)
    for command in (teacher, relaxed):
        command.add_argument("--model", default="default")
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    run = {"teacher": against_teacher, "minima": minima}[arguments.command]
    write(arguments.out, arguments.command, run(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
