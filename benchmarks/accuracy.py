"""How good the student is against its teacher, and beside other methods.

    python benchmarks/accuracy.py teacher    --teacher FILE --held-out FILE --out OUT.json
        Forces and energies of held-out molecules against the teacher's.
    python benchmarks/accuracy.py far        --teacher FILE --held-out FILE --out OUT.json
        How much of the student's errors is electrostatics between atoms far apart.
    python benchmarks/accuracy.py members    --teacher FILE --held-out FILE --out OUT.json
        How far the teacher's own members are apart, beside the student's errors.
    python benchmarks/accuracy.py minima     --teacher FILE --held-out FILE --out OUT.json
        Their conformers relaxed by both from the same start.
    python benchmarks/accuracy.py protomers  --teacher FILE --held-out FILE --out OUT.json
        Energies of other protonation states of these molecules, charged as no table has them.
    python benchmarks/accuracy.py displaced  --held-out FILE --out OUT.json
        What the student makes of molecules whose atoms are far from where they belong.
    python benchmarks/accuracy.py nve        --held-out FILE --out OUT.json
        Drift of the total energy in constant-energy dynamics at 300 K, and bonds that broke.
    python benchmarks/accuracy.py conformers --out OUT.json
        Conformer energies of MMFF94, GFN2-xTB and the student against the teacher's, on
        conformers.npz (see make_conformers.py).

FILE of --teacher is what datasets/fetch_teacher.py prints; FILE of --held-out is a Parquet table
with the columns `smiles` and `charge`, of molecules that were not trained on. --model names other
weights than the shipped ones. Each command adds its part to OUT.json, or begins the file anew if
it is about other weights; give commands that run at once files of their own.
`benchmarks/model_card.py` makes the card from any number of such files.
"""

import argparse
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import platform
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from ase.data import atomic_masses
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.batch import MolBatch
from mlff_core.chem.topology import BROKEN
from mlff_core.cores import usable_cores
from mlff_core.distill import evaluation
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.labelling import LabelConfig
from mlff_core.distill.molecules import UNUSUAL_CHARGE
from mlff_core.distill.protomers import protomer
from mlff_core.distill.sampling import KINDS, Driver, SamplingConfig
from mlff_core.distill.steps import embed_all, read_test, write_test
from mlff_core.distill.teacher import Teacher
from mlff_core.distill.teacher_force_field import TeacherForceField
from mlff_core.elements import COVALENT_RADII
from mlff_core.models.force_field import evaluate_checked
from mlff_core.models.potential import Potential, load_potential
from mlff_core.moves.dynamics import Dynamics
from mlff_core.moves.relax import relax
from mlff_core.moves.trajectory import Frame
from mlff_core.status import ConformerStatus
from mlff_core.units import COULOMB_EV_ANGSTROM, EV_KCAL_MOL, TIME_FS

#: The test's own geometries: hotter and wider than a screen meets, rms force about 1.8 eV/Å.
SAMPLING = SamplingConfig(
    relax_steps=40, hot_steps=25, max_temperature=1000.0, min_displacement=0.04,
    max_displacement=0.10,
)  # fmt: skip
LABELS = LabelConfig(max_force=25.0)

#: Kinds of geometry that the targets call distorted.
MOVED = [KINDS.index("hot"), KINDS.index("distorted")]

#: Bounds in eV/Å between geometries on which the teacher's members agree more and less.
SPREADS = (0.0, 0.1, 0.2, 0.5, LABELS.max_force_spread)

#: Distances in Å between which the teacher's charges are made to pull at each other: from the
#: student's cutoff to what three blocks reach, and all that is beyond.
SHELLS = (5.0, 7.0, 10.0, 15.0, math.inf)

#: Dynamics: steps in fs, friction of the bath that brings molecules to 300 K in 1/ps.
TIMESTEP_FS, TEMPERATURE_K, FRICTION_PER_PS, WARM_UP_PS = 0.5, 300.0, 5.0, 2.0

#: Widths in Å of the displacements from which molecules have to find back.
WIDTHS = (0.05, 0.1, 0.15, 0.2, 0.25)

#: Errors in kcal/mol from which on the energy of a molecule is counted as far off.
FAR_OFF_KCAL_MOL = 5.0

#: How near the energy must come to that of the minimum left for a molecule to be back there, in eV.
RETURNED_EV = 0.05

#: Conformers with their energies by other methods (see make_conformers.py).
CONFORMERS = Path(__file__).with_name("conformers.npz")

Part = dict[str, Any]


def against_teacher(arguments: argparse.Namespace, student: Potential) -> Part:
    """Forces and energies of held-out molecules."""
    smiles, molecules, failed = embedded(arguments, student)
    blocks, counts, driven_by = labelled(arguments, molecules, student)
    log(f"labelled: {dict(counts)}")
    errors = evaluation.geometry_errors(blocks, evaluation.on_padded(student))
    finite = evaluation.finite_geometries(errors)
    errors = evaluation.subset(errors, finite)
    moved = np.isin(errors["kind"], MOVED)
    charge = errors["charge"]
    strange = np.array([bool(re.search(UNUSUAL_CHARGE, text)) for text in smiles])
    unusual = strange[errors["molecule"]] & (charge != 0)

    def summary(geometries: np.ndarray) -> dict[str, float]:
        return evaluation.summarise(evaluation.subset(errors, geometries))

    return {
        "teacher_sha256": Teacher.check(arguments.teacher),
        "n_embedded": len(molecules),
        "n_conformers": arguments.conformers,
        "driven_by": "the student" if driven_by == student.name else driven_by,
        "embedding_failed": dict(failed),
        "labels": dict(counts),
        "n_student_not_finite": int((~finite).sum()),
        "all": evaluation.summarise(errors),
        "distorted": summary(moved),
        "distorted_neutral": summary(moved & (charge == 0)),
        "distorted_charged": summary(moved & (charge != 0)),
        "by_kind": evaluation.by_kind(errors),
        "neutral": summary(charge == 0),
        "charged": summary(charge != 0),
        "charged_unusually": summary(unusual),
        "charged_otherwise": summary((charge != 0) & ~unusual),
        "by_charge": {int(q): summary(charge == q) for q in np.unique(charge)},
        "by_spread": {
            f"{low:g} to {high:g}": summary((errors["spread"] >= low) & (errors["spread"] < high))
            for low, high in itertools.pairwise(SPREADS)
        },
        "by_element": by_element(errors),
        "worst": worst(errors, smiles),
        "energy_histogram": energy_histogram(errors),
        "force_histogram": histogram(errors["force"].ravel(), errors["student_force"].ravel()),
    }


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


def far(arguments: argparse.Namespace, student: Potential) -> Part:
    """Which share of the Coulomb forces between atoms far apart the student's errors hold."""
    _, molecules, _ = embedded(arguments, student)
    blocks, _, _ = labelled(arguments, molecules, student)
    log("labelled")
    networks = Teacher(arguments.teacher, student.device).networks
    if networks is None:
        raise SystemExit("the teacher's file holds no AIMNet2, so there are no charges")
    evaluate = evaluation.on_padded(student)
    columns: dict[str, list[np.ndarray]] = {"error": [], "far": [], "molecule": [], "charge": []}
    for block in blocks:
        for kind in range(block.positions.shape[1]):
            x, valid = block.positions[:, kind], block.valid[:, kind]
            energy, forces = evaluate(block.numbers, x, block.charge)
            q = networks.charges(block.numbers, x, block.charge)
            real = (block.numbers > 0) & (valid & energy.isfinite())[:, None]
            shells = coulomb_forces(q, x, block.numbers > 0)
            columns["error"].append((block.forces[:, kind] - forces)[real].cpu().numpy())
            columns["far"].append(shells[real].cpu().numpy())
            for name, values in (("molecule", block.index), ("charge", block.charge)):
                columns[name].append(values[:, None].expand_as(real)[real].cpu().numpy())
    error, shells, molecule, charge = (np.concatenate(c) for c in columns.values())
    groups = {
        "all": np.ones(len(charge), bool),
        "neutral": charge == 0,
        "charged": charge != 0,
        "charged more than once": np.abs(charge) > 1,
    }
    return {
        "shells": [None if math.isinf(bound) else bound for bound in SHELLS],
        "n_molecules": len(np.unique(molecule)),
        **{
            group: far_shares(error[chosen], shells[chosen], molecule[chosen])
            for group, chosen in groups.items()
            if len(np.unique(molecule[chosen])) > 1
        },
    }


def coulomb_forces(q: torch.Tensor, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Forces of point charges on each other, by the SHELLS of distance [n, width, 3, n_shells].

    Args:
        q: Charges in e, 0 on padding [n, width].
        x: Å [n, width, 3].
        real: What is no padding [n, width].
    """
    towards = x[:, None, :] - x[:, :, None]  # [n, i, j, 3]
    distance = towards.square().sum(-1).sqrt()
    pull = -COULOMB_EV_ANGSTROM * q[:, :, None] * q[:, None, :] / distance**3
    shells = []
    for low, high in itertools.pairwise(SHELLS):
        inside = (distance > low) & (distance <= high) & real[:, :, None] & real[:, None, :]
        shells.append((torch.where(inside, pull, 0.0)[..., None] * towards).sum(2))
    return torch.stack(shells, -1)


def far_shares(error: np.ndarray, shells: np.ndarray, molecule: np.ndarray) -> Part:
    """Least squares of the errors by the forces of the shells; molecules err independently.

    Args:
        error: Teacher's force minus the student's, eV/Å [n_atoms, 3].
        shells: eV/Å [n_atoms, 3, n_shells].
        molecule: Of each atom [n_atoms].
    """
    y, a = error.astype(np.float64), shells.astype(np.float64)
    inverse = np.linalg.pinv(np.einsum("ncs,nct->st", a, a))
    share = inverse @ np.einsum("ncs,nc->s", a, y)
    rest = y - a @ share
    _, place = np.unique(molecule, return_inverse=True)
    pulls = np.zeros((place.max() + 1, len(share)))
    np.add.at(pulls, place, np.einsum("ncs,nc->ns", a, rest))
    return {
        "force_mae": float(1e3 * np.abs(y).mean()),
        "force_mae_without": float(1e3 * np.abs(rest).mean()),
        "rms": (1e3 * np.sqrt(np.square(a).mean((0, 1)))).tolist(),
        "share": share.tolist(),
        "share_error": np.sqrt(np.diag(inverse @ (pulls.T @ pulls) @ inverse)).tolist(),
    }


def members(arguments: argparse.Namespace, student: Potential) -> Part:
    """How far the teacher's members are apart where the student's errors are measured."""
    _, molecules, _ = embedded(arguments, student)
    blocks, _, _ = labelled(arguments, molecules, student)
    log("labelled")
    teacher = Teacher(arguments.teacher, student.device)
    errors = evaluation.geometry_errors(blocks, evaluation.on_padded(student))
    opinions = []
    for k in range(teacher.n_members):
        said = evaluation.geometry_errors(blocks, functools.partial(opinion, teacher, k))
        opinions.append({name: said[f"student_{name}"] for name in ("energy", "force")})
        log(f"asked member {k + 1} of {teacher.n_members}")
    moved = np.isin(errors["kind"], MOVED)
    charge = errors["charge"]
    groups = {
        "all": np.ones(len(charge), bool),
        "neutral": charge == 0,
        "charged": charge != 0,
        "distorted_neutral": moved & (charge == 0),
        "distorted_charged": moved & (charge != 0),
        **{kind: errors["kind"] == k for k, kind in enumerate(KINDS)},
    }
    finite = evaluation.finite_geometries(errors)
    return {
        "teacher_sha256": teacher.sha256,
        "n_members": teacher.n_members,
        "n_molecules": len(np.unique(errors["molecule"])),
        "n_conformers": arguments.conformers,
        "groups": {
            name: disagreement(errors, opinions, chosen & finite) for name, chosen in groups.items()
        },
        "conformers": rankings_of_members(teacher, CONFORMERS),
    }


def opinion(
    teacher: Teacher, member: int, numbers: torch.Tensor, x: torch.Tensor, charge: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies in eV and forces in eV/Å of one of the teacher's members, in a student's place."""
    label = teacher.member(member, numbers, x, charge)
    return label.energy, label.forces


def disagreement(
    errors: dict[str, np.ndarray], opinions: list[dict[str, np.ndarray]], geometries: np.ndarray
) -> Part:
    """Each member against the mean of the others, and the student against the mean of all.

    Args:
        errors: What student and teacher say (`evaluation.geometry_errors`).
        opinions: Of each member: energies [n_geometries] and forces [n_atoms, 3].
        geometries: Which count, bool [n_geometries].

    Returns:
        `student` and `member`, headline errors as of `evaluation.summarise` with those of whole
        molecules (`between_molecules`), the latter the mean over the members; `standard_error`,
        the root mean square of that of a force component's mean over the members, in meV/Å.
    """
    n = len(opinions)

    def summary(said: dict[str, np.ndarray]) -> dict[str, float]:
        chosen = evaluation.subset(errors | said, geometries)
        error = chosen["student_energy"] - chosen["energy"]
        return evaluation.summarise(chosen) | between_molecules(chosen["molecule"], error)

    energy, force = (np.stack([said[name] for said in opinions]) for name in ("energy", "force"))
    each = [
        summary(
            {
                "energy": np.delete(energy, k, 0).mean(0),
                "force": np.delete(force, k, 0).mean(0),
                "student_energy": energy[k],
                "student_force": force[k],
            }
        )
        for k in range(n)
    ]
    atoms = geometries[errors["geometry"]]
    variance = force[:, atoms].astype(np.float64).var(0, ddof=1)
    return {
        "student": summary({}),
        "member": {name: float(np.mean([values[name] for values in each])) for name in each[0]},
        "standard_error": float(1e3 * np.sqrt(variance.mean() / n)),
    }


def between_molecules(molecule: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Sizes of the errors in eV that all geometries of a molecule share, in kcal/mol."""
    _, place, count = np.unique(molecule, return_inverse=True, return_counts=True)
    size = EV_KCAL_MOL * np.abs(np.bincount(place, error) / count)
    return {
        "molecule_energy_median": float(np.median(size)),
        "molecule_energy_90_percent": float(np.quantile(size, 0.9)),
        "molecule_energy_largest": float(size.max()),
    }


def rankings_of_members(teacher: Teacher, file: Path) -> dict[str, float]:
    """How a member ranks the conformers of a file as the others' mean does, on average."""
    found: dict[str, list[float]] = {}
    for molecule in stored(file):
        positions = torch.from_numpy(molecule["positions"]).float().to(teacher.device)
        numbers = torch.from_numpy(molecule["numbers"]).long().to(teacher.device)
        numbers = numbers.expand(len(positions), -1)
        charge = torch.full_like(numbers[:, 0], int(molecule["charge"]))
        labels = [teacher.member(k, numbers, positions, charge) for k in range(teacher.n_members)]
        energy = torch.stack([label.energy for label in labels]).cpu().numpy()
        for k, said in enumerate(energy):
            for key, value in ranking(said, np.delete(energy, k, 0).mean(0)).items():
                found.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def minima(arguments: argparse.Namespace, student: Potential) -> Part:
    """Conformers of held-out molecules, relaxed by teacher and student from the same start."""
    teacher = Teacher(arguments.teacher, student.device)
    _, molecules, failed = embedded(arguments, student)
    parts: list[list[evaluation.RelaxedConformers]] = []
    # A few at a time, so that what is done is kept if this is cut off.
    for k in range(0, len(molecules), arguments.at_once):
        some = molecules[k : k + arguments.at_once]
        parts.append(
            evaluation.compare_minima(
                teacher, student, some, fmax=arguments.fmax, max_steps=arguments.max_steps
            )
        )
        part = {
            **setting(student),
            "teacher_sha256": teacher.sha256,
            "n_embedded": k + len(some),
            "embedding_failed": dict(failed),
            "at": [
                {"fmax": fmax, **summary_of_minima(evaluation.join(list(found)))}
                for fmax, found in zip(arguments.fmax, zip(*parts, strict=True), strict=True)
            ],
        }
        add_part(arguments.out, "minima", part, student)
        log(f"{k + len(some)} molecules: {part['at'][-1]['all']}")
    return part


def summary_of_minima(result: evaluation.RelaxedConformers) -> Part:
    """Headline numbers of all, of neutral and of charged molecules."""
    return {
        **{name: getattr(result, name) for name in evaluation.COUNTS},
        "all": evaluation.summarise_minima(result),
        "neutral": evaluation.summarise_minima(result.select(result.charge == 0)),
        "charged": evaluation.summarise_minima(result.select(result.charge != 0)),
    }


def displaced(arguments: argparse.Namespace, student: Potential) -> Part:
    """Minima of held-out molecules with every coordinate moved at random, and where they go."""
    _, molecules, _ = embedded(arguments, student)
    starts = MolBatch.from_arrays([(m.numbers, m.positions[0], m.charge) for m in molecules])
    found = relax(starts, student)
    done = [k for k, s in enumerate(found.status) if s == ConformerStatus.CONVERGED]
    minimum, energy = found.batch.select(done).to("cpu", torch.float64), found.energy[done].cpu()
    sizes = minimum.ptr.diff()
    rows = []
    for width in WIDTHS:
        generator = torch.Generator().manual_seed(arguments.seed)
        noise = torch.randn(minimum.positions.shape, generator=generator, dtype=torch.float64)
        moved = replace(minimum, positions=minimum.positions + width * noise)
        above = student(moved).energy.cpu() - energy
        relaxed = relax(moved, student)
        converged = np.array([s == ConformerStatus.CONVERGED for s in relaxed.status])
        gained = (relaxed.energy.cpu() - energy).numpy()
        rows.append(
            {
                "width": width,
                "energy_an_atom_median": float((above / sizes).nanmedian()),
                # What is not a number is no energy above the minimum's either.
                "n_below_minimum": int((~(above > 0)).sum()),
                "n_converged": int(converged.sum()),
                "n_back": int((converged & (np.abs(gained) < RETURNED_EV)).sum()),
            }
        )
        log(f"{rows[-1]}")
    return {"n_molecules": len(done), "returned_ev": RETURNED_EV, "rows": rows}


def protomers(arguments: argparse.Namespace, student: Potential) -> Part:
    """Energies of held-out molecules with other protons and charges, where the student relaxed."""
    teacher = Teacher(arguments.teacher, student.device)
    smiles = other_states(held_out(arguments, student), arguments, student)
    molecules, failed = embed_all(smiles, 1, arguments.seed, usable_cores())
    starts = MolBatch.from_arrays([(m.numbers, m.positions[0], m.charge) for m in molecules])
    found = relax(starts, student, fmax=0.05)
    converged = np.array([s == ConformerStatus.CONVERGED for s in found.status])
    topologies = [evaluation.topology_of(m) for m in molecules]
    changed = converged & evaluation.have_other_bonds(found.batch, topologies)
    done = np.flatnonzero(converged & ~changed).tolist()
    log(f"relaxed {converged.sum()} of {len(molecules)}, {changed.sum()} to other bonds")
    in_place, energies = TeacherForceField(teacher, student.device), []
    theirs = np.zeros(len(molecules), bool)
    if changed.any():
        again = np.flatnonzero(changed).tolist()
        ends = relax(starts.select(again), in_place, fmax=0.05)
        theirs[again] = evaluation.have_other_bonds(ends.batch, [topologies[k] for k in again])
    for k in range(0, len(done), arguments.at_once):
        some = found.batch.select(done[k : k + arguments.at_once])
        energies.append(evaluate_checked(in_place, some).energy.cpu())
    error = EV_KCAL_MOL * (found.energy[done].cpu() - torch.cat(energies)).numpy()
    signs = np.array([charged_groups(smiles[molecules[k].index]) for k in done])
    groups = {
        "no charged group": (signs == 0).all(1),
        "groups of one sign": (signs > 0).sum(1) == 1,
        "groups of both signs, one of each": (signs == 1).all(1),
        "groups of both signs, more": (signs > 0).all(1) & (signs > 1).any(1),
    }
    order = np.argsort(-np.abs(error))
    return {
        "teacher_sha256": teacher.sha256,
        "n_embedded": len(molecules),
        "embedding_failed": dict(failed),
        "n_converged": int(converged.sum()),
        "rearranged": [
            {"smiles": smiles[molecules[k].index], "teacher_too": bool(theirs[k])}
            for k in np.flatnonzero(changed)
        ],
        "far_off_kcal_mol": FAR_OFF_KCAL_MOL,
        "groups": {
            name: sizes_of_errors(error[chosen])
            for name, chosen in ({"all": np.ones(len(error), bool)} | groups).items()
            if chosen.any()
        },
        "worst": [
            {"smiles": smiles[molecules[done[k]].index], "error": float(error[k])}
            for k in order[:10]
        ],
    }


def other_states(smiles: list[str], arguments: argparse.Namespace, student: Potential) -> list[str]:
    """A protonation state of each molecule that is not its own, at most `arguments.molecules`."""
    rng = random.Random(arguments.seed)
    max_charge = min(student.config.max_charge, -student.config.min_charge)
    states: dict[str, None] = {}
    for text in smiles:
        state = protomer(text, rng, max_charge=max_charge)
        if state is not None and state != Chem.CanonSmiles(text):
            states[state] = None
        if len(states) == arguments.molecules:
            break
    return list(states)


def charged_groups(smiles: str) -> tuple[int, int]:
    """Atoms with a positive and with a negative charge that no neighbour's charge makes up for."""
    atoms = [
        atom
        for atom in Chem.MolFromSmiles(smiles).GetAtoms()
        if not any(atom.GetFormalCharge() * n.GetFormalCharge() < 0 for n in atom.GetNeighbors())
    ]
    return (
        sum(atom.GetFormalCharge() > 0 for atom in atoms),
        sum(atom.GetFormalCharge() < 0 for atom in atoms),
    )


def sizes_of_errors(error: np.ndarray) -> dict[str, float]:
    """Of errors in kcal/mol."""
    size = np.abs(error)
    return {
        "n": len(size),
        "median": float(np.median(size)),
        "90_percent": float(np.quantile(size, 0.9)),
        "largest": float(size.max()),
        "n_far_off": int((size > FAR_OFF_KCAL_MOL).sum()),
    }


def nve(arguments: argparse.Namespace, student: Potential) -> Part:
    """Energy drift and broken bonds of molecules in motion, from 300 K on without a bath."""
    molecules, bonds, smiles = [], [], []
    for text in held_out(arguments, student):
        if len(molecules) == arguments.molecules:
            break
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        if not 30 <= mol.GetNumAtoms() <= 50:
            continue
        if rdDistGeom.EmbedMolecule(mol, randomSeed=arguments.seed):
            continue
        numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        x = mol.GetConformer().GetPositions()
        molecules.append((numbers, x, Chem.GetFormalCharge(mol)))
        bonds.append([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()])
        smiles.append(text)
    relaxed = relax(MolBatch.from_arrays(molecules), student, fmax=0.02, max_steps=500)
    warming = Dynamics(
        relaxed.batch, student, timestep_fs=TIMESTEP_FS, temperature_k=TEMPERATURE_K,
        friction_per_ps=FRICTION_PER_PS, seed=arguments.seed,
    )  # fmt: skip
    warming.run(round(WARM_UP_PS * 1e3 / TIMESTEP_FS))
    warm = warming.frame()
    log(f"at {warm.temperature.mean():.0f} K")
    dynamics = Dynamics(warm.batch, student, timestep_fs=TIMESTEP_FS, velocities=warm.velocities)
    every, per_look = 20, 1000
    total: list[torch.Tensor] = []
    shadow: list[torch.Tensor] = []
    kinetic: list[torch.Tensor] = []
    stretched = np.zeros(len(molecules))
    until = time.monotonic() + arguments.limit_s
    for _ in range(round(arguments.picoseconds * 1e3 / TIMESTEP_FS) // per_look):
        if time.monotonic() > until:
            log("out of time")
            break
        for _ in range(per_look // every):
            dynamics.run(every - 2)
            before, now, after = dynamics.frames(2, every=1)
            kinetic.append(now.kinetic_energy)
            total.append(now.potential_energy + now.kinetic_energy)
            shadow.append(total[-1] + shadow_correction(before, now, after))
        stretched = np.maximum(stretched, longest_bonds(after.batch, bonds))
    energies = {"shadow": torch.stack(shadow, 1).numpy(), "total": torch.stack(total, 1).numpy()}
    spacing_ns = every * TIMESTEP_FS * 1e-6
    return {
        "picoseconds": len(total) * every * TIMESTEP_FS * 1e-3,
        "timestep_fs": TIMESTEP_FS,
        "warm_up_ps": WARM_UP_PS,
        **{
            name: drift(energy, torch.stack(kinetic, 1).numpy(), spacing_ns)
            for name, energy in energies.items()
        },
        "temperature_k": float(dynamics.frame().temperature.mean()),
        "n_molecules": len(molecules),
        # What is not a number is broken as well.
        "n_broken": int((~(stretched <= BROKEN)).sum()),
        "longest_bond": float(stretched.max()),
        "smiles": smiles,
    }


def conformers(arguments: argparse.Namespace, student: Potential) -> Part:
    """How each method ranks the conformers of conformers.npz, beside the teacher."""
    methods: dict[str, dict[str, list[float]]] = {}
    starts: list[tuple[np.ndarray, np.ndarray, int]] = []
    ends: list[tuple[np.ndarray, np.ndarray, int]] = []
    charged = []
    for molecule in stored(arguments.conformers):
        numbers, x, charge = (molecule[name] for name in ("numbers", "positions", "charge"))
        batch = MolBatch.from_arrays([(numbers, y, int(charge)) for y in x])
        energies = {
            "MMFF94": molecule["mmff94"],
            "MMFF94, at its own minima": molecule["mmff94_relaxed"],
            "GFN2-xTB": molecule["gfn2"],
            "student": student(batch).energy.cpu().numpy(),
        }
        charged.append(int(charge) != 0)
        starts += [(numbers, y, int(charge)) for y in molecule["start"]]
        ends += [(numbers, y, int(charge)) for y in x]
        for name, energy in energies.items():
            for key, value in ranking(energy, molecule["teacher"]).items():
                methods.setdefault(name, {}).setdefault(key, []).append(value)
    groups = {
        "all": np.ones(len(charged), bool),
        "neutral": ~np.array(charged),
        "charged": np.array(charged),
    }
    return {
        "teacher_sha256": about(arguments.conformers)["teacher_sha256"],
        "n_molecules": len(charged),
        "n_charged": int(sum(charged)),
        "n_conformers": len(ends),
        "minima": nearby_minima(starts, ends, student),
        **{
            group: {
                name: {
                    key: float(np.mean(np.array(values)[chosen])) for key, values in found.items()
                }
                for name, found in methods.items()
            }
            for group, chosen in groups.items()
        },
    }


def about(file: Path) -> dict[str, Any]:
    """What a file of conformers says of itself: SMILES, and the teacher's sha256."""
    with np.load(file, allow_pickle=False) as arrays:
        return dict(json.loads(str(arrays["about"])))


def stored(file: Path) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of each molecule of a file of conformers."""
    with np.load(file, allow_pickle=False) as arrays:
        of_each: dict[int, dict[str, np.ndarray]] = {}
        for key in arrays.files:
            molecule, _, name = key.partition("/")
            if name:
                of_each.setdefault(int(molecule), {})[name] = arrays[key]
    yield from (of_each[k] for k in sorted(of_each))


def nearby_minima(
    starts: list[tuple[np.ndarray, np.ndarray, int]],
    ends: list[tuple[np.ndarray, np.ndarray, int]],
    student: Potential,
) -> dict[str, float]:
    """How far the student ends, in Å, from where the teacher ended from the same starts."""
    relaxed = relax(MolBatch.from_arrays(starts), student, fmax=0.02, max_steps=500)
    done = [k for k, s in enumerate(relaxed.status) if s == ConformerStatus.CONVERGED]
    ours = relaxed.batch.select(done)
    theirs = MolBatch.from_arrays([ends[k] for k in done], device=student.device)
    found: dict[str, float] = {"n_converged": len(done)}
    for name, heavy in (("rmsd", False), ("heavy_rmsd", True)):
        rmsd = evaluation.superposed_rmsd(ours, theirs, heavy=heavy)
        found[f"{name}_median"] = float(np.median(rmsd))
        found[f"{name}_90_percent"] = float(np.quantile(rmsd, 0.9))
    return found


# --- Parts of these -------------------------------------------------------------------------------


def held_out(arguments: argparse.Namespace, student: Potential) -> list[str]:
    """SMILES of the held-out molecules whose charge the student knows."""
    config = student.config
    rows = pq.read_table(arguments.held_out, columns=["smiles", "charge"]).to_pylist()
    return [r["smiles"] for r in rows if config.min_charge <= r["charge"] <= config.max_charge]


def embedded(
    arguments: argparse.Namespace, student: Potential
) -> tuple[list[str], list[Embedded], Counter[str]]:
    """SMILES of held-out molecules, those of them that embed, and why the others do not."""
    smiles = held_out(arguments, student)[: arguments.molecules]
    molecules, failed = embed_all(smiles, arguments.conformers, arguments.seed, usable_cores())
    log(f"embedded {len(molecules)} molecules")
    return smiles, molecules, failed


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


def energy_histogram(errors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of energies relative to the mean of their molecule, in eV."""
    _, place, count = np.unique(errors["molecule"], return_inverse=True, return_counts=True)

    def relative(energy: np.ndarray) -> np.ndarray:
        return energy - (np.bincount(place, energy) / count)[place]

    return histogram(relative(errors["energy"]), relative(errors["student_energy"]))


def histogram(teacher: np.ndarray, student: np.ndarray, bins: int = 100) -> dict[str, Any]:
    """Counts on a square grid, a row of text for each of the teacher's bins, to stay small.

    The grid spans -limit to limit on both axes, which holds all but the teacher's outermost
    ten-thousandth; what lies outside is counted in the outermost bins.
    """
    limit = float(np.quantile(np.abs(teacher), 0.9999))
    edges = np.linspace(-limit, limit, bins + 1)
    inside = 0.999999 * limit
    counts, _, _ = np.histogram2d(
        teacher.clip(-inside, inside), student.clip(-inside, inside), (edges, edges)
    )
    return {"limit": limit, "rows": [" ".join(f"{n:.0f}" for n in row) for row in counts]}


def longest_bonds(batch: MolBatch, bonds: list[list[tuple[int, int]]]) -> np.ndarray:
    """The longest bond of each molecule relative to the sum of its covalent radii."""
    longest = []
    for x, numbers, pairs in zip(
        batch.split(batch.positions), batch.split(batch.numbers), bonds, strict=True
    ):
        i, j = np.array(pairs).T
        radii = np.array([COVALENT_RADII[z] for z in numbers.tolist()])
        length = np.linalg.norm(x.numpy()[i] - x.numpy()[j], axis=1)
        longest.append((length / (radii[i] + radii[j])).max())
    return np.array(longest)


def shadow_correction(before: Frame, now: Frame, after: Frame) -> torch.Tensor:
    """What velocity Verlet keeps beyond the total energy, eV, float64 [n_mols].

    With a time step h it keeps H + h² (v·U''v / 12 - Σ F²/m / 24) + O(h⁴) rather than H (R. D.
    Skeel and D. J. Hardy, SIAM J. Sci. Comput. 23, 1172 (2001)), and so H goes up and down with
    what is in fast vibrations: by a percent of what a C-H bond's holds, at 0.5 fs. Here
    U''v = -dF/dt, from the forces one step before and after.

    Args:
        before: One step before `now`.
        now: When it is wanted.
        after: One step after `now`.
    """
    batch, h = now.batch, (after.time_fs - now.time_fs) / TIME_FS
    mass = torch.tensor(atomic_masses, dtype=torch.float64)[batch.numbers.long()]
    curvature = -(now.velocities * TIME_FS * (after.forces - before.forces)).sum(1) / (2 * h)
    slope = now.forces.square().sum(1) / mass
    of_atoms = h**2 * (curvature / 12 - slope / 24)
    return of_atoms.new_zeros(batch.n_mols).index_add_(0, batch.mol_idx, of_atoms)


def drift(total: np.ndarray, kinetic: np.ndarray, spacing_ns: float) -> dict[str, Any]:
    """Slopes of straight lines through the total energy, in % of the kinetic energy per ns.

    Args:
        total: eV [n_molecules, n_times].
        kinetic: eV, likewise.
        spacing_ns: From one time to the next.

    Returns:
        Of each molecule and of all together, with the standard errors of the fits, for which
        neighbouring energies are first averaged in a hundred blocks.
    """
    blocks = min(100, total.shape[1])
    length = total.shape[1] // blocks

    def slope(energy: np.ndarray) -> tuple[float, float]:
        means = energy[: blocks * length].reshape(blocks, length).mean(1)
        t = np.arange(blocks) * length * spacing_ns
        t -= t.mean()
        a = float((t * means).sum() / (t * t).sum())
        rest = means - means.mean() - a * t
        return a, float(np.sqrt((rest**2).sum() / max(1, blocks - 2) / (t * t).sum()))

    percent = 100.0 / kinetic.mean(1)
    each = [slope(energy) for energy in total]
    a, error = slope(total.sum(0))
    together = 100.0 / float(kinetic.mean(1).sum())
    return {
        "drift_percent_per_ns": together * a,
        "drift_error": together * error,
        "drift_of_each": [float(p * a) for p, (a, _) in zip(percent, each, strict=True)],
        "drift_error_of_each": [float(p * e) for p, (_, e) in zip(percent, each, strict=True)],
        "energy_fluctuation_mev": float(1e3 * total.std(1).mean()),
    }


def ranking(energy: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """How well energies in eV order the conformers of one molecule, and differ by as much.

    Of conformers with one energy, as mirror images have it, one counts: rounding would order them.
    """
    different = evaluation.different_minima(np.zeros(len(teacher), int), teacher)
    energy, teacher = energy[different], teacher[different]
    i, j = np.triu_indices(len(teacher), 1)
    differences, true = energy[i] - energy[j], teacher[i] - teacher[j]
    error = differences - true
    within = evaluation.within_molecule(np.zeros(len(teacher), int), energy - teacher)
    ranks = [values.argsort().argsort() for values in (energy, teacher)]
    return {
        "spearman": float(np.corrcoef(*ranks)[0, 1]),
        "kendall": float(np.mean(np.sign(differences) * np.sign(true))),
        "pair_mae": float(EV_KCAL_MOL * np.abs(error).mean()),
        "mae": float(EV_KCAL_MOL * np.abs(within).mean()),
        "lowest_found": float(energy.argmin() == teacher.argmin()),
    }


# --- The command line -----------------------------------------------------------------------------


def add_part(file: Path, name: str, part: Part, student: Potential) -> None:
    """Put a part into a file, which holds nothing about other weights."""
    results = json.loads(file.read_text()) if file.exists() else {}
    if results.get("model_sha256") != student.sha256:
        results = {"model": student.name, "model_sha256": student.sha256}
    results[name] = part
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(without_nan(results), indent=1, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """None in place of what is not a number, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def setting(student: Potential) -> Part:
    """On what a part was measured, and how long it took."""
    cuda = student.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "backend": student.backend,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - _BEGAN, 1),
    }


_BEGAN = time.monotonic()


def log(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.monotonic() - _BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)


COMMANDS: dict[str, Callable[[argparse.Namespace, Potential], Part]] = {
    "teacher": against_teacher,
    "far": far,
    "members": members,
    "minima": minima,
    "protomers": protomers,
    "displaced": displaced,
    "nve": nve,
    "conformers": conformers,
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name)
        command.add_argument("--model", default="default")
        command.add_argument("--device", default="auto")
        command.add_argument("--backend", default="auto")
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--seed", type=int, default=7)
        if name in ("teacher", "far", "members", "minima", "protomers"):
            command.add_argument("--teacher", type=Path, required=True)
        if name != "conformers":
            command.add_argument("--held-out", type=Path, required=True)
            n_molecules = {"minima": 300, "protomers": 1000, "displaced": 300, "nve": 10}.get(
                name, 5400
            )
            command.add_argument("--molecules", type=int, default=n_molecules)
        if name in ("teacher", "far", "members"):
            command.add_argument("--test", type=Path, help="folder in which the labels are kept")
            command.add_argument("--conformers", type=int, default=2, help="of each molecule")
        if name == "minima":
            command.add_argument("--conformers", type=int, default=4)
            command.add_argument("--at-once", type=int, default=100)
            command.add_argument("--fmax", type=float, nargs="+", default=[0.05, 0.005])
            command.add_argument("--max-steps", type=int, default=500)
        if name == "protomers":
            command.add_argument("--at-once", type=int, default=32, help="for the teacher")
        if name == "displaced":
            command.add_argument("--conformers", type=int, default=1)
        if name == "nve":
            command.add_argument("--picoseconds", type=float, default=100.0)
            command.add_argument("--limit-s", type=float, default=float("inf"))
        if name == "conformers":
            command.add_argument("--conformers", type=Path, default=CONFORMERS)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    student = load_potential(arguments.model, device=arguments.device, backend=arguments.backend)
    part = COMMANDS[arguments.command](arguments, student)
    add_part(
        arguments.out,
        arguments.command,
        {**part, **setting(student)},
        student,
    )
    log(f"{arguments.command} done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
