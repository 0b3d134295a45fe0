"""The queue in front of the slots."""

import threading
from collections import deque
from collections.abc import Sequence

from mlff_core.moves.slots import Molecule


class WaitingQueue:
    """Molecules that wait for a slot, in order. Several threads may share them.

    Attributes:
        closed: Whoever takes from it is to end as it is.
    """

    def __init__(self, molecules: Sequence[Molecule], expected: Sequence[Molecule] = ()):
        """Let molecules wait.

        Args:
            molecules: Those that do.
            expected: Those that come later.
        """
        self._molecules = deque(molecules)
        self._expected = [molecule.size for molecule in expected]
        self._taken: list[int] = []
        self._lock = threading.Lock()
        self.closed = False

    def __len__(self) -> int:
        return len(self._molecules)

    @property
    def sizes(self) -> list[int]:
        """Atoms of each, those included that are expected; of all before, if there are none."""
        with self._lock:
            here = [molecule.size for molecule in self._molecules] + self._expected
            return here or list(self._taken)

    def take(self, n_molecules: int, n_atoms: int, width: int) -> list[Molecule]:
        """Those whose turn it is, as many as fit into places and atoms; they wait no more.

        One of more than `width` atoms goes on waiting: another thread took it before the slots were
        made, and put it back because its memory ran out.
        """
        taken: list[Molecule] = []
        too_large: list[Molecule] = []
        with self._lock:
            while self._molecules and len(taken) < n_molecules:
                if self._molecules[0].size > width:
                    too_large.append(self._molecules.popleft())
                    continue
                n_atoms -= self._molecules[0].size
                if n_atoms < 0:
                    break
                taken.append(self._molecules.popleft())
            self._molecules.extendleft(reversed(too_large))
            self._taken += [molecule.size for molecule in taken]
        return taken

    def add(self, molecule: Molecule) -> None:
        """Let one more wait."""
        with self._lock:
            self._molecules.append(molecule)

    def put_back(self, molecules: Sequence[Molecule]) -> None:
        """Let molecules wait again, before all others."""
        with self._lock:
            self._molecules.extendleft(reversed(molecules))
