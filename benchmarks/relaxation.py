"""Conformers relaxed a second: ours beside ASE's sequential LBFGS and torch-sim, on one model.

    python benchmarks/relaxation.py [--device auto|cpu|cuda] [--model default|random|PATH]
        [--conformers N] [--reference N] [--rounds N] [--json FILE]

Conformers are those of molecules.npz (ETKDG, 30 to 50 atoms, mean 40), again and again, each time
turned at random and displaced by 0.02 Å, so that no two are alike. Correctness comes first: alone
and in a batch, captured and not, the same molecules end alike. Then each row relaxes to fmax
0.05 eV/Å in at most 300 steps and is timed from host arrays to host arrays, `--rounds` times with
new coordinates, after one run that is not counted. "Busy" is the share of the time in which the
device ran captured steps, by its own events. On a CPU ours and ASE then take turns on the same few
conformers, and the median of the ratios is what counts; ASE then has one thread or as many as
PyTorch takes by itself, whichever is quicker.

The reference is ASE's LBFGS with its defaults, one molecule after the other, with the same model
and device. Then both relax `--reference` molecules, one conformer each, to 0.05 and on to 0.01 eV/Å
(ASE on a CPU in a process a core): how many steps, how far apart are the energies, and do they end
in the same minimum? What they reached is tightened to 0.001 eV/Å by our L-BFGS; two paths ended in
one basin if they are then less than 0.1 Å (RMSD, aligned) and 0.05 kcal/mol apart. The same is
asked of ASE against itself, started 0.001 Å off. Last, how far above the bottom, which is where
our L-BFGS comes to at 0.001 eV/Å, do the molecules stand at other fmax?
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from _harness import conformers as load_conformers
from _harness import synchronize
from ase import Atoms
from ase.optimize import LBFGS

import mlff_core.moves.in_flight as in_flight_module
from mlff_core.batch import MolBatch
from mlff_core.buckets import batch_sizes
from mlff_core.calculator import PaiNNCalculator
from mlff_core.chem.superpose import aligned_rmsd
from mlff_core.cores import usable_cores
from mlff_core.models.potential import Potential, load_potential
from mlff_core.moves.ended import Relaxed
from mlff_core.moves.relax import relax, relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule
from mlff_core.moves.stepper import Stepper
from mlff_core.moves.threads import relax_molecules
from mlff_core.testing import random_model
from mlff_core.units import EV_KCAL_MOL

FMAX, MAX_STEPS = 0.05, 300
#: On a CPU: how often ours and ASE take turns, and on how many conformers.
N_PAIRS, N_PAIRED = 3, 64
#: Where final energies are compared, eV/Å.
TIGHT = 0.01
SAME_KCAL_MOL = 0.01
#: From where the bottom is looked at, eV/Å.
RESIDUAL_FMAX, BOTTOM_FMAX = (0.05, 0.02, 0.01, 0.005, 0.002), 0.001
#: Two tightened conformations nearer than this are one minimum.
SAME_ANGSTROM, SAME_BASIN_KCAL_MOL = 0.1, 0.05
Conformer = tuple[np.ndarray, np.ndarray, int]


class TimedStepper(Stepper):
    """A stepper that marks on the device when its bursts begin and end."""

    marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []  # noqa: RUF012, shared on purpose

    def run(self, n_steps: int, *, per_launch: int = 1) -> None:
        """As in `Stepper`."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        super().run(n_steps, per_launch=per_launch)
        end.record()
        self.marks.append((begin, end))

    @classmethod
    def seconds(cls, since: torch.cuda.Event) -> float:
        """How long steps ran since an event, those that ran side by side counted once."""
        spans = [tuple(since.elapsed_time(mark) for mark in pair) for pair in cls.marks]
        busy = until = 0.0
        for begin, end in sorted(spans):
            busy += max(end - max(begin, until), 0.0)
            until = max(until, end)
        return busy / 1e3


def in_flight(
    potential: Potential, n_slots: int | None, n_threads: int | None = None, **settings: Any
) -> Callable:
    """Slots that are filled again as molecules end; None for what "auto" says."""

    def run(conformers: list[Conformer]) -> list[Relaxed]:
        if n_slots is None:
            return relax_conformers(
                conformers, potential, RelaxSettings(fmax=FMAX, max_steps=MAX_STEPS)
            )
        asked = RelaxSettings(fmax=FMAX, max_steps=MAX_STEPS, **settings)
        molecules = [Molecule(k, *conformer) for k, conformer in enumerate(conformers)]
        ended = relax_molecules(molecules, potential, asked, n_slots, n_threads=n_threads)
        return list(ended)

    return run


def batch_by_batch(potential: Potential, n_slots: int, **settings: Any) -> Callable:
    """No in-flight batching: each batch waits for its slowest molecule."""
    one = in_flight(potential, n_slots, **settings)

    def run(conformers: list[Conformer]) -> list[Relaxed]:
        ended = []
        for k in range(0, len(conformers), n_slots):
            ended += one(conformers[k : k + n_slots])
        return ended

    return run


def measure(
    name: str, run: Callable, potential: Potential, n: int, rounds: int, batch_size: int
) -> dict[str, Any]:
    """One row of the table."""
    cuda = potential.device.type == "cuda"
    if cuda:
        in_flight_module.Stepper = TimedStepper  # type: ignore[misc]
    seconds, busy, ended = [], [], []
    for k in range(rounds + 1):
        # What is not counted need not be long: it fills the slots once.
        n_now = n if k else min(n, batch_size)
        conformers = load_conformers(n_now, seed=100 + k)
        TimedStepper.marks = []
        synchronize(potential.device)
        since = torch.cuda.Event(enable_timing=True) if cuda else None
        if since is not None:
            since.record()
        begin = time.perf_counter()
        ended = run(conformers)
        synchronize(potential.device)
        wall = time.perf_counter() - begin
        if k:
            seconds.append(wall)
            if since is not None:
                busy.append(TimedStepper.seconds(since) / wall)
    status = Counter(str(r.status) for r in ended)
    n_steps = np.array([r.n_steps for r in ended])
    atom_steps = sum(len(r.positions) * (r.n_steps + 1) for r in ended)
    wall = statistics.median(seconds)
    return {
        "name": name,
        "conformers": n,
        "batch_size": batch_size,
        "seconds": seconds,
        "conformers_per_s": n / wall,
        "us_per_atom_step": wall / atom_steps * 1e6,
        "steps_median": float(np.median(n_steps)),
        "steps_90": float(np.quantile(n_steps, 0.9)),
        "converged": status["converged"] / n,
        "status": dict(status),
        "busy": statistics.median(busy) if busy else None,
    }


def ase_relax(
    conformers: list[Conformer], calculator: PaiNNCalculator, fmax: float, max_steps: int
) -> tuple[list[int], list[float], list[np.ndarray]]:
    """Steps, final energies in eV and final positions of ASE's LBFGS, one by one."""
    steps, energies, positions = [], [], []
    for numbers, x, charge in conformers:
        atoms = Atoms(numbers, x, info={"charge": charge}, calculator=calculator)
        optimizer = LBFGS(atoms, logfile=None)
        optimizer.run(fmax=fmax, steps=max_steps)
        steps.append(optimizer.nsteps)
        energies.append(atoms.get_potential_energy())
        positions.append(atoms.positions.copy())
    return steps, energies, positions


def measure_ase(potential: Potential, n: int, rounds: int) -> dict[str, Any]:
    """The row of ASE's LBFGS."""
    calculator = PaiNNCalculator(potential)
    ase_relax(load_conformers(1, seed=99), calculator, FMAX, 5)
    seconds, steps = [], []
    for k in range(max(rounds, 1)):
        conformers = load_conformers(n, seed=101 + k)
        begin = time.perf_counter()
        steps, _, _ = ase_relax(conformers, calculator, FMAX, MAX_STEPS)
        seconds.append(time.perf_counter() - begin)
    wall = statistics.median(seconds)
    atom_steps = sum(len(z) * (s + 1) for (z, _, _), s in zip(conformers, steps, strict=True))
    return {
        "name": "ASE LBFGS, one by one",
        "conformers": n,
        "batch_size": 1,
        "seconds": seconds,
        "conformers_per_s": n / wall,
        "us_per_atom_step": wall / atom_steps * 1e6,
        "steps_median": float(np.median(steps)),
        "steps_90": float(np.quantile(steps, 0.9)),
        "converged": float(np.mean(np.array(steps) < MAX_STEPS)),
        "busy": None,
    }


def ase_threads(potential: Potential) -> int:
    """With how many threads ASE is quicker on a CPU: one, or as many as PyTorch takes by itself.

    The operations of one molecule's force call are so small that waking a second thread may cost
    more than it saves.
    """
    calculator, conformers = PaiNNCalculator(potential), load_conformers(6, seed=98)
    before = torch.get_num_threads()
    seconds = {}
    for n_threads in (1, before):
        torch.set_num_threads(n_threads)
        ase_relax(conformers[:1], calculator, FMAX, 5)
        begin = time.perf_counter()
        ase_relax(conformers, calculator, FMAX, 30)
        seconds[n_threads] = time.perf_counter() - begin
    torch.set_num_threads(before)
    return min(seconds, key=lambda n_threads: seconds[n_threads])


def pair_with_ase(potential: Potential, k: int, n_threads: int) -> float:
    """ASE's time over ours on the same few conformers, one right after the other.

    Where others use the same cores, both meet the same weather, which two long runs do not. ASE
    has `n_threads`, ours what PyTorch takes by itself.
    """
    conformers = load_conformers(N_PAIRED, seed=200 + k)
    begin = time.perf_counter()
    relax_conformers(conformers, potential, RelaxSettings(fmax=FMAX, max_steps=MAX_STEPS))
    middle = time.perf_counter()
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    ase_relax(conformers, PaiNNCalculator(potential), FMAX, MAX_STEPS)
    torch.set_num_threads(before)
    return (time.perf_counter() - middle) / (middle - begin)


def path_of_ase(
    conformer: Conformer, potential: Potential, noise: float = 0.0
) -> tuple[int, float, np.ndarray]:
    """ASE's LBFGS from a conformer or near it: steps to FMAX, energy and positions at TIGHT."""
    numbers, x, charge = conformer
    x = x + np.random.default_rng(len(x)).normal(size=x.shape) * noise
    atoms = Atoms(numbers, x, info={"charge": charge}, calculator=PaiNNCalculator(potential))
    optimizer, steps = LBFGS(atoms, logfile=None), -1
    for _ in optimizer.irun(fmax=TIGHT, steps=1000):
        if steps < 0 and np.linalg.norm(atoms.get_forces(), axis=1).max() < FMAX:
            steps = optimizer.nsteps
    return steps, atoms.get_potential_energy(), atoms.positions.copy()


def ase_in_a_process(
    conformer: Conformer, model: str, noise: float = 0.0
) -> tuple[int, float, np.ndarray]:
    """`path_of_ase` on a CPU, with one core."""
    torch.set_num_threads(1)
    return path_of_ase(conformer, cpu_potential(model), noise)


@cache
def cpu_potential(model: str) -> Potential:
    """A model on the CPU; "random" has random weights."""
    return load(model, "cpu", "auto")


def load(model: str, device: str, backend: str) -> Potential:
    """A model on a device; "random" has random weights."""
    if model == "random":
        return Potential(random_model(), device=device, backend=backend)
    return load_potential(model, device=device, backend=backend)


def paths_of_ase(
    potential: Potential, model: str, n: int, n_processes: int, noise: float = 0.0
) -> list[tuple[int, float, np.ndarray]]:
    """What `path_of_ase` returns for each conformer."""
    conformers = load_conformers(n, seed=7)
    if potential.device.type == "cuda":
        return [path_of_ase(conformer, potential, noise) for conformer in conformers]
    with get_context("spawn").Pool(n_processes) as pool:
        return pool.map(partial(ase_in_a_process, model=model, noise=noise), conformers, 1)


def final_energies(potential: Potential, theirs: list) -> dict[str, Any]:
    """How often ours ends within 0.01 kcal/mol of ASE's LBFGS at TIGHT; nothing is tightened."""
    batch = MolBatch.from_arrays(load_conformers(len(theirs), seed=7), dtype=torch.float64)
    reference = np.array([energy for _, energy, _ in theirs])
    result: dict[str, Any] = {"conformers": len(theirs)}
    for optimizer in ("lbfgs", "ase-lbfgs"):
        ours = relax(batch, potential, fmax=TIGHT, max_steps=2000, optimizer=optimizer)
        apart = np.abs(ours.energy.cpu().numpy() - reference) * EV_KCAL_MOL
        result[optimizer] = {
            "within_0.01": int((apart <= SAME_KCAL_MOL).sum()),
            "converged": ours.status.count("converged"),
        }
    return result


def compare_with_ase(potential: Potential, theirs: list, beside: list) -> dict[str, Any]:
    """Steps, final energies and basins beside ASE's LBFGS, on the same molecules."""
    n = len(theirs)
    batch = MolBatch.from_arrays(load_conformers(n, seed=7), dtype=torch.float64)

    def tightened(positions: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        moved = batch.with_positions(torch.from_numpy(np.concatenate(positions)))
        end = relax(moved, potential, fmax=BOTTOM_FMAX, max_steps=2000)
        return end.energy.cpu().numpy(), [x.numpy() for x in end.batch.split(end.batch.positions)]

    def against_ase(energy: np.ndarray, positions: list[np.ndarray]) -> dict[str, float]:
        """Basins, and differences in energy in kcal/mol."""
        bottom, at_bottom = tightened(positions)
        loose = (energy - reference_energy) * EV_KCAL_MOL
        tight = (bottom - reference_bottom) * EV_KCAL_MOL
        apart = aligned_rmsd(at_bottom, reference_at)
        same = (apart < SAME_ANGSTROM) & (np.abs(tight) < SAME_BASIN_KCAL_MOL)
        other = tight[~same] if not same.all() else np.zeros(1)
        return {
            "within_0.01": float(np.mean(np.abs(loose) <= SAME_KCAL_MOL)),
            "same_basin": float(same.mean()),
            "in_it_within_0.01_tightened": float(np.mean(np.abs(tight[same]) <= SAME_KCAL_MOL)),
            "in_it_within_0.01": float(np.mean(np.abs(loose[same]) <= SAME_KCAL_MOL)),
            "in_it_not_above_by_0.01": float(np.mean(loose[same] <= SAME_KCAL_MOL)),
            "in_it_median": float(np.median(loose[same])),
            "elsewhere_lower": float(np.mean(other < 0)),
            "elsewhere_mean": float(other.mean()),
            "elsewhere_median": float(np.median(other)),
        }

    steps = np.array([s for s, _, _ in theirs])
    reference_energy = np.array([e for _, e, _ in theirs])
    reference_bottom, reference_at = tightened([x for _, _, x in theirs])
    above = (reference_energy - reference_bottom) * EV_KCAL_MOL
    result: dict[str, Any] = {
        "conformers": n,
        "ASE": {
            "steps_median": float(np.median(steps)),
            "above_the_bottom_median": float(np.median(above)),
        },
        "ASE, started 0.001 Å off": against_ase(
            np.array([e for _, e, _ in beside]), [x for _, _, x in beside]
        ),
    }
    for label, options in {
        "L-BFGS": {},
        "L-BFGS, constant initial Hessian": {"model_hessian": False},
        "FIRE": {"optimizer": "fire"},
        "ASE's L-BFGS, in batches": {"optimizer": "ase-lbfgs"},
    }.items():
        ours = relax(batch, potential, fmax=FMAX, max_steps=MAX_STEPS, **options)
        n_steps = ours.n_steps.cpu().numpy()
        tight = relax(batch, potential, fmax=TIGHT, max_steps=2000, **options)
        own = [x.double().numpy() for x in batch.split(tight.batch.positions.cpu())]
        result[label] = {
            "steps_median": float(np.median(n_steps)),
            "steps_ratio_median": float(np.median(n_steps / np.maximum(steps, 1))),
            **against_ase(tight.energy.cpu().numpy(), own),
        }
    return result


def above_the_bottom(potential: Potential, n: int) -> dict[str, dict[str, float]]:
    """What is left of the way down, in kcal/mol, by fmax in eV/Å."""
    batch = MolBatch.from_arrays(load_conformers(n, seed=7))
    bottom = relax(batch, potential, fmax=BOTTOM_FMAX, max_steps=2000).energy
    found = {}
    for fmax in RESIDUAL_FMAX:
        # The same path, left earlier.
        ours = relax(batch, potential, fmax=fmax, max_steps=2000)
        above = ((ours.energy - bottom) * EV_KCAL_MOL).cpu().numpy()
        found[f"{fmax}"] = {
            "steps_median": float(ours.n_steps.double().median()),
            "median": float(np.median(above)),
            "90 %": float(np.quantile(above, 0.9)),
            "within_0.01": float(np.mean(above <= SAME_KCAL_MOL)),
        }
    return found


def check(potential: Potential) -> dict[str, float]:
    """The same molecules alone, in a batch and swapped in must end alike, or nothing is timed."""
    conformers = load_conformers(12, seed=5)
    batch = MolBatch.from_arrays(conformers)
    together = relax(batch, potential, fmax=FMAX, max_steps=10)
    swapped = relax(batch, potential, fmax=FMAX, max_steps=10, capacity=3)
    final = potential(together.batch)
    errors = {
        "swapped_in_ev": float((together.energy - swapped.energy).abs().max()),
        "recomputed_ev": float((together.energy - final.energy).abs().max()),
        "recomputed_ev_per_angstrom": float((together.forces - final.forces).abs().max()),
    }
    for k in (0, 7):
        alone = relax(batch.select([k]), potential, fmax=FMAX, max_steps=10)
        errors[f"alone_{k}_ev"] = float((together.energy[k] - alone.energy[0]).abs())
    # Ten steps multiply float32's rounding; another path would be off by far more.
    worst = max(errors.values())
    assert worst < 5e-3, errors
    return errors


def measure_torch_sim(
    potential: Potential, conformers: list[Conformer], optimizers: Sequence[str] = ("fire", "lbfgs")
) -> list[dict[str, Any]]:
    """Rows of torch-sim's optimisers over the same model, where it is installed.

    Its states have no total charge, so the conformers are of neutral molecules.
    """
    if find_spec("torch_sim") is None:
        return [{"name": "torch-sim FIRE and L-BFGS", "skipped": "torch-sim is not installed"}]
    import torch_sim as ts
    from torch_sim.models.interface import ModelInterface

    class Model(ModelInterface):
        def __init__(self) -> None:
            super().__init__()
            self._device, self._dtype = potential.device, potential.dtype
            self._compute_forces, self._compute_stress = True, False

        def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
            if isinstance(state, dict):
                state = ts.SimState(**state)
            mol_idx, n_mols = state.system_idx, int(state.n_systems)
            sizes = torch.bincount(mol_idx, minlength=n_mols)
            ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
            charge = self.charges[-1] if len(self.charges[-1]) == n_mols else sizes * 0
            numbers = state.atomic_numbers.long()
            out = potential.evaluate(MolBatch(numbers, state.positions, mol_idx, ptr, charge))
            return {"energy": out.energy.to(self.dtype), "forces": out.forces}

    n = len(conformers)
    model = Model()
    model.charges = [torch.zeros(0)]
    systems = [Atoms(z, x, cell=np.eye(3) * 100.0) for z, x, _ in conformers]
    found = getattr(ts, "Optimizer", ts.optimizers)
    rows: list[dict[str, Any]] = []
    for label in optimizers:
        name, optimizer = f"torch-sim {label}", getattr(found, label, None)
        if optimizer is None:
            rows.append({"name": name, "skipped": "not in the installed version of torch-sim"})
            continue
        state = ts.initialize_state(systems, device=model.device, dtype=model.dtype)
        synchronize(model.device)
        begin = time.perf_counter()
        final = ts.optimize(
            state,
            model,
            optimizer=optimizer,
            convergence_fn=ts.generate_force_convergence_fn(FMAX, include_cell_forces=False),
            max_steps=MAX_STEPS,
            autobatcher=False,
        )
        synchronize(model.device)
        wall = time.perf_counter() - begin
        largest = torch.zeros(n, device=model.device, dtype=model.dtype).index_reduce(
            0, final.system_idx, final.forces.norm(dim=1), "amax"
        )
        rows.append(
            {
                "name": name,
                "conformers": n,
                "batch_size": n,
                "conformers_per_s": n / wall,
                "converged": float((largest < FMAX).double().mean()),
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    head = (
        "",
        "batch",
        "conformers/s",
        "µs/atom/step",
        "steps (median, 90 %)",
        "converged",
        "busy",
    )
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        if "skipped" in row:
            print(f"| {row['name']} | {row['skipped']} |" + " |" * (len(head) - 2))
            continue
        steps = f"{row['steps_median']:.0f}, {row['steps_90']:.0f}" if "steps_90" in row else ""
        per_step = f"{row['us_per_atom_step']:.3f}" if "us_per_atom_step" in row else ""
        busy = "" if row.get("busy") is None else f"{row['busy']:.0%}"
        print(
            f"| {row['name']} | {row['batch_size']} | {row['conformers_per_s']:.1f} | {per_step} "
            f"| {steps} | {row['converged']:.1%} | {busy} |",
            flush=True,
        )


def setting(potential: Potential) -> dict[str, Any]:
    """Where and with what this runs."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    device = platform.processor() or platform.machine()
    if potential.device.type == "cuda":
        device = torch.cuda.get_device_name()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": usable_cores(),
        "backend": potential.backend,
        "precision": potential.precision,
        "model": potential.name,
        "torch": torch.__version__,
        "ase": ase.__version__,
        "commit": commit,
        "fmax": FMAX,
        "max_steps": MAX_STEPS,
    }


def write(report: dict[str, Any], path: Path | None) -> None:
    """Write the report as JSON, where it is wanted."""
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure_rows(
    potential: Potential, n: int, n_ase: int, rounds: int, slots: int | None
) -> tuple[list[dict[str, Any]], list[float]]:
    """The table, printed row by row, and how many times as fast as ASE "L-BFGS, auto" is."""
    cuda = potential.device.type == "cuda"
    large = batch_sizes("auto", potential.device, potential.bytes_per_edge)["large"]
    table, n_fire = batch_sizes("table")["large"], n if cuda else max(n // 4, 8)
    plan: list[tuple[str, Callable, int, int]] = [
        ("L-BFGS, auto", in_flight(potential, None), n, large),
        ("L-BFGS, not in flight", batch_by_batch(potential, min(large, n)), n, large),
        (
            "L-BFGS, constant initial Hessian",
            in_flight(potential, large, model_hessian=False),
            n,
            large,
        ),
        ("FIRE", in_flight(potential, large, optimizer="fire"), n_fire, large),
        (
            "FIRE, not in flight",
            batch_by_batch(potential, min(large, n), optimizer="fire"),
            n_fire,
            large,
        ),
    ]
    if cuda:
        few = max(n // 16, table)
        plan.insert(1, ("L-BFGS, table", in_flight(potential, table), few, table))
        plan.append(("FIRE, table", in_flight(potential, table, optimizer="fire"), few, table))
        as_ase = in_flight(potential, large, optimizer="ase-lbfgs")
        plan.append(("ASE's L-BFGS, in batches", as_ase, few, min(few, large)))
    else:
        plan.insert(1, ("L-BFGS, one thread", in_flight(potential, large, n_threads=1), n, large))
    if slots:
        plan.insert(1, (f"L-BFGS, {slots}", in_flight(potential, slots), n, slots))
    rows = []
    for name, run, n_conformers, batch_size in plan:
        rows.append(measure(name, run, potential, n_conformers, rounds, batch_size))
        show(rows[-1:])
    rows.append(measure_ase(potential, n_ase, min(rounds, 1)))
    neutral = [c for c in load_conformers(2 * min(n, 1024), seed=100) if c[2] == 0]
    rows += measure_torch_sim(potential, neutral[: min(n, 1024)])
    print()
    show(rows)
    against_ase = [
        rows[0]["conformers_per_s"]
        / next(row["conformers_per_s"] for row in rows if row["name"].startswith("ASE"))
    ]
    if not cuda:
        n_threads = ase_threads(potential)
        print(f"ASE is quicker with {n_threads} threads", flush=True)
        against_ase = [pair_with_ase(potential, k, n_threads) for k in range(N_PAIRS)]
    print(
        f"L-BFGS, auto, is {statistics.median(against_ase):.1f} times as fast as ASE, one by one",
        [round(ratio, 2) for ratio in against_ase],
        flush=True,
    )
    return rows, against_ase


def main() -> None:
    """Check, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--model", default="default", help="a model, or `random` weights")
    parser.add_argument("--conformers", type=int, help="default: 4096 on CUDA, 64 on a CPU")
    parser.add_argument("--reference", type=int, help="for ASE; default: 256 on CUDA, 16 on a CPU")
    parser.add_argument("--rounds", type=int, default=3, help="timed repetitions of a row")
    parser.add_argument("--slots", type=int, help="also this many slots")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("rows", "comparison", "energies"),
        default=("rows", "comparison"),
        help="the table, the comparison with ASE's paths, and its final energies alone",
    )
    parser.add_argument("--processes", type=int, help="for ASE; default: one a core")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    potential = load(options.model, options.device, options.backend)
    cuda = potential.device.type == "cuda"
    n = options.conformers or (4096 if cuda else 64)
    n_reference = options.reference or (256 if cuda else 16)
    report: dict[str, Any] = {"setting": setting(potential)}
    print(json.dumps(report["setting"]))
    report["check"] = check(potential)
    print("check:", {name: f"{value:.1e}" for name, value in report["check"].items()}, flush=True)

    if "rows" in options.parts:
        # On a CPU ASE relaxes the same conformers, so that the ratio is one of times alone.
        n_ase = min(n_reference, 32) if cuda else n
        report["rows"], report["speed_against_ase"] = measure_rows(
            potential, n, n_ase, options.rounds, options.slots
        )
    write(report, options.json)
    ase = partial(
        paths_of_ase, potential, options.model, n_reference,
        options.processes or usable_cores(),
    )  # fmt: skip
    if "energies" in options.parts:
        report["final_energies"] = final_energies(potential, ase())
        print(json.dumps(report["final_energies"], indent=2))
        write(report, options.json)
    if "comparison" in options.parts:
        report["against_ase"] = compare_with_ase(potential, ase(), ase(noise=1e-3))
        report["above_the_bottom"] = above_the_bottom(potential, n_reference)
        for part in ("against_ase", "above_the_bottom"):
            print(json.dumps(report[part], indent=2, ensure_ascii=False))
        write(report, options.json)


if __name__ == "__main__":
    main()
