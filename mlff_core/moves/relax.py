"""Batched relaxation: every molecule on its own path, all of them in one force call a step.

Molecules live in slots (see `slots.py`). A step does not wait for the device; on CUDA with the
triton backend it is captured once and replayed. Once a burst of steps the host looks at how the
molecules are doing, in one transfer; those that have ended leave, and waiting ones take their
places (in-flight batching).
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, Queue

import numpy as np
import torch
from torch import Tensor

from mlff_core.batch import MolBatch, require_batch
from mlff_core.buckets import TABLE, Batching, batch_sizes, bucket_of
from mlff_core.models.force_field import ForceField, require_force_field
from mlff_core.moves.optimizers import CURVATURE, MAX_STEP, MIN_RADIUS, OPTIMIZERS, Point
from mlff_core.moves.slots import (
    Compute,
    Molecule,
    Rows,
    State,
    Stepper,
    Transfer,
    evaluate_rows,
    to_device,
    where_row,
)
from mlff_core.status import ConformerStatus

#: How a slot is doing. Only running ones are computed.
VACANT, RUNNING, CONVERGED, MAX_STEPS, EXPLODED, NON_FINITE = -1, 0, 1, 2, 3, 4
STATUS = {
    CONVERGED: ConformerStatus.CONVERGED,
    MAX_STEPS: ConformerStatus.MAX_STEPS,
    EXPLODED: ConformerStatus.EXPLODED,
    NON_FINITE: ConformerStatus.NON_FINITE,
}

#: Exploded: the energy is this far above the start's, in eV an atom. A bond is worth a few eV, so
#: a molecule of which every atom rose by this much is not on its way to a minimum.
MAX_RISE_PER_ATOM = 1.0
#: Exploded: the energy is this far below the start's, in eV an atom, though the start had no
#: overlapping atoms (forces above MAX_FORCE). All bonds of a molecule are worth less.
MAX_FALL_PER_ATOM = 10.0
#: Exploded: a force of this size in eV/Å, and ten times the start's largest. No bond of an organic
#: molecule pulls like this; atoms that overlap in a bad embedding do, from the start.
MAX_FORCE = 100.0
#: Exploded: an atom went this many cutoffs away from its start, so it left all it had around it.
MAX_TRAVEL_CUTOFFS = 2.0
#: Exploded: atoms hung together by gaps of at most this many cutoffs, and no longer do. There is
#: no force beyond the cutoff, so a molecule that fell apart would count as converged.
REACH_CUTOFFS = 0.8
#: A rise of the energy by less than this, in eV an atom, is rounding.
ENERGY_NOISE = {torch.float32: 2e-6, torch.float64: 1e-10}
#: A step over so few atoms takes the device less time than the host needs to look after it.
FEW_ATOMS = 4096
#: Steps between two looks at the statuses, for many atoms and for few. A look costs a transfer on
#: CUDA and nothing on a CPU.
BURST = {"cuda": (2, 4), "cpu": (1, 1)}
#: Bursts by which the host is behind the device: while it looks at one, the next is under way.
LAG = {"cuda": 1, "cpu": 0}
#: Most flights side by side on a CPU: all share one interpreter, for which more would wait. What
#: they gain has been measured on two cores.
MAX_FLIGHTS = 16


@dataclass(frozen=True)
class RelaxSettings:
    """What a relaxation is asked to do.

    Attributes:
        optimizer: "lbfgs", "fire" or "ase-lbfgs".
        fmax: A molecule has converged when no atom that may move feels more, eV/Å.
        max_steps: Moves a molecule may make.
        model_hessian: "lbfgs" begins with a model of each molecule's Hessian; without, with ASE's
            constant.
    """

    optimizer: str = "lbfgs"
    fmax: float = 0.05
    max_steps: int = 300
    model_hessian: bool = True

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise ValueError(f"optimizer: expected {known}, found {self.optimizer!r}")
        if not self.fmax > 0:
            raise ValueError(f"fmax: expected more than 0 eV/Å, found {self.fmax!r}")
        if self.max_steps < 0:
            raise ValueError(f"max_steps: expected 0 or more, found {self.max_steps!r}")


@dataclass(frozen=True)
class Relaxed:
    """How one molecule ended, on the host.

    Attributes:
        index: Its place in the caller's order.
        positions: Å [n_atoms, 3]; the last accepted point.
        energy: eV, there; NaN, as all that follows but the steps, if it is not finite at the start.
        initial_energy: eV.
        forces: eV/Å [n_atoms, 3], there, those on atoms that may not move included.
        max_force: Largest on an atom that may move, eV/Å.
        n_steps: Moves made; force calls are one more.
        status: None if the molecule did not fit into memory alone, so nothing is known of it.
        bucket: Its size class.
        batch_size: Molecules that were computed at once where it ended.
    """

    index: int
    positions: np.ndarray
    energy: float
    initial_energy: float
    forces: np.ndarray
    max_force: float
    n_steps: int
    status: ConformerStatus | None
    bucket: str
    batch_size: int


@dataclass(frozen=True)
class RelaxResult:
    """How every molecule of a batch ended.

    Attributes:
        batch: The molecules at their final positions.
        energy: eV, float64 [n_mols], there.
        initial_energy: eV, float64 [n_mols].
        forces: eV/Å [n_atoms, 3], there, those on atoms that may not move included.
        max_force: Largest force on an atom that may move, eV/Å [n_mols].
        n_steps: Moves made, int64 [n_mols]; force calls are one more.
        status: One a molecule. One that converged is not above its initial energy; one that met a
            number that is not finite stands where everything still was.
    """

    batch: MolBatch
    energy: Tensor
    initial_energy: Tensor
    forces: Tensor
    max_force: Tensor
    n_steps: Tensor
    status: list[ConformerStatus]


def relax(
    batch: MolBatch,
    potential: ForceField,
    *,
    optimizer: str = "lbfgs",
    fmax: float = 0.05,
    max_steps: int = 300,
    capacity: int | None = None,
    frozen: Tensor | np.ndarray | Sequence[int] | None = None,
    hydrogens_only: bool = False,
    model_hessian: bool = True,
    n_flights: int | None = None,
) -> RelaxResult:
    """Relax every molecule to its nearest minimum.

    Args:
        batch: Molecules, on any device; an empty batch gives an empty result.
        potential: What computes energies and forces.
        optimizer: "lbfgs", "fire", or "ase-lbfgs", which takes the steps of ASE's LBFGS: slower,
            for energies that are to be ASE's own also where neither is at the bottom.
        fmax: A molecule has converged when no atom that may move feels more, eV/Å.
        max_steps: Moves a molecule may make.
        capacity: Molecules in a force call, the others wait for a place; None for all.
        frozen: Atoms that stay where they are: bool [n_atoms], or their indices in the batch.
        hydrogens_only: Only hydrogens move.
        model_hessian: "lbfgs" begins with a model of each molecule's Hessian, which about halves
            the steps; without, with ASE's constant.
        n_flights: Batches side by side, see `relax_molecules`.

    Returns:
        One entry a molecule, on the potential's device. What goes wrong with a molecule is its
        status and leaves the others alone.

    Raises:
        OutOfDomainError: The batch holds an element or a charge that the model does not know, or a
            molecule with an odd number of electrons.
        TypeError: The first argument is no batch or the second no force field.
        ValueError: An argument is out of its range.
        torch.OutOfMemoryError: A molecule does not fit into memory alone.
    """
    require_batch(batch)
    require_force_field(potential)
    settings = RelaxSettings(optimizer, fmax, max_steps, model_hessian)
    potential.domain.check(batch, potential.name)
    if capacity is not None and capacity < 1:
        raise ValueError(f"capacity: expected at least 1 molecule, found {capacity!r}")
    free = ~frozen_atoms(frozen, batch.n_atoms)
    numbers = batch.numbers.cpu().numpy()
    if hydrogens_only:
        free &= numbers == 1
    positions, ptr = batch.positions.cpu().numpy(), batch.ptr.tolist()
    batch = batch.to(potential.device, potential.dtype)

    molecules = [
        Molecule(k, numbers[a:b], positions[a:b], charge, free[a:b])
        for k, (a, b, charge) in enumerate(
            zip(ptr[:-1], ptr[1:], batch.charge.tolist(), strict=True)
        )
    ]
    ended = sorted(
        relax_molecules(
            molecules, potential, settings, capacity or len(molecules), n_flights=n_flights
        ),
        key=lambda relaxed: relaxed.index,
    )
    status = []
    for relaxed in ended:
        if relaxed.status is None:
            raise torch.OutOfMemoryError(
                f"molecule {relaxed.index} of {len(relaxed.positions)} atoms does not fit into "
                f"the memory of {potential.device}, alone"
            )
        status.append(relaxed.status)

    def atoms(values: list[np.ndarray]) -> Tensor:
        flat = np.concatenate(values) if values else np.zeros((0, 3))
        return torch.from_numpy(flat).to(batch.positions)

    def mols(values: list, dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=batch.device)

    return RelaxResult(
        batch=batch.with_positions(atoms([r.positions for r in ended])),
        energy=mols([r.energy for r in ended], torch.float64),
        initial_energy=mols([r.initial_energy for r in ended], torch.float64),
        forces=atoms([r.forces for r in ended]),
        max_force=mols([r.max_force for r in ended], batch.positions.dtype),
        n_steps=mols([r.n_steps for r in ended], torch.int64),
        status=status,
    )


def frozen_atoms(frozen: Tensor | np.ndarray | Sequence[int] | None, n_atoms: int) -> np.ndarray:
    """Which atoms stay where they are, bool [n_atoms], from such a mask or from indices.

    Raises:
        ValueError: The mask has another length, or an index is out of range.
    """
    mask = np.zeros(n_atoms, bool)
    if frozen is None:
        return mask
    given = frozen.cpu().numpy() if isinstance(frozen, Tensor) else np.asarray(frozen)
    if given.dtype == bool:
        if given.shape != (n_atoms,):
            raise ValueError(f"frozen: expected ({n_atoms},), found {given.shape}")
        return given.copy()
    outside = given[(given < 0) | (given >= n_atoms)]
    if outside.size:
        raise ValueError(f"frozen: expected indices from 0 to {n_atoms - 1}, found {outside[0]}")
    mask[given.astype(np.int64)] = True
    return mask


def relax_conformers(
    conformers: Sequence[tuple[np.ndarray, np.ndarray, int]],
    potential: ForceField,
    *,
    optimizer: str = "lbfgs",
    fmax: float = 0.05,
    max_steps: int = 300,
    batching: Batching = "auto",
    n_flights: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Relaxed]:
    """Relax many conformers of mixed sizes, bucket by bucket.

    Args:
        conformers: Atomic numbers [n_atoms], positions in Å [n_atoms, 3] and charge of each.
        potential: What computes energies and forces.
        optimizer: "lbfgs", "fire" or "ase-lbfgs", see `relax`.
        fmax: A conformer has converged when no atom feels more, eV/Å.
        max_steps: Moves a conformer may make.
        batching: How many are in a force call, see `buckets.batch_sizes`.
        n_flights: Batches side by side, see `relax_molecules`.
        progress: Called with the number of conformers that have ended, after each.

    Returns:
        One entry a conformer, in the order given. Its status is None if it did not fit into
        memory alone.

    Raises:
        OutOfDomainError: A conformer holds an element or a charge that the model does not know.
        ValueError: An argument is out of its range, or a conformer's arrays disagree.
    """
    settings = RelaxSettings(optimizer, fmax, max_steps)
    require_force_field(potential)
    sizes = batch_sizes(batching, potential.device, potential.bytes_per_edge)
    potential.domain.check(MolBatch.from_arrays(conformers), potential.name)
    by_bucket: dict[str, list[Molecule]] = {bucket.name: [] for bucket in TABLE}
    for index, (numbers, positions, charge) in enumerate(conformers):
        molecule = Molecule(index, np.asarray(numbers), np.asarray(positions), int(charge))
        by_bucket[bucket_of(molecule.size)].append(molecule)
    results: list[Relaxed | None] = [None] * len(conformers)
    n_done = 0
    groups = [(molecules, sizes[name]) for name, molecules in by_bucket.items()]
    for relaxed in _relax_groups(groups, potential, settings, n_flights):
        results[relaxed.index] = relaxed
        n_done += 1
        if progress is not None:
            progress(n_done)
    assert n_done == len(conformers)
    return [relaxed for relaxed in results if relaxed is not None]


# --- In flight ------------------------------------------------------------------------------------


def relax_molecules(
    molecules: Sequence[Molecule],
    potential: ForceField,
    settings: RelaxSettings,
    n_slots: int,
    *,
    n_flights: int | None = None,
) -> Iterator[Relaxed]:
    """Relax molecules, `n_slots` at a time; each is yielded as it ends, in no particular order.

    On a CPU several flights go side by side, each with a thread, `n_slots` and a core of its own,
    and take from the same molecules: one flight is a chain of operations too small to share out
    among cores.

    Out of memory halves the number of slots: the molecules that were under way begin again, and
    because a molecule's path does not depend on who is beside it, only time is lost. A molecule
    that does not fit alone is yielded without a status.

    Args:
        molecules: What to relax.
        potential: What computes energies and forces.
        settings: What is asked for.
        n_slots: Most molecules in a force call.
        n_flights: None for as many as PyTorch would use threads here, at most MAX_FLIGHTS; 1 on
            CUDA.

    Raises:
        ValueError: `n_flights` is less than 1, or more than 1 on CUDA.
    """
    return _relax_groups([(molecules, n_slots)], potential, settings, n_flights)


def _relax_groups(
    groups: Sequence[tuple[Sequence[Molecule], int]],
    potential: ForceField,
    settings: RelaxSettings,
    n_flights: int | None,
) -> Iterator[Relaxed]:
    """As `relax_molecules`, one group of molecules after the other, each with its `n_slots`."""
    on_cpu = potential.device.type == "cpu"
    if n_flights is None:
        n_flights = min(torch.get_num_threads(), MAX_FLIGHTS) if on_cpu else 1
    if n_flights < 1 or (n_flights > 1 and not on_cpu):
        most = "at least 1" if on_cpu else f"1 on {potential.device.type}"
        raise ValueError(f"n_flights: expected {most}, found {n_flights!r}")
    queues = [(_Waiting(molecules), n_slots) for molecules, n_slots in groups if molecules]
    n_flights = min(n_flights, sum(len(waiting) for waiting, _ in queues))
    if n_flights > 1:
        yield from _side_by_side(
            [
                [
                    _Flight(
                        waiting, potential, settings, min(n_slots, -(-len(waiting) // n_flights))
                    )
                    for waiting, n_slots in queues
                ]
                for _ in range(n_flights)
            ]
        )
    # Nobody, or those for whom there was no memory beside others.
    for waiting, n_slots in queues:
        yield from _relax_alone(waiting, potential, settings, min(n_slots, len(waiting)))


def _relax_alone(
    waiting: "_Waiting", potential: ForceField, settings: RelaxSettings, n_slots: int
) -> Iterator[Relaxed]:
    """What ends in one flight, and in others with fewer slots after it if memory runs out."""
    while waiting:
        flight = _Flight(waiting, potential, settings, n_slots)
        try:
            yield from flight
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            interrupted = flight.aboard
        else:
            return
        # Outside the except clause, whose traceback would keep the tensors alive.
        del flight
        if potential.device.type == "cuda":
            torch.cuda.empty_cache()
        if n_slots == 1:
            yield _not_relaxed(interrupted.pop())
        waiting.put_back(interrupted)
        n_slots = max(n_slots // 2, 1)


def _side_by_side(rounds: Sequence[Sequence["_Flight"]]) -> Iterator[Relaxed]:
    """What ends in rounds of flights, each round in a thread of its own with one core.

    A flight that runs out of memory puts its molecules back and ends its round, and leaves the
    others alone; all else that goes wrong in one is raised here. However this ends, all threads
    have ended when it has.
    """
    # Bounded, so that flights wait for a slow consumer.
    ended: Queue[Relaxed | BaseException | None] = Queue(
        sum(max(flight.n_slots for flight in flights) for flights in rounds)
    )
    prepared = threading.Semaphore(0)

    def fly(flights: Sequence[_Flight]) -> None:
        try:
            # Of this thread, and of all that begin before the caller sets it right again. To be
            # asked for its number settles a thread's; one that is first set is lost at the first
            # operation.
            torch.get_num_threads()
            torch.set_num_threads(1)
            prepared.release()
            for flight in flights:
                if not flight.waiting:
                    continue
                try:
                    for relaxed in flight:
                        ended.put(relaxed)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    flight.waiting.put_back(flight.aboard)
                    return
        except BaseException as error:
            ended.put(error)
        finally:
            ended.put(None)

    n_threads = torch.get_num_threads()
    threads = [threading.Thread(target=fly, args=(flights,), daemon=True) for flights in rounds]
    n_aloft = len(threads)
    try:
        for thread in threads:
            thread.start()
            prepared.acquire()
        torch.set_num_threads(n_threads)
        while n_aloft:
            relaxed = ended.get()
            if relaxed is None:
                n_aloft -= 1
            elif isinstance(relaxed, BaseException):
                raise relaxed
            else:
                yield relaxed
        for thread in threads:
            thread.join()
    finally:
        for flight in rounds[0]:
            flight.waiting.closed = n_aloft > 0
        while n_aloft and any(thread.is_alive() for thread in threads):
            # Some may wait to hand over what nobody wants any more.
            with suppress(Empty):
                ended.get(timeout=0.01)
        torch.set_num_threads(n_threads)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the card or on the host."""
    # PyTorch has no class of its own for the host's memory.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "can't allocate memory" in str(error)
    )


class _Waiting:
    """Molecules that wait for a slot, in order. Flights in several threads may share them.

    Attributes:
        closed: Flights are to end as they are.
    """

    def __init__(self, molecules: Sequence[Molecule]):
        self._molecules = deque(molecules)
        self._lock = threading.Lock()
        self.closed = False

    def __len__(self) -> int:
        return len(self._molecules)

    @property
    def sizes(self) -> list[int]:
        """Atoms of each."""
        with self._lock:
            return [molecule.size for molecule in self._molecules]

    def take(self, n_molecules: int, n_atoms: int) -> list[Molecule]:
        """Those whose turn it is, as many as fit into places and atoms; they wait no more."""
        taken: list[Molecule] = []
        with self._lock:
            while self._molecules and len(taken) < n_molecules:
                n_atoms -= self._molecules[0].size
                if n_atoms < 0:
                    break
                taken.append(self._molecules.popleft())
        return taken

    def put_back(self, molecules: Sequence[Molecule]) -> None:
        """Let molecules wait again, before all others."""
        with self._lock:
            self._molecules.extendleft(reversed(molecules))


class _Flight:
    """Molecules under way in a fixed number of slots, and those that wait for one."""

    def __init__(
        self,
        waiting: _Waiting,
        potential: ForceField,
        settings: RelaxSettings,
        n_slots: int,
    ):
        self.waiting, self.potential, self.settings = waiting, potential, settings
        self.n_slots = n_slots
        sizes = waiting.sizes
        self.width = max(sizes)
        # A captured step has a fixed number of atoms: what the slots hold on average, and a bit.
        self.capacity = max(self.width, int(np.ceil(1.05 * np.mean(sizes) * n_slots)))
        self.occupant: list[Molecule | None] = [None] * n_slots
        self.readings: deque[_Reading] = deque()

    @property
    def aboard(self) -> list[Molecule]:
        """The molecules that have boarded and have not been yielded."""
        read = [molecule for reading in self.readings for molecule in reading.molecules]
        return read + [molecule for molecule in self.occupant if molecule is not None]

    def __iter__(self) -> Iterator[Relaxed]:
        device = self.potential.device
        double = OPTIMIZERS[self.settings.optimizer].double
        dtype = torch.float64 if double else self.potential.dtype
        rows = Rows.empty(self.n_slots, self.width, device, dtype)
        vacant = enter(Rows.empty(1, self.width, device, dtype), self.settings)
        state = {n: v.expand(self.n_slots, *v.shape[1:]).clone() for n, v in vacant.items()}
        stepper = self._stepper(rows, state)
        many, few = BURST[device.type]
        lag = LAG[device.type]
        looks: deque[_Look] = deque()
        self._board(rows, stepper.state)
        while self.aboard and not self.waiting.closed:
            burst = many if self.capacity > FEW_ATOMS else few
            stepper.run(burst, per_launch=burst)
            looks.append(_Look(Transfer(stepper.state["code"]), list(self.occupant)))
            while self.readings:
                yield from self._read(self.readings[0])
                self.readings.popleft()
            if len(looks) <= lag:
                continue
            ended = looks.popleft().ended(self.occupant)
            if ended:
                self._collect(rows, stepper.state, ended)
                self._board(rows, stepper.state)
            if self._is_too_wide():
                rows, state = self._close_ranks(rows, stepper.state)
                _wait_for(looks)
                stepper = self._stepper(rows, state)
        _wait_for(looks)

    def _stepper(self, rows: Rows, state: State) -> Stepper:
        potential, settings = self.potential, self.settings
        constants, compute = OPTIMIZERS[settings.optimizer].constants, potential.bare_step
        if compute is not None and constants is not None:
            run = kernel_step(rows, settings, potential.cutoff, self.capacity, compute)
            return Stepper(run, state, graph=potential.device.type == "cuda")
        plain = partial(step, rows, potential=potential, settings=settings)
        if potential.device.type != "cpu" or settings.optimizer != "lbfgs":
            return Stepper(plain, state)
        return Stepper(compiled_step(rows, state, potential, settings), state)

    def _is_too_wide(self) -> bool:
        """Whether nobody waits any more and half of the places are empty.

        Those that are left then close ranks, for which a captured step is captured anew.
        """
        n_atoms = sum(molecule.size for molecule in self.occupant if molecule is not None)
        return not self.waiting and 2 * n_atoms <= self.capacity > FEW_ATOMS and n_atoms > 0

    def _close_ranks(self, rows: Rows, state: State) -> tuple[Rows, State]:
        """Leave out the vacant slots for good."""
        taken = [slot for slot, molecule in enumerate(self.occupant) if molecule is not None]
        self.occupant = [self.occupant[slot] for slot in taken]
        self.capacity = sum(molecule.size for molecule in self.occupant if molecule is not None)
        index = to_device(np.array(taken), rows.sizes.device)
        return rows.take(index), {name: value[index] for name, value in state.items()}

    def _board(self, rows: Rows, state: State) -> None:
        """Give vacant slots to waiting molecules, in order, as long as their atoms fit."""
        n_atoms = sum(molecule.size for molecule in self.occupant if molecule is not None)
        vacant = [slot for slot, molecule in enumerate(self.occupant) if molecule is None]
        molecules = self.waiting.take(len(vacant), self.capacity - n_atoms)
        if not molecules:
            return
        slots = vacant[: len(molecules)]
        for slot, molecule in zip(slots, molecules, strict=True):
            self.occupant[slot] = molecule
        index = to_device(np.array(slots), rows.sizes.device)
        entering = Rows.pack(molecules, self.width, rows.sizes.device, rows.positions.dtype)
        rows.overwrite(index, entering)
        for name, value in enter(entering, self.settings).items():
            state[name][index] = value

    def _collect(self, rows: Rows, state: State, ended: list[int]) -> None:
        """Begin to read out the molecules that ended, and free their slots."""
        index = to_device(np.array(ended), rows.sizes.device)
        positions = state["positions"][index]
        reach = REACH_CUTOFFS * self.potential.cutoff
        here = rows.numbers[index] != 0
        apart = connected(rows.positions[index], here, reach) & ~connected(positions, here, reach)
        code = state["code"][index]
        code = torch.where(apart & (code != NON_FINITE), EXPLODED, code)
        state["code"].index_fill_(0, index, VACANT)
        # Everything in one transfer.
        single = ("energy", "initial_energy", "max_force", "n_steps")
        columns = [code, *(state[name][index] for name in single)]
        rest = torch.stack([column.double() for column in columns], 1)
        arrays = torch.cat(
            [positions.flatten(1).double(), state["forces"][index].flatten(1).double(), rest], 1
        )
        molecules = [molecule for slot in ended if (molecule := self.occupant[slot]) is not None]
        for slot in ended:
            self.occupant[slot] = None
        self.readings.append(_Reading(Transfer(arrays), molecules))

    def _read(self, reading: "_Reading") -> Iterator[Relaxed]:
        """What has been read out."""
        n = 3 * self.width
        for row in reading.arrays.wait().numpy():
            molecule = reading.molecules[0]
            if row[2 * n] == NON_FINITE and row[-1] == 0:  # no step, no point that was accepted
                row[n : 2 * n] = row[2 * n + 1 : -1] = np.nan  # nothing is known, and not zero
            ending, energy, initial_energy, max_force, n_steps = row[2 * n :].tolist()
            yield Relaxed(
                index=molecule.index,
                positions=row[:n].reshape(-1, 3)[: molecule.size].copy(),
                energy=energy,
                initial_energy=initial_energy,
                forces=row[n : 2 * n].reshape(-1, 3)[: molecule.size].copy(),
                max_force=max_force,
                n_steps=int(n_steps),
                status=STATUS[int(ending)],
                bucket=bucket_of(molecule.size),
                batch_size=self.n_slots,
            )
            reading.molecules.pop(0)


@dataclass(frozen=True)
class _Look:
    """How the molecules are doing after a burst, on its way to the host.

    Attributes:
        code: int64 [n_slots].
        occupant: Who was in each slot.
    """

    code: Transfer
    occupant: list[Molecule | None]

    def ended(self, occupant: list[Molecule | None]) -> list[int]:
        """The slots whose molecules have ended and are still there."""
        return [
            slot
            for slot, code in enumerate(self.code.wait().tolist())
            if code > RUNNING and occupant[slot] is not None
            # Whoever boarded since has a code of its own to come.
            if occupant[slot] is self.occupant[slot]
        ]


def _wait_for(looks: deque[_Look]) -> None:
    """Wait for bursts that nobody looks at: a graph must not be let go while it runs."""
    while looks:
        looks.popleft().code.wait()


@dataclass(frozen=True)
class _Reading:
    """Molecules that have ended, on their way to the host.

    Attributes:
        arrays: A row each.
        molecules: Those that have not been yielded.
    """

    arrays: Transfer
    molecules: list[Molecule]


def _not_relaxed(molecule: Molecule) -> Relaxed:
    nan = float("nan")
    return Relaxed(
        index=molecule.index,
        positions=molecule.positions,
        energy=nan,
        initial_energy=nan,
        forces=np.full((molecule.size, 3), nan),
        max_force=nan,
        n_steps=0,
        status=None,
        bucket=bucket_of(molecule.size),
        batch_size=1,
    )


def connected(positions: Tensor, here: Tensor, reach: float) -> Tensor:
    """Whether each molecule hangs together by gaps of at most `reach`, bool [n_rows].

    Args:
        positions: Å [n_rows, w, 3].
        here: Which are atoms and not padding, bool [n_rows, w].
        reach: Å.
    """
    pair = here[:, None, :] & here[:, :, None]
    near = ((torch.cdist(positions, positions) < reach) & pair).to(positions.dtype)
    # Squared k times, the matrix knows who is reached in 2^k steps; nothing waits for the device.
    for _ in range((here.shape[1] - 1).bit_length()):
        near = (torch.bmm(near, near) > 0).to(positions.dtype)
    return ((near[:, 0] > 0) | ~here).all(1)


# --- The step -------------------------------------------------------------------------------------


def enter(rows: Rows, settings: RelaxSettings) -> State:
    """The state in which molecules begin: running, at their initial positions, nothing known."""

    def zeros(dtype: torch.dtype = rows.positions.dtype) -> Tensor:
        return torch.zeros(len(rows.sizes), dtype=dtype, device=rows.sizes.device)

    return {
        "code": torch.where(rows.sizes > 0, RUNNING, VACANT),
        "n_steps": torch.zeros_like(rows.sizes),  # moves made
        "trial": rows.positions.clone(),  # where the next force call is made, Å
        "positions": rows.positions.clone(),  # the accepted point, Å
        "forces": torch.zeros_like(rows.positions),  # there, all of them, eV/Å
        "energy": zeros(torch.float64),  # there, eV
        "max_force": zeros(),  # there, on atoms that may move, eV/Å
        "initial_energy": zeros(torch.float64),
        "initial_max_force": zeros(),
    } | OPTIMIZERS[settings.optimizer].enter(rows, settings.model_hessian)


def step(rows: Rows, state: State, potential: ForceField, settings: RelaxSettings) -> State:
    """One force call and one move of every running molecule; the others stay as they are."""
    running, first = state["code"] == RUNNING, state["n_steps"] == 0
    energy, forces = evaluate_rows(rows, state["trial"], running, potential)
    free = rows.free[..., None]
    noise = ENERGY_NOISE[potential.dtype] * rows.sizes
    finite = energy.isfinite() & forces.isfinite().all(-1).all(-1)
    point = Point(
        free=rows.free,
        step=state["trial"] - state["positions"],
        forces=torch.where(free, forces, 0.0),
        accepted_forces=torch.where(free, state["forces"], 0.0),
        first=first,
        finite=finite,
        not_above=energy <= state["energy"] + noise,
    )
    accept, displacement, changed = OPTIMIZERS[settings.optimizer].step(state, point)
    accept = running & finite & accept
    begins = accept & first
    max_force = point.forces.square().sum(-1).amax(-1).sqrt()
    state = state | {
        name: where_row(running, value, state[name]) for name, value in changed.items()
    }
    state["positions"] = where_row(accept, state["trial"], state["positions"])
    state["forces"] = where_row(accept, forces, state["forces"])
    state["energy"] = torch.where(accept, energy, state["energy"])
    state["max_force"] = torch.where(accept, max_force, state["max_force"])
    state["initial_energy"] = torch.where(begins, energy, state["initial_energy"])
    state["initial_max_force"] = torch.where(begins, max_force, state["initial_max_force"])

    code = torch.where(finite, verdict(rows, state, settings, potential.cutoff), NON_FINITE)
    moves = running & (code == RUNNING)
    state["code"] = torch.where(running, code, state["code"])
    state["trial"] = where_row(moves, state["positions"] + displacement, state["trial"])
    state["n_steps"] = state["n_steps"] + moves
    return state


def kernel_step(
    rows: Rows, settings: RelaxSettings, cutoff: float, capacity: int, compute: Compute
) -> Callable[[State], State]:
    """`step` by the kernels of `minimise_triton.py`: two launches beside the force call, in place.

    Args:
        rows: The molecules.
        settings: What is asked for.
        cutoff: Å.
        capacity: Number of atoms of the flat batch that `compute` is given, the surplus padded.
        compute: Energies and forces of a flat batch, as `ForceField.bare_step`.
    """
    # Triton is an extra, which only its backend needs.
    from mlff_core.moves import minimise_triton as moves

    flat = moves.FlatBatch.empty(len(rows.sizes), capacity, rows.sizes.device)
    batch = MolBatch(flat.numbers, flat.positions, flat.mol_idx, flat.ptr, rows.charge)
    rules = moves.Rules(
        fmax=settings.fmax,
        max_steps=settings.max_steps,
        noise=ENERGY_NOISE[rows.positions.dtype],
        max_rise=MAX_RISE_PER_ATOM,
        max_fall=MAX_FALL_PER_ATOM,
        max_force=MAX_FORCE,
        max_travel=MAX_TRAVEL_CUTOFFS * cutoff,
        converged=CONVERGED,
        out_of_steps=MAX_STEPS,
        exploded=EXPLODED,
        non_finite=NON_FINITE,
    )
    constants = OPTIMIZERS[settings.optimizer].constants
    assert constants is not None, settings.optimizer

    def run(state: State) -> State:
        moves.gather(state["code"], rows.sizes, rows.numbers, state["trial"], flat)
        out = compute(batch)
        moves.minimise(
            rows.sizes,
            rows.free,
            rows.positions,
            state,
            flat.ptr,
            out.energy,
            out.forces,
            rules,
            constants,
        )
        return {}

    return run


def compiled_step(
    rows: Rows, state: State, potential: ForceField, settings: RelaxSettings
) -> Callable[[State], State]:
    """`step` of L-BFGS on a CPU by the loops of `minimise_numba.py`, in place.

    Args:
        rows: The molecules.
        state: What the step will be given; where its tensors lie is noted here.
        potential: What computes.
        settings: What is asked for.
    """
    # To import it loads what Numba has compiled, which CUDA need not wait for.
    from mlff_core.moves import minimise_numba

    n_slots, width = rows.numbers.shape
    numbers, mol_idx = (torch.empty(n_slots * width, dtype=torch.int64) for _ in range(2))
    positions = rows.positions.new_empty(n_slots * width, 3)
    ptr = torch.zeros(n_slots + 1, dtype=torch.int64)
    gathered = [
        tensor.numpy() for tensor in (state["code"], rows.sizes, rows.numbers, state["trial"])
    ]
    flat = [tensor.numpy() for tensor in (numbers, positions, mol_idx, ptr)]
    molecules = [rows.sizes.numpy(), rows.free.numpy(), rows.positions.view(n_slots, -1).numpy()]
    # In the order of the arguments; the coordinates of all atoms in one axis.
    changed = [state[name].numpy() for name in ("code", "n_steps")]
    changed += [state[name].view(n_slots, -1).numpy() for name in ("trial", "positions", "forces")]
    changed += [state[name].numpy() for name in ("energy", "max_force", "initial_energy")]
    changed += [state[name].numpy() for name in ("initial_max_force", "s", "y", "rho")]
    changed += [state[name].numpy() for name in ("scale", "radius", "longest")]
    empty = rows.positions.new_empty
    for name, absent in (
        ("inverse", empty(0, 0, 0)),
        ("inverse_forces", empty(0, 0)),
        ("inverse_y", empty(0, 0, 0)),
    ):
        changed.append(state.get(name, absent).numpy())
    constants = (
        settings.fmax,
        settings.max_steps,
        ENERGY_NOISE[rows.positions.dtype],
        MAX_RISE_PER_ATOM,
        MAX_FALL_PER_ATOM,
        MAX_FORCE,
        MAX_TRAVEL_CUTOFFS * potential.cutoff,
        CURVATURE,
        MAX_STEP,
        MIN_RADIUS,
        CONVERGED,
        MAX_STEPS,
        EXPLODED,
        NON_FINITE,
    )

    def run(state: State) -> State:
        minimise_numba.gather(*gathered, *flat)
        n_atoms = int(ptr[-1])
        if n_atoms:
            out = potential.evaluate(
                MolBatch(
                    numbers[:n_atoms], positions[:n_atoms], mol_idx[:n_atoms], ptr, rows.charge
                )
            )
            forces = out.forces.to(positions.dtype)
            given = (flat[-1], out.energy.numpy(), forces.flatten().numpy())
            minimise_numba.minimise(*molecules, *given, *changed, *constants)
        return {}

    return run


def verdict(rows: Rows, state: State, settings: RelaxSettings, cutoff: float) -> Tensor:
    """Whether each molecule has ended, and how, from its accepted point; int64 [n_slots]."""
    change = state["energy"] - state["initial_energy"]
    overlapped = state["initial_max_force"] > MAX_FORCE
    travel = (state["positions"] - rows.positions).square().sum(-1).amax(-1).sqrt()
    exploded = (
        (change > MAX_RISE_PER_ATOM * rows.sizes)
        | (~overlapped & (change < -MAX_FALL_PER_ATOM * rows.sizes))
        | (state["max_force"] > (10.0 * state["initial_max_force"]).clamp(min=MAX_FORCE))
        | (travel > MAX_TRAVEL_CUTOFFS * cutoff)
    )
    converged = (state["max_force"] < settings.fmax) & (change <= 0)
    code = torch.where(state["n_steps"] >= settings.max_steps, MAX_STEPS, RUNNING)
    code = torch.where(converged, CONVERGED, code)
    return torch.where(exploded, EXPLODED, code)
