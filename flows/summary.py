"""What came of a run, for the terminal and for Prefect's page."""

import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from textwrap import wrap

from rich.console import Console

from flows.report.write import NAME
from flows.stage import STAGES
from flows.text import counted, printable, quotable, rate, visible
from mlff_core.store import Location, open_store
from mlff_core.tables import Manifest
from mlff_core.tables.parts import parts_in, read_columns

#: Molecules that are named for each reason, so that a person can look at one.
EXAMPLES = 3
#: Longest id that is shown, in characters.
LONGEST_ID = 32
#: Columns that any terminal has.
WIDTH = 80


def structures(manifest: Manifest) -> str:
    """How many records there were, and how many structures they stand for where that is more."""
    n_records, n_rows = manifest.library["n_records"], sum(manifest.counts["status"].values())
    return f"{n_records:,} records" + (f", {n_rows:,} structures" if n_rows > n_records else "")


def rates(manifest: Manifest) -> dict[str, str]:
    """Molecules/s of each stage by itself, and of the whole run."""
    n_records = manifest.library["n_records"]
    return {
        text: rate(n_records / manifest.timings_s[stage])
        for stage, text in STAGES.items()
        if manifest.timings_s.get(stage)
    }


def errors(manifest: Manifest) -> dict[str, str]:
    """The model's errors that matter to a screen, as far as its card says."""
    stated = manifest.model.get("errors", {})
    return {
        name: quotable(printable(stated[name]))
        for name in ("minima", "conformer ranking")
        if name in stated
    }


def examples(out: Location, reasons: Iterable[str]) -> dict[str, list[str]]:
    """The first few molecules of each reason, by their ids; reads no more parts than it must."""
    found: dict[str, list[str]] = {reason: [] for reason in reasons}
    store = open_store(out)
    for part in parts_in(store, "molecules").values() if found else ():
        if all(len(names) >= EXAMPLES for names in found.values()):
            break
        table = read_columns(store, part, ["record", "input_id", "reason"])
        for row in table.filter(table["reason"].is_valid()).to_pylist():
            names = found.get(row["reason"], [])
            if len(names) < EXAMPLES:
                name = row["input_id"] or f"record {row['record']}"
                names.append(printable(name)[:LONGEST_ID])
    return found


def with_names(begin: str, names: list[str], n: int) -> str:
    """A line with as many names of `n` as a terminal's line holds, and one at least."""
    line = begin + ", ".join(names[:1])
    for k, name in enumerate(names[1:], 1):
        if len(line) + len(name) + len(", , ...") > WIDTH:
            names = names[:k]
            break
        line += f", {name}"
    return line + (", ..." if n > len(names) else "")


def next_steps(out: Location) -> str:
    """A command that takes the result to other programs; works as it stands, PATH or no PATH."""
    beside = Path(sys.executable).with_name("mlff-screen")
    program = "mlff-screen" if shutil.which("mlff-screen") else str(beside)
    return shlex.join([program, "export", open_store(out).location, "--sdf", "best.sdf"])


def lines(manifest: Manifest, out: Location) -> list[str]:
    """The summary in lines: what came out, what did not and why, how fast, how good, where."""
    reasons = {reason: n for reason, n in manifest.counts["reason"].items() if n}
    named = examples(out, reasons)
    width = max(map(len, reasons), default=0)
    stated = errors(manifest)
    store = open_store(out)
    return [
        f"{structures(manifest)}: {counted(manifest.counts['status'])}",
        *(
            with_names(f"  {reason:{width}}  {n:,}: ", named[reason], n)
            for reason, n in reasons.items()
        ),
        f"conformers: {counted(manifest.counts['conformer_status'])}",
        "molecules/s: " + ", ".join(f"{what} {rate}" for what, rate in rates(manifest).items()),
        *([f"energies of {printable(manifest.model['name'])} against its teacher"] * bool(stated)),
        *(
            line
            for name, text in stated.items()
            for line in wrap(f"  {name}: {text}", WIDTH, subsequent_indent="    ")
        ),
        f"tables: {store.url('molecules')}, {store.url('conformers')}",
        *([f"report: {store.url(NAME)}"] * store.exists(NAME)),
        f"to an SD file: {next_steps(out)}",
    ]


def print_summary(manifest: Manifest, out: Location, console: Console) -> None:
    """Print it."""
    for line in lines(manifest, out):
        console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def fenced(text: str) -> str:
    """Text of others for a block of code, which nothing in it ends."""
    return visible(text).replace("\n", "?").replace("`", "'")


def markdown_summary(manifest: Manifest, out: Location) -> str:
    """The same as Markdown."""
    reasons = {reason: n for reason, n in manifest.counts["reason"].items() if n}
    page = [
        f"# {structures(manifest)}: {counted(manifest.counts['status'])}",
        "",
        f"Conformers: {counted(manifest.counts['conformer_status'])}",
    ]
    if reasons:
        page += ["", "| reason | molecules | the first |", "|---|---:|---|"]
        for reason, names in examples(out, reasons).items():
            # In a table of Markdown, names of others are data, too.
            quoted = ", ".join(f"`{name.replace('`', chr(39))}`" for name in names).replace(
                "|", "/"
            )
            page += [f"| {reason} | {reasons[reason]:,} | {quoted} |"]
    page += ["", "| stage | molecules/s |", "|---|---:|"]
    page += [f"| {stage} | {rate} |" for stage, rate in rates(manifest).items()]
    if stated := errors(manifest):
        page += ["", "| energies | the model against its teacher |", "|---|---|"]
        page += [f"| {name} | `{text}` |" for name, text in stated.items()]
    page += ["", "Tables, and `report.html` to look at:", "", "```", fenced(str(out)), "```"]
    page += ["", "```sh", fenced(next_steps(out)), "```"]
    return "\n".join(page) + "\n"
