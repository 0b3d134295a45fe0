"""Distributions of the tables' numbers, counted a piece of the tables at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from flows.report.plots import Histogram, bin_width
from mlff_core.tables import Tables
from mlff_core.units import EV_KCAL_MOL

#: Made of two columns.
_RELEASED: Final = "released"
#: Of one conformer a molecule each is its own best, and all are 0.
_ABOVE_BEST: Final = "relative_energy_kcal_mol"

#: Column, title and unit of each distribution, by table.
_OF_MOLECULES: Final = (
    ("n_atoms", "atoms, hydrogens counted", ""),
    ("n_rotatable_bonds", "rotatable bonds", ""),
    ("charge", "total charge", "e"),
    ("clogp", "logP, estimated", ""),
    ("qed", "drug-likeness, QED", ""),
)
_OF_CONFORMERS: Final = (
    ("n_steps", "steps of the relaxation", ""),
    (_ABOVE_BEST, "energy above the molecule's best", "kcal/mol"),
    (_RELEASED, "energy that relaxing released, an atom", "kcal/mol"),
    ("max_force_ev_per_angstrom", "largest force left", "eV/Å"),
    ("rmsd_to_initial_angstrom", "moved from the start, RMSD", "Å"),
)


def histograms(pieces: list[Tables]) -> list[Histogram]:
    """The distributions of a run; one without values is left out."""
    molecules = [piece.molecules.filter(pl.col("status") == "ok") for piece in pieces]
    conformers = [_with_released(piece.conformers, piece.molecules) for piece in pieces]
    return [*_histograms(molecules, _OF_MOLECULES), *_histograms(conformers, _OF_CONFORMERS)]


def _with_released(conformers: pl.LazyFrame, molecules: pl.LazyFrame) -> pl.LazyFrame:
    """With how far the energy fell from the start to the minimum, for each atom."""
    atoms = molecules.select("record", "variant", pl.col("n_atoms").alias("n"))
    fell = (pl.col("initial_energy_ev") - pl.col("energy_ev")) * EV_KCAL_MOL / pl.col("n")
    joined = conformers.join(atoms, on=["record", "variant"], how="left")
    return joined.with_columns(fell.alias(_RELEASED))


@dataclass(frozen=True)
class _Bins:
    """Of equal width, from the first value to the last."""

    low: float
    width: float
    n: int
    #: Whether each is one whole number.
    whole: bool

    @classmethod
    def between(cls, low: float, high: float, *, integer: bool) -> "_Bins":
        width = bin_width(low, high, whole=integer)
        low = low // width * width
        return cls(low, width, int((high - low) / width) + 1, integer and width == 1)

    def of(self, values: pl.Expr) -> pl.Expr:
        """The number of each value's bin."""
        place = ((values - self.low) / self.width).floor()
        return place.clip(0, self.n - 1).cast(pl.Int32)


def _histograms(
    pieces: list[pl.LazyFrame], wanted: tuple[tuple[str, str, str], ...]
) -> Iterator[Histogram]:
    """All of one table. Twice over the pieces: where the values end, then how many are where."""
    values = {c: pl.when(pl.col(c).is_finite()).then(pl.col(c)) for c, _, _ in wanted}
    ends = {(c, "low"): x.min() for c, x in values.items()}
    ends |= {(c, "high"): x.max() for c, x in values.items()}
    found = [_first_row(piece, ends) for piece in pieces]
    schema, bins = pieces[0].collect_schema(), {}
    for column in values:
        lows = [row[column, "low"] for row in found if row[column, "low"] is not None]
        highs = [row[column, "high"] for row in found if row[column, "high"] is not None]
        if lows and not (column == _ABOVE_BEST and max(highs) == 0):
            low, high = float(min(lows)), float(max(highs))
            bins[column] = _Bins.between(low, high, integer=schema[column].is_integer())
    counts = {column: [0] * own.n for column, own in bins.items()}
    counted = {
        column: own.of(values[column]).drop_nulls().value_counts().implode()
        for column, own in bins.items()
    }
    for row in (_first_row(piece, counted) for piece in pieces if counted):
        for column, of_bins in row.items():
            for each in of_bins:
                counts[column][each[column]] += each["count"]
    for column, title, unit in wanted:
        if column in bins:
            own = bins[column]
            yield Histogram(title, unit, own.low, own.width, tuple(counts[column]), own.whole)


def _first_row(frame: pl.LazyFrame, asked: dict[Any, pl.Expr]) -> dict[Any, Any]:
    """What is asked of a piece, by the names that it is asked by; read once for all."""
    found = frame.select(e.alias(str(k)) for k, e in enumerate(asked.values()))
    row: Iterable[Any] = found.collect(engine="streaming").row(0)
    return dict(zip(asked, row, strict=True))
