"""How molecules in flight are doing, on its way to the host while the device goes on."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from mlff_core.moves.rules import SlotStatus
from mlff_core.moves.slots import Molecule, Transfer


@dataclass(frozen=True)
class StatusCheck:
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


def wait_for(checks: deque[StatusCheck]) -> None:
    """Wait for bursts that nobody checks at: a graph must not be let go while it runs."""
    while checks:
        checks.popleft().status.wait()
