"""How busy a run's stages were over its time, in bins: as small after a day as after a minute."""

from dataclasses import dataclass, field
from typing import Final

#: Bins at most; one more, and each becomes twice as wide.
MOST_BINS: Final = 80


@dataclass
class Timeline:
    """Seconds of work in bins of equal width, from the begin of the computation on.

    Attributes:
        lanes: Devices side by side: so many seconds of work fit into a second.
        width_s: Of a bin, in seconds.
        busy_s: Of each stage, the seconds of work in each bin.
    """

    lanes: int = 1
    width_s: float = 1.0
    busy_s: dict[str, list[float]] = field(default_factory=dict)

    def add(self, stage: str, begin_s: float, end_s: float, work_s: float) -> None:
        """Spread work evenly over the time in which it was done.

        Args:
            stage: What was done.
            begin_s: When it began; not before 0.
            end_s: When it ended.
            work_s: How much it was: less than the time where it waited, more where several did it.
        """
        begin_s = max(begin_s, 0.0)
        end_s = max(end_s, begin_s + 1e-6)
        while end_s > MOST_BINS * self.width_s:
            self._widen()
        bins = self.busy_s.setdefault(stage, [])
        first, last = int(begin_s / self.width_s), int(end_s / self.width_s)
        bins.extend([0.0] * (min(last + 1, MOST_BINS) - len(bins)))
        for k in range(first, min(last + 1, MOST_BINS)):
            inside = min(end_s, (k + 1) * self.width_s) - max(begin_s, k * self.width_s)
            bins[k] += work_s * inside / (end_s - begin_s)

    def _widen(self) -> None:
        self.width_s *= 2.0
        for stage, bins in self.busy_s.items():
            even = [*bins, 0.0] if len(bins) % 2 else bins
            self.busy_s[stage] = [a + b for a, b in zip(even[::2], even[1::2], strict=True)]

    def shares(self, stage: str) -> list[float]:
        """Of each bin, the share of the lanes' time in which the stage was at work."""
        return [seconds / self.width_s / self.lanes for seconds in self.busy_s.get(stage, [])]
