"""In-flight batching: molecules that have ended leave their slots, and waiting ones enter."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mlff_core.buckets import bucket_of
from mlff_core.models.force_field import ForceField
from mlff_core.moves.ended import USABLE, HandedOver, Keeps, Relaxed
from mlff_core.moves.exchange import enter_slots, has_kernels, leave_slots, renew_slots
from mlff_core.moves.judge import Judge, coarse_of
from mlff_core.moves.optimizers import OPTIMIZERS
from mlff_core.moves.rules import Rules, SlotStatus
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule, Rows, Transfer, to_device
from mlff_core.moves.state import RelaxState, each, take
from mlff_core.moves.status_check import StatusCheck, wait_for
from mlff_core.moves.step import enter, step
from mlff_core.moves.stepper import Stepper
from mlff_core.moves.waiting import WaitingQueue

#: A step over so few atoms takes the device less time than the host needs to look after it.
FEW_ATOMS = 4096
#: Steps between two looks at the statuses. A look costs a transfer on CUDA and nothing on a CPU.
BURST = {"cuda": 4, "cpu": 1}
#: Bursts by which the host is behind the device: while it looks at one, the next is under way.
LAG = {"cuda": 1, "cpu": 0}


#: When nobody waits any more and but one in so many places is taken, those that are left get fewer
#: slots. Programs with nothing but padding end at once, so it need not be soon; what it costs is
#: another capture.
COMPACT_AT = 4

_WORDS = {status.value: status.word for status in SlotStatus if status > SlotStatus.RUNNING}


class InFlight:
    """Molecules under way in a fixed number of slots, and those that wait for one.

    Iterated, it yields each molecule as it ends, or as it is handed over.

    Attributes:
        potential: What they walk with.
        n_atoms: Of the molecules in the slots.
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
        keeps: Keeps | None = None,
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
            keeps: Those that another force field led on and that end as another molecule, or
                nowhere, wait to begin once more where they were given.
        """
        self.waiting, self.potential, self.settings = waiting, potential, settings
        self.n_slots, self.optimizer = n_slots, OPTIMIZERS[settings.optimizer]
        self.near, self.into, self.keeps = near, into, keeps
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
        self.n_atoms = 0
        self.readouts: deque[_Readout] = deque()
        #: When molecules got another model of their Hessian last, by their slots.
        self.renewed: dict[int, int] = {}

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
        for molecule, relaxed in self._walk():
            if self.into is not None:
                self.into.add(_onward(molecule, relaxed))
                yield HandedOver(molecule.index)
            elif judge is None:
                yield relaxed
            else:
                yield from judge.add(molecule, relaxed)
        if judge is None:
            return
        yield from judge.end()
        if judge.again and not self.waiting.closed:
            again = WaitingQueue([molecule.restarted() for molecule in judge.again])
            n_slots = min(self.n_slots, len(judge.again))
            second = InFlight(again, judge.potential, self.settings, n_slots, coarse=False)
            for ended in second:
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
        burst, lag = BURST[device.type], LAG[device.type]
        checks: deque[StatusCheck] = deque()
        n_bursts = 0
        while not self.waiting.closed:
            # On a CPU another thread may have handed over one more.
            self._fill(rows, stepper.state)
            if not self._under_way:
                break
            # A graph of one step, which takes half as long to make as one of two.
            stepper.run(burst)
            n_bursts += 1
            status = Transfer(stepper.state.status)
            checks.append(StatusCheck(status, list(self.occupants), n_bursts))
            while self.readouts:
                yield from self._read(self.readouts[0])
                self.readouts.popleft()
            if len(checks) <= lag:
                continue
            check = checks.popleft()
            renewing = check.renewing(self.occupants)
            # A later check, under way already, may still find them waiting.
            renewing = [slot for slot in renewing if self.renewed.get(slot, -1) < check.burst]
            if renewing:
                self.renewed |= dict.fromkeys(renewing, n_bursts)
                kernels = has_kernels(stepper.state, self.potential)
                renew_slots(rows, stepper.state, renewing, self.settings, kernels=kernels)
            ended = check.ended(self.occupants)
            if ended and self._is_due(ended):
                self._collect(rows, stepper.state, ended)
            if self._is_too_wide():
                rows, state = self._compact(rows, stepper.state)
                wait_for(checks)
                stepper = self._stepper(rows, state)
        wait_for(checks)

    def _stepper(self, rows: Rows, state: RelaxState) -> Stepper[RelaxState]:
        potential = self.potential
        if self.optimizer.triton and potential.bare_step is not None:
            # Triton is an extra, which only its backend needs.
            from mlff_core.moves.minimise_triton import kernel_step

            run = kernel_step(rows, self.rules, self.capacity, potential.bare_step)
            on_card = potential.device.type == "cuda"
            return Stepper(run, state, graph=on_card, shares_memory=True)
        if self.optimizer.numba and potential.device.type == "cpu":
            # To import it loads what Numba has compiled, which CUDA need not wait for.
            from mlff_core.moves.minimise_numba import compiled_step

            return Stepper(compiled_step(rows, state, potential, self.rules), state)
        return Stepper(lambda now: step(rows, now, potential, self.settings, self.rules), state)

    def _without(self, slots: Sequence[int]) -> int:
        """Atoms of the molecules in the slots, but for some of these."""
        leaving = (self.occupants[slot] for slot in slots)
        return self.n_atoms - sum(molecule.size for molecule in leaving if molecule is not None)

    def _is_due(self, ended: Sequence[int]) -> bool:
        """Whether to read out now who has ended.

        On a device, which the host is behind, that costs as long as several steps of few molecules.
        Where nobody waits for a slot it is done when all have ended, or those that are left get
        fewer slots.
        """
        if self.waiting or LAG[self.potential.device.type] == 0:
            return True
        return self._without(ended) == 0 or self._is_too_wide(without=ended)

    def _is_too_wide(self, without: Sequence[int] = ()) -> bool:
        """Whether nobody waits any more and most places are empty, but for some of these.

        Those that are left then get fewer slots, for which a captured step is captured anew.
        """
        if self.waiting or self.capacity <= FEW_ATOMS:
            return False
        return 0 < COMPACT_AT * self._without(without) <= self.capacity

    def _compact(self, rows: Rows, state: RelaxState) -> tuple[Rows, RelaxState]:
        """Leave out the vacant slots for good."""
        taken = [slot for slot, molecule in enumerate(self.occupants) if molecule is not None]
        self.occupants = [self.occupants[slot] for slot in taken]
        renewed = enumerate(self.renewed.get(slot, -1) for slot in taken)
        self.renewed = dict(renewed)
        # Whoever begins again must fit.
        self.capacity = max(self.width, self.n_atoms)
        index = to_device(np.array(taken), rows.sizes.device)
        return take(rows, index), take(state, index)

    def _fill(self, rows: Rows, state: RelaxState) -> None:
        """Give vacant slots to waiting molecules, in order, as long as their atoms fit."""
        if not self.waiting:
            return
        vacant = [slot for slot, molecule in enumerate(self.occupants) if molecule is None]
        molecules = self.waiting.take(len(vacant), self.capacity - self.n_atoms, self.width)
        self.n_atoms += sum(molecule.size for molecule in molecules)
        for near in (True, False):
            these = [m for m in molecules if (m.given is not None) == near]
            if not these:
                continue
            slots, vacant = vacant[: len(these)], vacant[len(these) :]
            for slot, molecule in zip(slots, these, strict=True):
                self.occupants[slot] = molecule
                self.renewed.pop(slot, None)
            enter_slots(
                rows, state, slots, these, self.settings, near=near,
                kernels=has_kernels(state, self.potential),
            )  # fmt: skip

    def _collect(self, rows: Rows, state: RelaxState, ended: list[int]) -> None:
        """Begin to read out the molecules that ended, and free their slots."""
        # Everything in one transfer.
        cutoff, kernels = self.potential.cutoff, has_kernels(state, self.potential)
        arrays = Transfer(leave_slots(rows, state, ended, cutoff, kernels=kernels))
        molecules = [molecule for slot in ended if (molecule := self.occupants[slot]) is not None]
        self.n_atoms = self._without(ended)
        for slot in ended:
            self.occupants[slot] = None
        self.readouts.append(_Readout(arrays, molecules))

    def _read(self, readout: "_Readout") -> Iterator[tuple[Molecule, Relaxed]]:
        """What has been read out; who begins again waits once more."""
        ends = list(self._ends(readout))
        kept = {end.index for end in ends}
        if self.keeps is not None:
            moved = {m.index for m in readout.molecules if m.given is not None}
            asked = [end for end in ends if end.index in moved and end.status in USABLE]
            answers = self.keeps([e.index for e in asked], [e.positions for e in asked])
            fine = {end.index for end, fine in zip(asked, answers, strict=True) if fine}
            kept -= moved - fine
        for end in ends:
            molecule = readout.molecules.pop(0)
            if end.index in kept:
                yield molecule, end
            else:
                self.waiting.add(molecule.restarted())

    def _ends(self, readout: "_Readout") -> Iterator[Relaxed]:
        """How those that have been read out ended."""
        n, rows = 3 * self.width, readout.arrays.wait().numpy()
        for molecule, row, numbers in zip(
            readout.molecules, rows, rows[:, 2 * n :].tolist(), strict=True
        ):
            status, energy, initial_energy, max_force, n_steps = numbers
            if energy == np.inf:  # no point was accepted
                # Nothing is known, and not zero.
                energy = initial_energy = max_force = row[n : 2 * n] = np.nan
            yield Relaxed(
                index=molecule.index,
                positions=row[:n].reshape(-1, 3)[: molecule.size].copy(),
                energy=energy,
                initial_energy=initial_energy,
                forces=row[n : 2 * n].reshape(-1, 3)[: molecule.size].copy(),
                max_force=max_force,
                n_steps=int(n_steps),
                status=_WORDS[int(status)],
                bucket=bucket_of(molecule.size),
                batch_size=self.n_slots,
            )


def _onward(molecule: Molecule, relaxed: Relaxed) -> Molecule:
    """From where a molecule goes on after a walk: from its start, if the walk led nowhere."""
    if relaxed.status in USABLE:
        return molecule.moved(relaxed.positions, relaxed.n_steps)
    return molecule


@dataclass(frozen=True)
class _Readout:
    """Molecules that have ended, on their way to the host.

    Attributes:
        arrays: A row each.
        molecules: Those that have not been yielded.
    """

    arrays: Transfer
    molecules: list[Molecule]
