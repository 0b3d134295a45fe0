"""In-flight batching: molecules that have ended leave their slots, and waiting ones enter."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from mlff_core.buckets import bucket_of
from mlff_core.models.force_field import ForceField
from mlff_core.moves.judge import Judge, coarse_of
from mlff_core.moves.optimizers import OPTIMIZERS
from mlff_core.moves.rules import Rules, SlotStatus, fell_apart
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule, Rows, Transfer, to_device
from mlff_core.moves.state import RelaxState, each, overwrite, take
from mlff_core.moves.step import enter, renew, step
from mlff_core.moves.stepper import Stepper
from mlff_core.moves.waiting import WaitingQueue
from mlff_core.status import ConformerStatus

#: A step over so few atoms takes the device less time than the host needs to look after it.
FEW_ATOMS = 4096
#: Steps between two looks at the statuses, for many atoms and for few. A look costs a transfer on
#: CUDA and nothing on a CPU.
BURST = {"cuda": (2, 4), "cpu": (1, 1)}
#: Bursts by which the host is behind the device: while it looks at one, the next is under way.
LAG = {"cuda": 1, "cpu": 0}


#: When nobody waits any more and but one in so many places is taken, those that are left get fewer
#: slots. Programs with nothing but padding end at once, so it need not be soon; what it costs is
#: another capture.
COMPACT_AT = 4


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
class HandedOver:
    """One molecule that has ended a walk after which another one comes.

    Attributes:
        index: Its place in the caller's order.
    """

    index: int


class InFlight:
    """Molecules under way in a fixed number of slots, and those that wait for one.

    Iterated, it yields each molecule as it ends, or as it is handed over.

    Attributes:
        potential: What they walk with.
        judge: Who judges the ends of a walk with a coarse force field, or from where another one
            led to; None if it is neither.
    """

    def __init__(
        self,
        waiting: WaitingQueue,
        potential: ForceField,
        settings: RelaxSettings,
        n_slots: int,
        *,
        coarse: bool = True,
        near: bool = False,
        into: WaitingQueue | None = None,
    ):
        """Make room.

        Args:
            waiting: The molecules.
            potential: What computes energies and forces.
            settings: What is asked for.
            n_slots: Most molecules in a force call.
            coarse: Walk with the coarse force field that the potential may bring along.
            near: Another force field has led them near to a minimum.
            into: Where those that have ended go on; nothing is reported of them here.
        """
        self.waiting, self.potential, self.settings = waiting, potential, settings
        self.n_slots, self.optimizer = n_slots, OPTIMIZERS[settings.optimizer]
        self.near, self.into = near, into
        self.judge: Judge | None = None
        found = coarse_of(potential, settings) if coarse else None
        if into is None and (found is not None or near):
            self.judge = Judge(potential, settings, walked=found is None, n_slots=n_slots)
        asked = settings
        if found is not None:
            self.potential, fmax = found
            asked = replace(settings, fmax=fmax)
        self.rules = Rules.of(asked, potential.dtype, potential.cutoff)
        sizes = waiting.sizes
        self.width = max(sizes)
        # A captured step has a fixed number of atoms: what the slots hold on average, and a bit.
        self.capacity = max(self.width, int(np.ceil(1.05 * np.mean(sizes) * n_slots)))
        self.occupants: list[Molecule | None] = [None] * n_slots
        self.readouts: deque[_Readout] = deque()
        #: Slots whose molecules have got their other model of the Hessian.
        self.renewed: set[int] = set()

    @property
    def unfinished(self) -> list[Molecule]:
        """The molecules that took a slot and have not been yielded."""
        return self._under_way + ([] if self.judge is None else self.judge.unfinished)

    @property
    def _under_way(self) -> list[Molecule]:
        """Those that walk, or are being read out."""
        read = [molecule for readout in self.readouts for molecule in readout.molecules]
        return read + [molecule for molecule in self.occupants if molecule is not None]

    def __iter__(self) -> Iterator[Relaxed | HandedOver]:
        judge = self.judge
        if self.into is not None:
            for molecule, relaxed in self._walk():
                self.into.add(_onward(molecule, relaxed))
                yield HandedOver(molecule.index)
            return
        if judge is None:
            yield from (relaxed for _, relaxed in self._walk())
            return
        for molecule, relaxed in self._walk():
            yield from judge.add(molecule, relaxed)
        yield from judge.end()
        if judge.again and not self.waiting.closed:
            again = WaitingQueue([molecule.restarted() for molecule in judge.again])
            n_slots = min(self.n_slots, len(judge.again))
            for ended in InFlight(again, judge.potential, self.settings, n_slots, coarse=False):
                judge.again = [left for left in judge.again if left.index != ended.index]
                yield ended

    def _walk(self) -> Iterator[tuple[Molecule, Relaxed]]:
        """Each molecule, as it ends."""
        device = self.potential.device
        dtype = torch.float64 if self.optimizer.double else self.potential.dtype
        rows = Rows.empty(self.n_slots, self.width, device, dtype)
        vacant = enter(Rows.empty(1, self.width, device, dtype), self.settings)
        state = each(lambda t: t.expand(self.n_slots, *t.shape[1:]).clone(), vacant)
        stepper = self._stepper(rows, state)
        many, few = BURST[device.type]
        lag = LAG[device.type]
        checks: deque[_StatusCheck] = deque()
        self._fill(rows, stepper.state)
        while self._under_way and not self.waiting.closed:
            burst = many if self.capacity > FEW_ATOMS else few
            # A graph of one step, which takes half as long to make as one of two.
            stepper.run(burst)
            checks.append(_StatusCheck(Transfer(stepper.state.status), list(self.occupants)))
            while self.readouts:
                yield from self._read(self.readouts[0])
                self.readouts.popleft()
            if len(checks) <= lag:
                continue
            check = checks.popleft()
            renewing = check.renewing(self.occupants)
            # A later check, under way already, may still find them waiting.
            renewing = [slot for slot in renewing if slot not in self.renewed]
            if renewing:
                self.renewed.update(renewing)
                waiting = to_device(np.array(renewing), device)
                renew(rows, stepper.state, waiting, self.settings)
            ended = check.ended(self.occupants)
            if ended:
                self._collect(rows, stepper.state, ended)
                self._fill(rows, stepper.state)
            if self._is_too_wide():
                rows, state = self._compact(rows, stepper.state)
                _wait_for(checks)
                stepper = self._stepper(rows, state)
        _wait_for(checks)

    def _stepper(self, rows: Rows, state: RelaxState) -> Stepper[RelaxState]:
        potential = self.potential
        if self.optimizer.triton and potential.bare_step is not None:
            # Triton is an extra, which only its backend needs.
            from mlff_core.moves.minimise_triton import kernel_step

            run = kernel_step(rows, self.rules, self.capacity, potential.bare_step)
            return Stepper(run, state, graph=potential.device.type == "cuda")
        if self.optimizer.numba and potential.device.type == "cpu":
            # To import it loads what Numba has compiled, which CUDA need not wait for.
            from mlff_core.moves.minimise_numba import compiled_step

            return Stepper(compiled_step(rows, state, potential, self.rules), state)
        return Stepper(lambda now: step(rows, now, potential, self.settings, self.rules), state)

    def _is_too_wide(self) -> bool:
        """Whether nobody waits any more and most places are empty.

        Those that are left then get fewer slots, for which a captured step is captured anew.
        """
        n_atoms = sum(molecule.size for molecule in self.occupants if molecule is not None)
        few = COMPACT_AT * n_atoms <= self.capacity
        return not self.waiting and few and self.capacity > FEW_ATOMS and n_atoms > 0

    def _compact(self, rows: Rows, state: RelaxState) -> tuple[Rows, RelaxState]:
        """Leave out the vacant slots for good."""
        taken = [slot for slot, molecule in enumerate(self.occupants) if molecule is not None]
        self.occupants = [self.occupants[slot] for slot in taken]
        self.renewed = {k for k, slot in enumerate(taken) if slot in self.renewed}
        self.capacity = sum(molecule.size for molecule in self.occupants if molecule is not None)
        index = to_device(np.array(taken), rows.sizes.device)
        return take(rows, index), take(state, index)

    def _fill(self, rows: Rows, state: RelaxState) -> None:
        """Give vacant slots to waiting molecules, in order, as long as their atoms fit."""
        n_atoms = sum(molecule.size for molecule in self.occupants if molecule is not None)
        vacant = [slot for slot, molecule in enumerate(self.occupants) if molecule is None]
        molecules = self.waiting.take(len(vacant), self.capacity - n_atoms)
        if not molecules:
            return
        slots = vacant[: len(molecules)]
        for slot, molecule in zip(slots, molecules, strict=True):
            self.occupants[slot] = molecule
            self.renewed.discard(slot)
        index = to_device(np.array(slots), rows.sizes.device)
        entering = Rows.pack(molecules, self.width, rows.sizes.device, rows.positions.dtype)
        begun = enter(entering, self.settings, near=self.near)
        if self.near:
            before = np.array([molecule.n_before for molecule in molecules], np.int64)
            begun = begun._replace(n_steps=to_device(before, rows.sizes.device))
        overwrite(rows, index, entering)
        overwrite(state, index, begun)

    def _collect(self, rows: Rows, state: RelaxState, ended: list[int]) -> None:
        """Begin to read out the molecules that ended, and free their slots."""
        index = to_device(np.array(ended), rows.sizes.device)
        positions = state.positions[index]
        here = rows.numbers[index] != 0
        apart = fell_apart(rows.positions[index], positions, here, self.potential.cutoff)
        status = state.status[index]
        apart &= status != SlotStatus.NON_FINITE
        status = torch.where(apart, SlotStatus.EXPLODED.value, status)
        state.status.index_fill_(0, index, SlotStatus.VACANT.value)
        # Everything in one transfer.
        single = (state.energy, state.initial_energy, state.max_force, state.n_steps)
        columns = [status, *(tensor[index] for tensor in single)]
        rest = torch.stack([column.double() for column in columns], 1)
        arrays = torch.cat(
            [positions.flatten(1).double(), state.forces[index].flatten(1).double(), rest], 1
        )
        molecules = [molecule for slot in ended if (molecule := self.occupants[slot]) is not None]
        for slot in ended:
            self.occupants[slot] = None
        self.readouts.append(_Readout(Transfer(arrays), molecules))

    def _read(self, readout: "_Readout") -> Iterator[tuple[Molecule, Relaxed]]:
        """What has been read out."""
        n = 3 * self.width
        for row in readout.arrays.wait().numpy():
            molecule = readout.molecules.pop(0)
            if row[2 * n + 1] == np.inf:  # no point was accepted
                row[n : 2 * n] = row[2 * n + 1 : -1] = np.nan  # nothing is known, and not zero
            status, energy, initial_energy, max_force, n_steps = row[2 * n :].tolist()
            yield (
                molecule,
                Relaxed(
                    index=molecule.index,
                    positions=row[:n].reshape(-1, 3)[: molecule.size].copy(),
                    energy=energy,
                    initial_energy=initial_energy,
                    forces=row[n : 2 * n].reshape(-1, 3)[: molecule.size].copy(),
                    max_force=max_force,
                    n_steps=int(n_steps),
                    status=SlotStatus(int(status)).word,
                    bucket=bucket_of(molecule.size),
                    batch_size=self.n_slots,
                ),
            )


@dataclass(frozen=True)
class _StatusCheck:
    """How the molecules are doing after a burst, on its way to the host.

    Attributes:
        status: `SlotStatus` of each, int64 [n_slots].
        occupants: Who was in each slot.
    """

    status: Transfer
    occupants: list[Molecule | None]

    def ended(self, occupants: list[Molecule | None]) -> list[int]:
        """The slots whose molecules have ended and are still there."""
        return [slot for slot, status in self._still(occupants) if status > SlotStatus.RUNNING]

    def renewing(self, occupants: list[Molecule | None]) -> list[int]:
        """The slots whose molecules wait for another model of their Hessian."""
        return [slot for slot, status in self._still(occupants) if status == SlotStatus.RENEWING]

    def _still(self, occupants: list[Molecule | None]) -> Iterator[tuple[int, int]]:
        """Slots and statuses of the molecules that are still there."""
        for slot, status in enumerate(self.status.wait().tolist()):
            # Whoever entered since has a status of its own to come.
            if occupants[slot] is not None and occupants[slot] is self.occupants[slot]:
                yield slot, status


def _onward(molecule: Molecule, relaxed: Relaxed) -> Molecule:
    """From where a molecule goes on after a walk: from its start, if the walk led nowhere."""
    if relaxed.status in (ConformerStatus.CONVERGED, ConformerStatus.MAX_STEPS):
        return molecule.moved(relaxed.positions, relaxed.n_steps)
    return molecule


def _wait_for(checks: deque[_StatusCheck]) -> None:
    """Wait for bursts that nobody checks at: a graph must not be let go while it runs."""
    while checks:
        checks.popleft().status.wait()


@dataclass(frozen=True)
class _Readout:
    """Molecules that have ended, on their way to the host.

    Attributes:
        arrays: A row each.
        molecules: Those that have not been yielded.
    """

    arrays: Transfer
    molecules: list[Molecule]


def not_relaxed(molecule: Molecule) -> Relaxed:
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
