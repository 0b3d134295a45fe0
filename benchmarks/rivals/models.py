"""Models behind our relaxation: ours, ours without kernels, the teacher; and others' over ours."""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch

from benchmarks._harness import synchronize
from benchmarks.accuracy.ranking import CONFORMERS, ranking, stored
from benchmarks.rivals.bench import FMAX, MAX_STEPS, SETTINGS, Bench, Conformer, Row, Start
from mlff_core.batch import MolBatch
from mlff_core.buckets import batch_sizes
from mlff_core.distill.teacher import Teacher
from mlff_core.distill.teacher_force_field import TeacherForceField
from mlff_core.models.force_field import Domain, ForceField, Outputs
from mlff_core.models.painn import PaiNN
from mlff_core.models.potential import Potential, load_potential
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.slots import Molecule
from mlff_core.moves.threads import relax_molecules
from mlff_core.neighbors import neighbor_pairs


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
    force_field: ForceField,
    starts: list[Start],
    n_slots: int | None,
    first: ForceField | None = None,
) -> Row:
    """Our relaxation over any force field; `n_slots` None for what "auto" says.

    With "auto" the slots are filled once before the clock starts, as kernels and graphs are made
    for these shapes; others have nothing to make but what a few molecules make too.
    """
    conformers: list[Conformer] = [(s.numbers, s.positions, s.charge) for s in starts]

    def run(some: list[Conformer]) -> list[Any]:
        if n_slots is None:
            return relax_conformers(some, force_field, SETTINGS, pre_relax=first)
        molecules = [Molecule(k, *conformer) for k, conformer in enumerate(some)]
        return list(relax_molecules(molecules, force_field, SETTINGS, n_slots, n_threads=1))

    run(conformers[: 1024 if n_slots is None else 8])
    synchronize(force_field.device)
    begin = time.perf_counter()
    ended = run(conformers)
    synchronize(force_field.device)
    seconds = time.perf_counter() - begin
    converged = np.mean([str(relaxed.status) == "converged" for relaxed in ended])
    return Row(len(ended), seconds, float(converged), mae_of(force_field))


def ours(model: str, precision: str) -> Callable[[Bench], Row]:
    """What is shipped, as a screen uses it: the default model after a first walk by the small."""

    def row(bench: Bench) -> Row:
        how = {"device": bench.device, "precision": precision}
        first = load_potential("small", **how) if model == "default" else None
        return relaxed_by(load_potential(model, **how), bench.starts, None, first)

    return row


def differentiated(compiled: bool) -> Callable[[Bench], Row]:
    """The default model without kernels of ours."""

    def row(bench: Bench) -> Row:
        potential = load_potential("default", device=bench.device, backend="plain")
        starts = bench.starts[: max(bench.few, len(bench.starts) // 8)]
        # A quarter of the slots: its tensors of pairs are as many as its layers.
        slots = max(batch_sizes("auto", bench.device, potential.bytes_per_edge)["large"] // 4, 8)
        return relaxed_by(Differentiated(potential, compiled), starts, slots)

    return row


def teacher(members: int, scripted: bool) -> Callable[[Bench], Row]:
    """AIMNet2 by its TorchScript, or by `distill/aimnet2.py`; one member, or the mean of four."""

    def row(bench: Bench) -> Row:
        if bench.teacher is None:
            raise FileNotFoundError("no file of the teacher was given")
        opened = Teacher(bench.teacher, bench.device, scripted=scripted)
        label = opened if members > 1 else (lambda z, x, q: opened.member(0, z, x, q))
        starts = bench.starts[: max(bench.few, len(bench.starts) // 8)]
        return relaxed_by(TeacherForceField(label, bench.device), starts, len(starts))

    return row


def torch_sim(bench: Bench) -> Row:
    """torch-sim's FIRE over the default model, the quicker of its two in relaxation.py."""
    import_module("torch_sim")
    from benchmarks.relaxation import measure_torch_sim

    potential = load_potential("default", device=bench.device, precision="float32")
    rows = measure_torch_sim(potential, max(bench.few, len(bench.starts) // 8))
    best = max((r for r in rows if "conformers_per_s" in r), key=lambda r: r["conformers_per_s"])
    seconds = best["conformers"] / best["conformers_per_s"]
    return Row(best["conformers"], seconds, best["converged"], mae_of(potential))


def ase_one_by_one(bench: Bench) -> Row:
    """ASE's LBFGS over our calculator."""
    from benchmarks.relaxation import ase_relax
    from mlff_core.calculator import PaiNNCalculator

    potential = load_potential("default", device=bench.device, precision="float32")
    calculator = PaiNNCalculator(potential)
    conformers = [(s.numbers, s.positions, s.charge) for s in bench.starts[: bench.few // 2]]
    ase_relax(conformers[:1], calculator, FMAX, 5)
    begin = time.perf_counter()
    steps, _, _ = ase_relax(conformers, calculator, FMAX, MAX_STEPS)
    seconds = time.perf_counter() - begin
    converged = float(np.mean(np.array(steps) < MAX_STEPS))
    return Row(len(conformers), seconds, converged, mae_of(potential))
