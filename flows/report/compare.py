"""The page of two runs: what was asked differently, and what came out differently."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from flows.report.facts import DRAWN, EXAMPLES
from flows.report.page import call_of, cards, document, h, name_of, section, table, when
from flows.report.plots import Histogram, bin_width, histogram
from flows.text import duration, rate
from mlff_core.errors import OutputError
from mlff_core.tables import Manifest, Tables, read
from mlff_core.units import EV_KCAL_MOL

#: Entries of the call that differ between any two runs.
_ALWAYS: Final = ("out", "run")


def compare(first: Path, second: Path) -> str:
    """The page of two runs.

    Raises:
        OutputError: One of them is none.
        ValueError: They have no molecule in common.
    """
    runs = [read(path) for path in (first, second)]
    manifests = [_manifest_of(run) for run in runs]
    together, how = _together(runs, manifests)
    energies = _energies(together)
    names = [name_of(manifest) for manifest in manifests]
    body = [
        f"<h1>{h(names[0])} and {h(names[1])}</h1>",
        *(
            f"<p class='faint'>{letter}: {h(when(manifest))} · "
            f"<code>{h(run.store.location)}</code></p>"
            for letter, manifest, run in zip("AB", manifests, runs, strict=True)
        ),
        f"<p class='faint'>Molecules are the same where {how}.</p>",
        section("Counts", _counts(manifests)),
        section("Asked differently", _calls(manifests)),
        section("How fast", _speeds(manifests)),
        section("Another end", _ends(together)),
        section("Lowest energies, B less A", _differences(energies)),
        section("The largest differences", cards(_largest(energies))),
    ]
    return document(f"{names[0]} and {names[1]}", "".join(body))


def _manifest_of(run: Tables) -> Manifest:
    manifest = run.manifest
    if manifest is None:
        raise OutputError(f"{run.store.location}: has tables, but no manifest.json beside them")
    return manifest


def _together(runs: list[Tables], manifests: list[Manifest]) -> tuple[pl.LazyFrame, str]:
    """Molecules of both, and what makes two the same.

    Raises:
        ValueError: There are none.
    """
    a, b = (run.molecules for run in runs)
    if manifests[0].library.get("sha256") == manifests[1].library.get("sha256"):
        key, how = ["record", "variant"], "their records are: the library is the same"
    else:
        key, how = ["inchikey"], "their InChIKeys are"
        a, b = (f.drop_nulls("inchikey").unique("inchikey", keep="first") for f in (a, b))
    kept = [*key, "input_id", "smiles", "status", "reason", "min_energy_ev", "n_conformers"]
    kept = list(dict.fromkeys([*kept, "record"]))
    together = a.select(kept).join(b.select(kept), on=key, suffix="_b")
    name = pl.coalesce(pl.col("input_id"), pl.format("record {}", pl.col("record")))
    together = together.with_columns(name=name)
    n_both = together.select(pl.len()).collect().item()
    if n_both == 0:
        raise ValueError("the two runs have no molecule in common")
    return together, f"{how}; {n_both:,} are in both"


def _counts(manifests: list[Manifest]) -> str:
    rows: list[tuple[str, int, int]] = []
    for kind in ("status", "reason", "conformer_status"):
        a, b = (manifest.counts.get(kind, {}) for manifest in manifests)
        for word in dict.fromkeys([*a, *b]):
            if a.get(word) or b.get(word):
                shown = f"conformers {word}" if kind == "conformer_status" else word
                rows.append((shown, a.get(word, 0), b.get(word, 0)))
    return table(("", "A", "B"), rows)


def _calls(manifests: list[Manifest]) -> str:
    a, b = (call_of(manifest) for manifest in manifests)
    rows = [
        (name, *(_shown(name, call.get(name, "-")) for call in (a, b)))
        for name in dict.fromkeys([*a, *b])
        if name not in _ALWAYS and a.get(name) != b.get(name)
    ]
    return table(("", "A", "B"), rows) or "<p>Nothing.</p>"


def _shown(name: str, value: object) -> str:
    """A value of a call; of a checksum as much as tells two apart."""
    return str(value)[:12] if name.endswith("sha256") else str(value)


def _speeds(manifests: list[Manifest]) -> str:
    rows = []
    for stage in ("embed", "relax", "write", "total"):
        said = []
        for manifest in manifests:
            seconds = manifest.timings_s.get(stage)
            n = manifest.library.get("n_records", 0)
            said.append(f"{duration(seconds)}, {rate(n / seconds)} molecules/s" if seconds else "-")
        rows.append((stage, *said))
    return table(("", "A", "B"), rows)


def _ends(together: pl.LazyFrame) -> str:
    """Molecules that are ok in one and not in the other, or not ok for another reason."""
    a, b = (pl.coalesce(pl.col(f"reason{s}"), pl.col(f"status{s}")) for s in ("", "_b"))
    changed = together.with_columns(a=a, b=b).filter(pl.col("a") != pl.col("b"))
    names = pl.col("name").head(EXAMPLES).alias("names")
    found = changed.group_by("a", "b").agg(pl.len().alias("n"), names).collect()
    rows = [
        (row["a"], row["b"], int(row["n"]), ", ".join(row["names"]))
        for row in found.sort(["n", "a", "b"], descending=[True, False, False]).to_dicts()
    ]
    return table(("A", "B", "molecules", "the first of them"), rows) or "<p>None.</p>"


def _energies(together: pl.LazyFrame) -> pl.DataFrame:
    """Differences of the lowest energies in kcal/mol, where both computed the same structure."""
    difference = (pl.col("min_energy_ev_b") - pl.col("min_energy_ev")) * EV_KCAL_MOL
    return (
        together.filter(pl.col("smiles") == pl.col("smiles_b"))
        .select("name", "smiles", "n_conformers", "n_conformers_b", difference=difference)
        .drop_nulls("difference")
        .filter(pl.col("difference").is_finite())
        .collect()
    )


def _differences(energies: pl.DataFrame) -> str:
    if energies.is_empty():
        return ""
    values = energies["difference"]
    low, high = values.quantile(0.01) or 0.0, values.quantile(0.99) or 0.0
    width = bin_width(low, high, whole=False)
    low = low // width * width
    n = int((high - low) / width) + 1
    place = ((values - low) / width).floor().clip(0, n - 1).cast(pl.Int64)
    counts = [0] * n
    for k, count in place.value_counts().iter_rows():
        counts[k] = count
    mean, median = float(np.mean(values.to_numpy())), float(np.median(values.to_numpy()))
    lower, higher = int((values < -0.05).sum()), int((values > 0.05).sum())
    return (
        f"<p>Of {len(values):,} molecules, B is lower by more than 0.05 kcal/mol in {lower:,} and "
        f"higher in {higher:,}; mean {mean:+.3f}, median {median:+.3f} kcal/mol. "
        "The first and last bar hold what lies beyond.</p><div class='plots'>"
        + histogram(Histogram("B less A", "kcal/mol", low, width, tuple(counts)))
        + "</div>"
    )


def _largest(energies: pl.DataFrame) -> list[dict[str, Any]]:
    most = energies.sort(pl.col("difference").abs(), descending=True).head(DRAWN)
    return [
        {
            "name": row["name"],
            "smiles": row["smiles"],
            "line": f"B {row['difference']:+.2f} kcal/mol; {row['n_conformers']} and "
            f"{row['n_conformers_b']} conformers",
        }
        for row in most.to_dicts()
        if abs(row["difference"]) > 0.005
    ]
