"""The ends of walks with another force field, judged by the one that is asked for.

A walk takes some forty force calls, of which only the last has to be as good as the model can.
Where a force field brings a quicker one along (`force_field.HasCoarse`), molecules walk with that
one until no force is above fmax less its error. What is reported, initial energies, final energies
and forces, is computed with the force field itself, and so is the verdict: a molecule that has not
converged by it, or stands above its start by it, begins again and walks with it.

The same is asked of a walk that began where a cheaper model led to (`pre_relax`): its start is
where the molecule was given.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import ForceField, HasCoarse
from mlff_core.moves.ended import Relaxed
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule, Transfer, to_device_together
from mlff_core.status import ConformerStatus

#: Molecules that are judged at once, each at its start and at its end, on a device; on a CPU as
#: many as walk at once.
AT_ONCE = 256
#: A coarse force field is of use down to so many times its error.
LEAST_ERRORS = 5.0


def coarse_of(potential: ForceField, settings: RelaxSettings) -> tuple[ForceField, float] | None:
    """The force field to walk with and the fmax to walk to, if there is one that is of use."""
    if not isinstance(potential, HasCoarse) or potential.coarse is None:
        return None
    error = potential.coarse_error
    if settings.optimizer == "ase-lbfgs" or settings.fmax < LEAST_ERRORS * error:
        return None
    return potential.coarse, settings.fmax - error


class _Asked(NamedTuple):
    """Molecules that are being judged.

    Attributes:
        ends: The molecules, and how their walks ended.
        energy: eV, at all starts, then at all ends if these are judged, float64.
        forces: eV/Å, likewise.
    """

    ends: list[tuple[Molecule, Relaxed]]
    energy: Transfer
    forces: Transfer


class Judge:
    """Judges what walked with a coarse force field, or from where another one led to.

    Attributes:
        potential: The force field itself.
        again: Molecules that have to walk with it, from where they were given.
    """

    def __init__(
        self, potential: ForceField, settings: RelaxSettings, *, walked: bool, n_slots: int
    ):
        """Wait for the first.

        Args:
            potential: The force field itself.
            settings: What is asked for.
            walked: The walks are with it, so that what they say of their ends stands.
            n_slots: Molecules that walk at once.
        """
        self.potential, self.settings, self.walked = potential, settings, walked
        self._at_once = n_slots if potential.device.type == "cpu" else AT_ONCE
        self.again: list[Molecule] = []
        self._waiting: list[tuple[Molecule, Relaxed]] = []
        self._asked: deque[_Asked] = deque()

    @property
    def unfinished(self) -> list[Molecule]:
        """Those without a verdict, and those that have to walk again."""
        ends = [end for asked in self._asked for end in asked.ends] + self._waiting
        return [molecule for molecule, _ in ends] + self.again

    def add(self, molecule: Molecule, relaxed: Relaxed) -> Iterator[Relaxed]:
        """One more; yields verdicts that have come meanwhile."""
        self._waiting.append((molecule, relaxed))
        if len(self._waiting) >= self._at_once:
            yield from self._answers()
            self._ask()

    def end(self) -> Iterator[Relaxed]:
        """The verdicts that are left."""
        if self._waiting:
            self._ask()
        yield from self._answers()

    def _ask(self) -> None:
        """Send those that wait to the device, which is not waited for."""
        ends, device, dtype = self._waiting, self.potential.device, self.potential.dtype
        places = [molecule.start for molecule, _ in ends]
        if not self.walked:
            places += [relaxed.positions for _, relaxed in ends]
        each = len(places) // len(ends)
        sizes = np.array([molecule.size for molecule, _ in ends] * each)
        numbers = np.concatenate([molecule.numbers for molecule, _ in ends] * each)
        positions = np.concatenate(places)
        charge = np.array([molecule.charge for molecule, _ in ends] * each, np.int64)
        real = np.float32 if dtype == torch.float32 else np.float64
        together = [
            numbers.astype(np.int64),
            positions.astype(real),
            np.repeat(np.arange(len(sizes)), sizes),
            np.concatenate([[0], np.cumsum(sizes)]),
            charge,
        ]
        batch = MolBatch(*to_device_together(together, device))
        # The bare step, because a graph for each number of atoms would be made and used once.
        out = (self.potential.bare_step or self.potential.evaluate)(batch)
        self._asked.append(_Asked(ends, Transfer(out.energy), Transfer(out.forces)))
        self._waiting = []

    def _answers(self) -> Iterator[Relaxed]:
        while self._asked:
            asked = self._asked[0]
            n_mols = len(asked.ends)
            energy = asked.energy.wait().numpy()
            forces = asked.forces.wait().numpy()[sum(m.size for m, _ in asked.ends) :]
            verdicts, first = [], 0
            for k, (molecule, relaxed) in enumerate(asked.ends):
                initial = float(energy[k])
                if self.walked:
                    verdict = self._of_own(relaxed, initial)
                else:
                    own = forces[first : first + molecule.size]
                    first += molecule.size
                    verdict = self._verdict(
                        molecule, relaxed, initial, float(energy[n_mols + k]), own
                    )
                if verdict is None:
                    self.again.append(molecule)
                else:
                    verdicts.append(verdict)
            self._asked.popleft()
            yield from verdicts

    def _of_own(self, relaxed: Relaxed, initial_energy: float) -> Relaxed | None:
        """What is reported of one whose end was computed; None if it has to walk again."""
        if relaxed.status == ConformerStatus.CONVERGED and not relaxed.energy <= initial_energy:
            return None
        known = np.isfinite(relaxed.energy)
        return replace(relaxed, initial_energy=initial_energy) if known else relaxed

    def _verdict(
        self,
        molecule: Molecule,
        relaxed: Relaxed,
        initial_energy: float,
        energy: float,
        forces: np.ndarray,
    ) -> Relaxed | None:
        """What is reported of a molecule; None if it has to walk again."""
        if not np.isfinite(relaxed.energy):  # no point was accepted: nothing is known
            return relaxed
        moving = forces if molecule.free is None else forces[molecule.free]
        max_force = float(np.sqrt(np.square(moving).sum(-1).max(initial=0.0)))
        converged = max_force < self.settings.fmax and energy <= initial_energy
        status = relaxed.status
        if status == ConformerStatus.MAX_STEPS and converged:
            status = ConformerStatus.CONVERGED
        elif status == ConformerStatus.CONVERGED and not converged:
            return None
        return replace(
            relaxed,
            energy=energy,
            initial_energy=initial_energy,
            forces=forces.astype(relaxed.forces.dtype),
            max_force=max_force,
            status=status,
        )
