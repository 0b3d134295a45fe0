"""What a run's tables tell, as plain data. Reads columns of numbers and words, never geometries."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from flows.report.distributions import histograms
from flows.report.plots import Histogram
from mlff_core.errors import OutputError
from mlff_core.tables import Manifest, Tables

#: Examples of each reason.
EXAMPLES: Final = 5
#: Molecules that are drawn because they took long, and because they failed.
DRAWN: Final = 8
#: Molecules that are shown in space.
SHOWN: Final = 8

_OK: Final = pl.col("status") == "ok"
_NAME: Final = pl.coalesce(pl.col("input_id"), pl.format("record {}", pl.col("record")))


@dataclass(frozen=True)
class Facts:
    """What the page says of one run.

    Attributes:
        where: Folder or address of the tables.
        manifest: What made them.
        reasons: Of each reason its number and examples: name, input and message.
        flags: Of each flag its number and the names of a few molecules.
        histograms: Distributions.
        slowest: Molecules with the most steps: name, SMILES, and a line.
        failed: Molecules that were computed without success.
        best: Record and variant of those to be shown in space.
    """

    where: str
    manifest: Manifest
    reasons: dict[str, tuple[int, list[dict[str, Any]]]]
    flags: dict[str, tuple[int, list[str]]]
    histograms: list[Histogram]
    slowest: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    best: list[tuple[int, int]]


def gather(tables: Tables) -> Facts:
    """Look at the tables of a run.

    Raises:
        OutputError: There is no manifest beside them.
    """
    manifest = tables.manifest
    if manifest is None:
        raise OutputError(f"{tables.store.location}: has tables, but no manifest.json beside them")
    molecules, pieces = tables.molecules, list(tables.pieces())
    return Facts(
        where=tables.store.location,
        manifest=manifest,
        reasons=_reasons(pieces),
        flags=_flags(pieces),
        histograms=histograms(pieces),
        slowest=_slowest(pieces),
        failed=_rows(
            molecules.filter(pl.col("status") == "failed")
            .select(
                _NAME.alias("name"),
                pl.coalesce(pl.col("smiles"), pl.col("input_smiles")).alias("smiles"),
                pl.format("{}: {}", "reason", pl.col("message").fill_null("")).alias("line"),
            )
            .head(DRAWN)
        ),
        best=_best(pieces),
    )


def _rows(frame: pl.LazyFrame) -> list[dict[str, Any]]:
    return frame.collect(engine="streaming").to_dicts()


def _reasons(pieces: list[Tables]) -> dict[str, tuple[int, list[dict[str, Any]]]]:
    example = pl.struct(_NAME.alias("name"), "input_smiles", "message")
    found = [p.molecules.filter(pl.col("reason").is_not_null()) for p in pieces]
    return _examples([frame.select("reason", example.alias("example")) for frame in found])


def _flags(pieces: list[Tables]) -> dict[str, tuple[int, list[str]]]:
    each = [p.molecules.select("flags", _NAME.alias("example")).explode("flags") for p in pieces]
    return _examples([frame.drop_nulls("flags") for frame in each])


def _examples(pieces: list[pl.LazyFrame]) -> dict[str, tuple[int, list[Any]]]:
    """How often each value of the first column is there, and the first rows that have it.

    Piece by piece: a group holds all its rows, and all of a library may have one flag.
    """
    counts: Counter[str] = Counter()
    firsts: dict[str, list[Any]] = {}
    for piece in pieces:
        value = piece.collect_schema().names()[0]
        first = pl.col("example").head(EXAMPLES)
        for row in _rows(piece.group_by(value).agg(pl.len().alias("n"), first)):
            counts[row[value]] += row["n"]
            firsts.setdefault(row[value], []).extend(row["example"])
    often = sorted(counts, key=lambda value: (-counts[value], value))
    return {value: (counts[value], firsts[value][:EXAMPLES]) for value in often}


def _slowest(pieces: list[Tables]) -> list[dict[str, Any]]:
    """Those with the most steps, all their conformers together."""
    key = ["record", "variant"]
    several = pl.when(pl.col("n_conformers") == 1).then(pl.lit("")).otherwise(pl.lit("s"))
    line = pl.format("{} steps, {} conformer{}", "steps", "n_conformers", several).alias("line")
    most: list[dict[str, Any]] = []
    for piece in pieces:
        steps = piece.conformers.group_by(key).agg(pl.col("n_steps").sum().alias("steps"))
        own = steps.sort("steps", *key, descending=[True, False, False]).head(DRAWN)
        most += _rows(
            own.join(piece.molecules, on=key, how="inner").select(
                *key, "steps", _NAME.alias("name"), "smiles", line
            )
        )
    most.sort(key=lambda row: (-row["steps"], row["record"], row["variant"]))
    return [{name: row[name] for name in ("name", "smiles", "line")} for row in most[:DRAWN]]


def _best(pieces: list[Tables]) -> list[tuple[int, int]]:
    """Those with the most conformers, then the first ones, in the order of the library."""
    order = ["n_converged", "record", "variant"]
    rows: list[dict[str, Any]] = []
    for piece in pieces:
        rows += _rows(
            piece.molecules.filter(_OK & (pl.col("n_atoms") <= 150))
            .sort(order, descending=[True, False, False])
            .select(order)
            .head(SHOWN)
        )
    rows.sort(key=lambda row: (-row["n_converged"], row["record"], row["variant"]))
    return sorted((row["record"], row["variant"]) for row in rows[:SHOWN])
