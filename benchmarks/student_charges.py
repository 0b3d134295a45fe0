"""What partial charges bring a student: legs of equal samples from the same labels, in turns.

    python benchmarks/student_charges.py --teacher FILE --table HARD.parquet

All start from shipped weights less their charges, grown so that they compute the same at first;
they differ in what charges there are and what these do. They learn in turns, so that whenever the
script is cut off, all have seen as much. FILE of --teacher is what datasets/fetch_teacher.py
prints, HARD.parquet what datasets/make_hard.py chooses; what its connectivity holds out is tested.
Of each of these molecules a protonation state chosen at random is tested, too.
"""

import argparse
import copy
import logging
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from _harness import RESULTS, ROOT, Results, environment, render
from torch import Tensor

from benchmarks.accuracy import charges
from benchmarks.accuracy.protomers import charged_groups
from mlff_core.cores import usable_cores
from mlff_core.distill import evaluation
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.evaluation import TestBlock, make_test_blocks
from mlff_core.distill.growth import grown
from mlff_core.distill.labelling import Buckets, fill, pad
from mlff_core.distill.molecules import choose_molecules
from mlff_core.distill.pool import LabelPool
from mlff_core.distill.protomers import protomer
from mlff_core.distill.recipe import Recipe, read_recipe
from mlff_core.distill.sampling import KINDS
from mlff_core.distill.steps import embed_all
from mlff_core.distill.teacher import Label, LabelsMolecules, Teacher
from mlff_core.distill.training import Trainer
from mlff_core.models.checkpoint import read_checkpoint, save_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.potential import Potential, choose_device, load_potential
from mlff_core.models.reference import find_model
from mlff_core.testing import without_charges
from mlff_core.units import EV_KCAL_MOL


@dataclass(frozen=True)
class Variant:
    """How a leg differs from the others.

    Attributes:
        shape: Of the student, where it is not the shipped one's.
        training: Of the recipe's keys.
        one_member: Whether one of the teacher's members labels, which costs less.
    """

    shape: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    one_member: bool = False


_ALL = {"charges_after": 2, "charge_feedback": True, "coulomb": True}
VARIANTS = {
    "as it is": Variant(),
    "equilibration": Variant({"charges_after": 2}),
    "+ feedback": Variant({"charges_after": 2, "charge_feedback": True}),
    "+ Coulomb": Variant(_ALL),
    "+ Coulomb, total charge fades": Variant(_ALL, {"total_fades": 0.5}),
    "+ Coulomb, labels of one member": Variant(_ALL, one_member=True),
}
_FORCES = ("neutral", "charged")
#: Errors of a molecule's energy in kcal/mol from which on it is far off.
FAR_OFF = 5.0

log = logging.getLogger("student_charges")


class Test:
    """Held-out molecules, and other protonation states of them, labelled."""

    def __init__(
        self, molecules: list[Embedded], smiles: list[str], n_given: int, teacher: Teacher,
        recipe: Recipe, seed: int,
    ):  # fmt: skip
        """Label them.

        Args:
            molecules: With their conformers.
            smiles: What their indices name.
            n_given: The first so many are as the table has them, the others in another state.
            teacher: What labels.
            recipe: How geometries are made.
            seed: Of it.
        """
        # Plain operators keep all pairs of a block.
        limits = replace(recipe.labels, atoms_a_call=min(16384, recipe.labels.atoms_a_call))
        # As other students were tested, whatever this one learns from besides.
        sampling = replace(recipe.sampling, parted=0.0)
        self.blocks: list[TestBlock] = make_test_blocks(
            teacher, molecules, sampling, limits, Counter(), seed=seed
        )
        assert teacher.networks is not None
        members = charges.teachers_charges(self.blocks, teacher.networks)
        self.charges = [of_members.mean(0) for of_members in members]
        self.n_given = n_given
        self.signs = np.array([charged_groups(text) for text in smiles])

    def errors(self, network: PaiNN, device: torch.device) -> dict[str, Any]:
        """Of a student, by kinds of molecules."""
        student = Potential(copy.deepcopy(network), device=device, backend="plain")
        found = evaluation.geometry_errors(self.blocks, evaluation.on_padded(student))
        given, charged = found["molecule"] < self.n_given, found["charge"] != 0
        out: dict[str, Any] = {}
        for name, chosen in (("neutral", given & ~charged), ("charged", given & charged),
                             ("other protonation states", ~given)):  # fmt: skip
            if chosen.any():
                out[name] = evaluation.summarise(evaluation.subset(found, chosen))
        for name, chosen in self.groups(found["molecule"], charged).items():
            if chosen.any():
                part = evaluation.subset(found, chosen)
                out.setdefault(name, {})["between"] = between_molecules(part)
        if student.config.charges_after:
            off = charges.charge_errors(
                self.blocks, charges.students_charges(self.blocks, student), self.charges
            )
            given, charged = off["molecule"] < self.n_given, off["charge"] != 0
            for name, chosen in (("neutral", given & ~charged), ("charged", given & charged),
                                 ("other protonation states", ~given)):  # fmt: skip
                if chosen.any():
                    out[name] |= charges.summary(off, chosen)
        return out

    def groups(self, molecule: np.ndarray, charged: np.ndarray) -> dict[str, np.ndarray]:
        """Which geometries are of which kind of molecule."""
        given, signs = molecule < self.n_given, self.signs[molecule]
        return {
            "neutral": given & ~charged,
            "charged": given & charged,
            "other protonation states": ~given,
            "no charged group": ~given & (signs == 0).all(1),
            "groups of one sign": ~given & ((signs > 0).sum(1) == 1),
            "groups of both signs, one of each": ~given & (signs == 1).all(1),
            "groups of both signs, more": ~given & (signs > 0).all(1) & (signs > 1).any(1),
        }


def between_molecules(errors: dict[str, np.ndarray]) -> dict[str, float]:
    """Sizes of what all geometries of a molecule share of their energies' errors, in kcal/mol."""
    _, place, count = np.unique(errors["molecule"], return_inverse=True, return_counts=True)
    off = EV_KCAL_MOL * (errors["student_energy"] - errors["energy"])
    size = np.abs(np.bincount(place, off) / count)
    return {
        "n_molecules": len(size),
        "median": float(np.median(size)),
        "90_percent": float(np.quantile(size, 0.9)),
        "largest": float(size.max()),
        "far_off_percent": 100 * float((size > FAR_OFF).mean()),
    }


class OneMember:
    """A teacher of which one member labels: another for each call, the same for all it holds."""

    def __init__(self, teacher: Teacher):
        self.teacher, self.sha256, self.device = teacher, teacher.sha256, teacher.device

    def member(self, index: int, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """As that of the teacher."""
        return self.teacher.member(index, numbers, positions, charge)

    def __call__(self, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """The label; energies of different members would have no differences worth learning."""
        return self.member(int(numbers.sum()), numbers, positions, charge)


def labelled(
    molecules: list[Embedded],
    teacher: LabelsMolecules,
    student: Potential,
    recipe: Recipe,
    seed: int,
) -> LabelPool:
    """The teacher's labels, charges among them, of where a student goes."""
    buckets = Buckets(recipe.labels.atoms_a_call, 2)
    buckets.add(molecules)
    pool = LabelPool(
        len(molecules), 2 * len(KINDS), max(buckets.sizes), teacher.device, with_charges=True
    )
    counts: Counter[str] = Counter()
    driver, rng = evaluation.driver_of(student), random.Random(seed)
    while (taken := buckets.take(partial=True)) is not None:
        width, chunk = taken
        padded = pad(chunk, width, teacher.device)
        fill(pool, teacher, driver, padded, recipe.sampling.drawn(rng), recipe.labels, counts)
    log.info("%s", dict(counts))
    return pool


def legs(
    shipped: PaiNN, pools: dict[bool, LabelPool], recipe: Recipe, chosen: list[str], seed: int
) -> dict[str, Trainer]:
    """A student of each kind, ready to learn."""
    found: dict[str, Trainer] = {}
    for name in chosen:
        variant = VARIANTS[name]
        pool = pools[variant.one_member]
        network = grown(shipped, replace(shipped.config, **variant.shape), seed=seed)
        trainer = Trainer(network, pool, replace(recipe.training, **variant.training))
        trainer.size_batches()
        torch.manual_seed(seed)
        if pool.energy.is_cuda:
            trainer.capture()
            torch.cuda.synchronize()
        log.info("%s is ready", name)
        found[name] = trainer
    return found


def learn(trainer: Trainer, first: int, n_steps: int, total: int) -> float:
    """So many steps of so many; returns how long they took in seconds."""
    began = time.monotonic()
    for k in range(first, first + n_steps):
        trainer.step(k / total)
    if trainer.pool.energy.is_cuda:
        torch.cuda.synchronize()
    return time.monotonic() - began


def tables(
    arguments: argparse.Namespace, recipe: Recipe, *, both_signs: bool = False
) -> tuple[list[str], list[str], int]:
    """SMILES to learn from, and to test; the first so many of these as they were chosen.

    Args:
        arguments: Of the command line.
        recipe: Its molecules.
        both_signs: Half of the other protonation states have groups of both signs.
    """
    table = pq.read_table(arguments.table, columns=["smiles"])["smiles"].to_pylist()
    chosen, _ = choose_molecules(table, recipe.molecules, n_processes=usable_cores())
    known = [choice.smiles for choice in chosen if not choice.held_out]
    other = [choice.smiles for choice in chosen if choice.held_out][: arguments.n_test]
    rng = random.Random(arguments.seed)
    states = [
        protomer(text, rng, max_charge=3, both_signs=both_signs and k % 2 == 0)
        for k, text in enumerate(other)
    ]
    given = set(other)
    more = sorted({state for state in states if state is not None and state not in given})
    return known[: arguments.n_molecules], other + more, len(other)


def markdown(content: dict[str, Any]) -> str:
    """Each leg at its end, and the weights that all began with."""
    last = max(row.get("round", 0) for row in content["rows"])
    lines = [
        "| leg | ms a step | forces, neutral | charged | far off, other states | 90 % within "
        "| both signs, more than one of each | charges | dipole |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in content["rows"]:
        if row.get("round", last) != last:
            continue
        other, both = row["other protonation states"], row["groups of both signs, more"]
        cells = [
            row["name"],
            f"{row['ms_a_step']:.1f}" if "ms_a_step" in row else "",
            *(f"{row[k]['force_mae']:.1f} / {row[k]['force_rmse']:.0f}" for k in _FORCES),
            f"{other['between']['far_off_percent']:.0f} %",
            f"{other['between']['90_percent']:.1f}",
            f"{both['between']['median']:.1f} / {both['between']['90_percent']:.0f}",
            f"{other['charge_mae_e']:.4f}" if "charge_mae_e" in other else "",
            f"{other['dipole_mae_debye']:.2f}" if "dipole_mae_debye" in other else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    samples = max(row["samples"] for row in content["rows"])
    return "\n".join(
        [
            f"{samples:,} samples each of labels of {content['molecules']:,} molecules, batches of "
            f"{content['batch']}, one {content['device'].removeprefix('NVIDIA ')}, commit "
            f"{content['commit'][:7]}. Held-out molecules: forces MAE / RMSE in meV/Å; energies "
            "between molecules in kcal/mol (share beyond 5; quantiles; median / 90 %); charges in "
            "e and dipoles in D of other protonation states.",
            "",
            *lines,
        ]
    )


def main(words: list[str] | None = None) -> None:
    """The command line."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--render", action="store_true", help="only the table of --out")
    for name in ("teacher", "table"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "student_charges.json")
    parser.add_argument("--weights", type=Path, help="folder for the weights of each leg")
    parser.add_argument("--recipe", type=Path, default=ROOT / "datasets/recipes/charges.toml")
    parser.add_argument("--model", default="small")
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=350.0, help="for everything")
    parser.add_argument("--n-molecules", type=int, default=10000)
    parser.add_argument("--n-test", type=int, default=700)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--ema-decay", type=float, default=0.995, help="short, as the legs are")
    parser.add_argument("--batch", type=int, default=256, help="geometries")
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args(words)
    if arguments.render:
        render(arguments.out, markdown)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    seed, device = arguments.seed, choose_device(arguments.device)
    recipe = read_recipe(arguments.recipe)
    changes = {"learning_rate": arguments.learning_rate, "n_mols": arguments.batch}
    changes["ema_decay"] = arguments.ema_decay
    # What torch.compile takes to begin with, so short legs do not gain back.
    training = replace(recipe.training, compile=False, warmup_steps=100, **changes)
    recipe = replace(recipe, training=training)
    known, tested, n_given = tables(arguments, recipe)
    with ThreadPoolExecutor(1) as beside:
        embedding = beside.submit(
            lambda: [embed_all(s, n, seed, usable_cores())[0] for s, n in ((tested, 1), (known, 2))]
        )
        teacher = Teacher(arguments.teacher, device)
        driver = load_potential("small", device=device, precision="float32")
        held_out, molecules = embedding.result()
    log.info("embedded %d + %d after %.0f s", len(molecules), len(held_out),
             time.monotonic() - began)  # fmt: skip
    torch.manual_seed(seed)
    test = Test(held_out, tested, n_given, teacher, recipe, seed)
    pools: dict[bool, LabelPool] = {}
    took_s: dict[str, float] = {}
    for one in sorted({VARIANTS[name].one_member for name in arguments.variants}):
        since = time.monotonic()
        opinion = OneMember(teacher) if one else teacher
        pools[one] = pool = labelled(molecules, opinion, driver, recipe, seed)
        took_s["one member" if one else "mean of all"] = time.monotonic() - since
        log.info("%d molecules labelled after %.0f s", pool.n_stored, time.monotonic() - began)
    shipped = without_charges(read_checkpoint(find_model(arguments.model))[0])
    about = {
        "model": arguments.model,
        "molecules": pool.n_stored,
        "learning_rate": arguments.learning_rate,
        "ema_decay": arguments.ema_decay,
        "batch": arguments.batch,
        "labels_took_s": took_s,
    }
    results = Results(arguments.out, environment(device) | about)
    results.add({"name": "before", "samples": 0, **test.errors(shipped, device)})
    trainers = legs(shipped, pools, recipe, arguments.variants, seed)
    n_done = 20 if pool.energy.is_cuda else 1
    step_s = {name: learn(t, 0, n_done, 1000) / n_done for name, t in trainers.items()}
    left = arguments.seconds - (time.monotonic() - began) - 15.0 * (arguments.rounds - 1)
    a_round = max(1, int(left / sum(step_s.values()) / arguments.rounds))
    total = n_done + a_round * arguments.rounds
    log.info("%d steps each, ms a step: %s", total, {k: 1e3 * s for k, s in step_s.items()})
    for number in range(1, arguments.rounds + 1):
        took = {name: learn(t, n_done, a_round, total) for name, t in trainers.items()}
        n_done += a_round
        for name, trainer in trainers.items():
            row: dict[str, Any] = {
                "name": name,
                "round": number,
                "samples": n_done * arguments.batch,
            }
            row |= {"start_left_in_mean": trainer.start_left}
            row |= {"ms_a_step": 1e3 * took[name] / a_round, **trainer.metrics.read()}
            read = trainer.averaged.partial_charges
            if read is not None and read.strength is not None:
                row["strength"] = float(read.strength)
            if read is not None and read.feedback is not None:
                row["feedback_norm"] = float(read.feedback.norm())
            if number in (arguments.rounds, arguments.rounds // 2):
                row |= test.errors(trainer.averaged, device)
            results.add(row)
            if arguments.weights and number in (arguments.rounds, arguments.rounds // 2):
                file = (
                    arguments.weights / f"{name.replace(' ', '_').replace('+', 'plus')}.safetensors"
                )
                save_checkpoint(trainer.averaged, file, {})
        render(arguments.out, markdown)
        log.info("round %d after %.0f s", number, time.monotonic() - began)


if __name__ == "__main__":
    main()
