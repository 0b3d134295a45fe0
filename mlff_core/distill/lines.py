"""Lines of embedded molecules: one for each kind that a recipe names, and one for all others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mlff_core.distill.embedding import Embedded
from mlff_core.distill.kinds import STUDENT, TEACHER, KindConfig, place_of
from mlff_core.distill.labelling import Buckets, LabelConfig
from mlff_core.distill.sampling import SamplingConfig

#: What the line of all others is called in a report.
OTHERS: Final = "others"


@dataclass(frozen=True)
class Line:
    """Molecules of which geometries are made alike.

    Attributes:
        name: The kinds in it.
        driver: What drives them, as `KindConfig.driver`; empty if the recipe says nothing of it.
        sampling: How their geometries are made.
        buckets: Those that wait.
    """

    name: str
    driver: str
    sampling: SamplingConfig
    buckets: Buckets

    @property
    def n_waiting(self) -> int:
        """Molecules in it."""
        return sum(map(len, self.buckets.waiting.values()))


class Lines:
    """All lines, the recipe's kinds in its order, then all others.

    Attributes:
        counts: Molecules that stood in each so far, by name.
    """

    def __init__(
        self,
        kinds: Sequence[KindConfig],
        kind_of: Sequence[str],
        *,
        driver: str,
        sampling: SamplingConfig,
        labels: LabelConfig,
        n_conformers: int,
    ):
        """Empty lines.

        Args:
            kinds: What the recipe says of them.
            kind_of: Kind of each molecule that is embedded, in their order; may be empty if no
                kinds are told apart.
            driver: Of all others, and where a kind has none of its own.
            sampling: Of all others, and what a kind's differs from.
            labels: Size of a call.
            n_conformers: Conformers of a molecule.
        """
        self.kinds, self.kind_of = tuple(kinds), kind_of
        self.counts: Counter[str] = Counter()
        size = labels.atoms_a_call
        others = Line(OTHERS, driver, sampling, Buckets(size, n_conformers))
        self.all = [
            *(
                Line(
                    ", ".join(kind.names),
                    kind.driver or driver,
                    kind.sampled(sampling),
                    Buckets(int(size * kind.calls), n_conformers),
                )
                for kind in kinds
            ),
            others,
        ]

    def add(self, molecules: list[Embedded]) -> None:
        """Put molecules in line."""
        for molecule in molecules:
            kind = self.kind_of[molecule.index] if self.kind_of else ""
            line = self.all[place_of(kind, molecule.both_signs, self.kinds)]
            line.buckets.add([molecule])
            self.counts[line.name] += 1

    @property
    def weights(self) -> list[str]:
        """What drives lines and has a name or a file of its own, each once."""
        names = dict.fromkeys(line.driver for line in self.all)
        return [name for name in names if name not in ("", STUDENT, TEACHER)]

    @property
    def full(self) -> bool:
        """Whether a line fills a call."""
        return any(line.buckets.full for line in self.all)

    @property
    def empty(self) -> bool:
        """Whether nobody waits."""
        return not any(line.n_waiting for line in self.all)

    @property
    def longest(self) -> Line:
        """That in which most wait; one that fills a call if there is any."""
        return max(self.all, key=lambda line: (line.buckets.full, line.n_waiting))

    @property
    def too_large(self) -> int:
        """Molecules that stand in no line."""
        return sum(line.buckets.too_large for line in self.all)
