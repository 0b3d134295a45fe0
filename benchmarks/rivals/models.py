"""Models behind our relaxation: ours, ours without kernels, the teacher; and others' over ours."""

from collections.abc import Callable, Iterator
from importlib import import_module

import numpy as np
import torch

from benchmarks._harness import synchronize
from benchmarks.accuracy.ranking import CONFORMERS, ranking, stored
from benchmarks.rivals.bench import (
    FMAX,
    MAX_STEPS,
    SETTINGS,
    WATER,
    Bench,
    Conformer,
    Row,
    Start,
    taken,
)
from mlff_core.batch import MolBatch
from mlff_core.distill.teacher import Teacher
from mlff_core.distill.teacher_force_field import TeacherForceField
from mlff_core.models.force_field import Domain, ForceField, Outputs
from mlff_core.models.painn import PaiNN
from mlff_core.models.potential import Potential, load_potential
from mlff_core.moves.ended import Relaxed
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.slots import Molecule
from mlff_core.moves.threads import relax_molecules
from mlff_core.neighbors import neighbor_pairs
from mlff_core.status import ConformerStatus

#: Molecules at once of what is not ours: as many as make the device busy, and fit.
TEACHER_SLOTS, PLAIN_SLOTS = 1024, 512


class Differentiated:
    """PaiNN as it is written, forces by automatic differentiation, as a `ForceField`."""

    dtype = torch.float32
    sha256 = ""
    cutoff = 5.0
    bare_step: Callable[[MolBatch], Outputs] | None = None

    def __init__(self, potential: Potential, compiled: bool):
        self.name, self.device = "compiled" if compiled else "eager", potential.device
        self.domain, self.bytes_per_edge = Domain(), 4 * potential.bytes_per_edge
        model: PaiNN = potential.model
        self.energy = torch.compile(model, dynamic=True) if compiled else model

    def evaluate(self, batch: MolBatch) -> Outputs:
        """As `ForceField.evaluate`."""
        with torch.enable_grad():
            x = batch.positions.detach().requires_grad_(True)
            i, j = neighbor_pairs(x.detach(), batch.ptr, self.cutoff)
            energy = self.energy(batch.numbers, x, batch.mol_idx, batch.charge, i, j)
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        return Outputs(energy.detach().double(), -gradient)


def mae_of(force_field: ForceField) -> float:
    """Mean error of conformers' energies within a molecule, kcal/mol, over the molecules."""
    errors = []
    for molecule in stored(CONFORMERS):
        numbers, charge = molecule["numbers"].astype(np.int64), int(molecule["charge"])
        batch = MolBatch.from_arrays(
            [(numbers, x, charge) for x in molecule["positions"]], device=force_field.device
        )
        energy = force_field.evaluate(batch).energy.cpu().numpy()
        errors.append(ranking(energy, molecule["teacher"])["mae"])
    return float(np.mean(errors))


def relaxed_by(
    bench: Bench, force_field: ForceField, n_slots: int | None, first: ForceField | None = None
) -> Row:
    """Our relaxation over any force field; `n_slots` None for what "auto" says.

    With "auto" the slots are filled once before the clock starts, as kernels and graphs are made
    for these shapes; others have nothing to make but what a few molecules make too.
    """
    conformers: list[Conformer] = [(s.numbers, s.positions, s.charge) for s in bench.starts]

    def ends(some: list[Conformer]) -> Iterator[Relaxed]:
        if n_slots is None:
            yield from relax_conformers(some, force_field, SETTINGS, pre_relax=first)
            return
        molecules = [Molecule(k, *conformer) for k, conformer in enumerate(some)]
        yield from relax_molecules(molecules, force_field, SETTINGS, n_slots, n_threads=1)

    taken(ends(conformers[: 1024 if n_slots is None else 8]), bench.seconds)
    synchronize(force_field.device)
    ended, seconds = taken(ends(conformers), bench.seconds)
    converged = np.mean([relaxed.status == ConformerStatus.CONVERGED for relaxed in ended])
    return Row(len(ended), len(conformers), seconds, float(converged), mae_of(force_field))


def ours(model: str, precision: str) -> Callable[[Bench], Row]:
    """What is shipped, as a screen uses it: the default model after a first walk by the small."""

    def row(bench: Bench) -> Row:
        how = {"device": bench.device, "precision": precision}
        first = load_potential("small", **how) if model == "default" else None
        return relaxed_by(bench, load_potential(model, **how), None, first)

    return row


def differentiated(compiled: bool) -> Callable[[Bench], Row]:
    """The default model without kernels of ours."""

    def row(bench: Bench) -> Row:
        potential = load_potential("default", device=bench.device, backend="plain")
        return relaxed_by(bench, Differentiated(potential, compiled), PLAIN_SLOTS)

    return row


def teacher(members: int, scripted: bool) -> Callable[[Bench], Row]:
    """AIMNet2 by its TorchScript, or by `distill/aimnet2.py`; one member, or the mean of four."""

    def row(bench: Bench) -> Row:
        if bench.teacher is None:
            raise FileNotFoundError("no file of the teacher was given")
        opened = Teacher(bench.teacher, bench.device, scripted=scripted)
        label = opened if members > 1 else (lambda z, x, q: opened.member(0, z, x, q))
        return relaxed_by(bench, TeacherForceField(label, bench.device), TEACHER_SLOTS)

    return row


def torch_sim(bench: Bench) -> Row:
    """torch-sim's FIRE over the default model; its states have no charge, so of neutral ones."""
    import_module("torch_sim")
    from benchmarks.relaxation import measure_torch_sim

    potential = load_potential("default", device=bench.device, precision="float32")
    neutral = [(s.numbers, s.positions, s.charge) for s in bench.starts if s.charge == 0]
    measure_torch_sim(potential, neutral[:8], ("fire",))
    (found,) = measure_torch_sim(potential, neutral, ("fire",))
    seconds = len(neutral) / found["conformers_per_s"]
    return Row(len(neutral), len(neutral), seconds, found["converged"], mae_of(potential))


def ase_one_by_one(bench: Bench) -> Row:
    """ASE's LBFGS over our calculator."""
    from benchmarks.relaxation import ase_relax
    from mlff_core.calculator import PaiNNCalculator

    potential = load_potential("default", device=bench.device, precision="float32")
    calculator = PaiNNCalculator(potential)

    def steps_of(start: Start, most: int = MAX_STEPS) -> int:
        one = (start.numbers, start.positions, start.charge)
        return ase_relax([one], calculator, FMAX, most)[0][0]

    steps_of(WATER, 5)
    steps, seconds = taken(map(steps_of, bench.starts), bench.seconds)
    converged = float(np.mean(np.array(steps) < MAX_STEPS))
    return Row(len(steps), len(bench.starts), seconds, converged, mae_of(potential))
