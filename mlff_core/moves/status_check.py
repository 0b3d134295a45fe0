"""How molecules in flight are doing, on its way to the host while the device goes on."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from mlff_core.moves.rules import SlotStatus
from mlff_core.moves.slots import Molecule, Transfer


@dataclass(frozen=True)
class StatusCheck:
    """How the molecules are doing after a burst, on its way to the host.

    Attributes:
        status: `SlotStatus` of each, int64 [n_slots].
        occupants: Who was in each slot.
        burst: Which burst it was.
    """

    status: Transfer
    occupants: list[Molecule | None]
    burst: int

    def ended(self, occupants: list[Molecule | None]) -> list[int]:
        """The slots whose molecules have ended and are still there."""
        return self._still(occupants, self._now > SlotStatus.RUNNING.value)

    def renewing(self, occupants: list[Molecule | None]) -> list[int]:
        """The slots whose molecules wait for another model of their Hessian."""
        return self._still(occupants, self._now == SlotStatus.RENEWING.value)

    @property
    def _now(self) -> np.ndarray:
        return self.status.wait().numpy()

    def _still(self, occupants: list[Molecule | None], chosen: np.ndarray) -> list[int]:
        """Of the chosen slots, bool [n_slots], those whose molecules are still there."""
        return [
            slot
            for slot in np.flatnonzero(chosen).tolist()
            # Whoever entered since has a status of its own to come.
            if occupants[slot] is not None and occupants[slot] is self.occupants[slot]
        ]


def wait_for(checks: deque[StatusCheck]) -> None:
    """Wait for bursts that nobody checks at: a graph must not be let go while it runs."""
    while checks:
        checks.popleft().status.wait()
