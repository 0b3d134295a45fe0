"""What came of a run, for the terminal and for Prefect's page."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlff_core.tables import Manifest


def count_rows(manifest: Manifest) -> list[tuple[str, str, int]]:
    """(table, what, how many) for every status and reason that occurred."""
    counts = manifest.counts
    rows = [("molecules", status, n) for status, n in counts["status"].items()]
    rows += [("reason", reason, n) for reason, n in counts["reason"].items()]
    rows += [("conformers", status, n) for status, n in counts["conformer_status"].items()]
    return [row for row in rows if row[2]]


def rate_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """(stage, molecules/s) of each stage by itself, and of the whole run."""
    n_records = manifest.library["n_records"]
    names = {
        "embed": "embedding (all cores)",
        "relax": "relaxation",
        "write": "tables",
        "total": "whole run, stages overlapping",
    }
    return [
        (text, f"{n_records / manifest.timings_s[stage]:,.1f}")
        for stage, text in names.items()
        if manifest.timings_s.get(stage)
    ]


def error_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """(what, how large) of the model's errors that matter to a screen, as far as its card says."""
    errors = manifest.model.get("errors", {})
    # A card may come with anyone's weights: its words are data, on a page as in a terminal.
    return [
        (name, " ".join(errors[name].split()).translate({ord("|"): "/", ord("`"): "'"}))
        for name in ("minima", "conformer ranking")
        if name in errors
    ]


def next_steps(out_dir: Path) -> str:
    """A line that opens the result."""
    return (
        f'python -c "import polars as pl; print(pl.read_parquet({str(out_dir / "molecules")!r}))"'
    )


def print_summary(manifest: Manifest, out_dir: Path, console: Console) -> None:
    """Print counts, rates and where the result is."""
    counts = Table("table", "what", "rows", title=f"{manifest.library['n_records']:,} records")
    counts.columns[2].justify = "right"
    for table, what, n in count_rows(manifest):
        counts.add_row(table, what, f"{n:,}")
    rates = Table("stage", "molecules/s")
    rates.columns[1].justify = "right"
    for stage, rate in rate_rows(manifest):
        rates.add_row(stage, rate)
    console.print(counts)
    console.print(rates)
    if found := error_rows(manifest):
        errors = Table("energies", escape(f"{manifest.model['name']} against its teacher"))
        for row in found:
            errors.add_row(*map(escape, row))
        console.print(errors)
    for path in (out_dir / "molecules", out_dir / "conformers", out_dir / "manifest.json"):
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    console.print("Look at it:", next_steps(out_dir), markup=False, highlight=False, soft_wrap=True)


def markdown_summary(manifest: Manifest, out_dir: Path) -> str:
    """The same as Markdown."""
    lines = [f"# {manifest.library['n_records']:,} records", "", "| table | what | rows |"]
    lines += ["|---|---|---:|"]
    lines += [f"| {table} | {what} | {n:,} |" for table, what, n in count_rows(manifest)]
    lines += ["", "| stage | molecules/s |", "|---|---:|"]
    lines += [f"| {stage} | {rate} |" for stage, rate in rate_rows(manifest)]
    if errors := error_rows(manifest):
        lines += ["", "| energies | the model against its teacher |", "|---|---|"]
        lines += [f"| {name} | `{text}` |" for name, text in errors]
    lines += [
        "",
        "Tables:",
        "",
        "```",
        str(out_dir),
        "```",
        "",
        "```sh",
        next_steps(out_dir),
        "```",
    ]
    return "\n".join(lines) + "\n"
