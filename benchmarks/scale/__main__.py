"""What a screen costs beside the chemistry and the model, and what a library of 10^9 comes to.

    python benchmarks/scale [--records N ...] [--lanes N] [--folder DIR] [--rate MOLECULES/S]

The chemistry and the model are a sleep of their measured cost on so many cards; each screen is in a
process of its own, then cut off at nine tenths and resumed. The longest one is of methane, so that
its tables fit on a small disk. Then a folder of 10^5 parts is listed. Writes
`benchmarks/results/scale.*`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

#: Of 41 atoms, as molecules are, and of five.
TYPICAL, SMALL = "CCCCCCCCCCCCC", "C"
#: Relaxations a second of molecules of 40 atoms with the default model on one H200: the README's.
RATE = 1267.0


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[10**5, 10**6])
    parser.add_argument("--methane", type=int, nargs="*", default=[10**6, 10**7])
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="where the tables go meanwhile")
    parser.add_argument("--rate", type=float, default=RATE)
    options = parser.parse_args()

    # A process inherits its parent's peak of memory: this one stays small until all is measured.
    rows = []
    for smiles, n_records in [
        *((TYPICAL, n) for n in options.records), *((SMALL, n) for n in options.methane),
    ]:  # fmt: skip
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            given = dict(
                folder=folder, n_records=n_records, lanes=options.lanes, cost_s=1 / options.rate,
                smiles=smiles,
            )  # fmt: skip
            rows.append(elsewhere("whole", given))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            rows.append(elsewhere("resumed", given))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        listing = listed(Path(folder), 100_000)

    import torch
    from _harness import RESULTS, Results, environment
    from arithmetic import comes_to

    results = Results(RESULTS / "scale.json", environment(torch.device("cpu")))
    results.content |= {"rate": options.rate, "listing": listing}
    for row in rows:
        results.add(row)
    typical = max((r for r in rows if r["atoms"] > 30), key=lambda r: r["records"])
    results.content["arithmetic"] = [
        comes_to(
            10**power,
            molecules_a_second=options.rate,
            bytes_a_molecule=typical["bytes"] / typical["records"],
            bytes_a_record=typical["records_bytes"] / typical["records"],
        )
        for power in range(4, 10)
    ]
    results.finish(markdown)


def elsewhere(what: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a screen in a fresh process measured."""
    words = [sys.executable, str(HERE / "simulated.py"), what, json.dumps(given)]
    ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def listed(folder: Path, n_parts: int) -> dict[str, float]:
    """Seconds to list so many parts, and to say which shards they are."""
    from mlff_core.store import FolderStore
    from mlff_core.tables.parts import parts_in

    (folder / "molecules").mkdir()
    for shard in range(n_parts):
        (folder / "molecules" / f"part-{shard:06d}.parquet").touch()
    begun = time.perf_counter()
    if list(parts_in(FolderStore(folder), "molecules")) != list(range(n_parts)):
        raise ArithmeticError("not every part was listed")
    return {"parts": n_parts, "s": time.perf_counter() - begun}


def overheads(row: dict[str, Any]) -> dict[str, float]:
    """µs of a core a molecule, by part; what the simulation itself takes is left out."""
    shards = row["times"]["shards"]["cpu_s"] - row["cpu_s"]["simulation"] - row["cpu_s"]["tables"]
    seconds = {
        "reading": row["times"]["until the first shard"]["cpu_s"],
        "shards": shards,
        "proof": row["times"]["proof"]["cpu_s"],
        "report": row["times"]["report"]["cpu_s"],
        "tables": row["cpu_s"]["tables"],
    }
    return {name: 1e6 * spent / row["records"] for name, spent in seconds.items()}


def markdown(content: dict[str, Any]) -> str:
    """The tables of the results."""
    whole = [row for row in content["rows"] if not row.get("resumed")]
    again = [row for row in content["rows"] if row.get("resumed")]
    lines = [
        f"A screen whose chemistry and model are a sleep, {content['rate']:,.0f} molecules/s of a "
        f"card, on {whole[0]['lanes']} cards; all else is real. {content['device']}, Python "
        f"{content['python']}, commit {content['commit'][:7]}, {content['date']}; by "
        "`benchmarks/scale`. The machine was shared with other work: µs are of a core, and what "
        "was waited for says little. Reading begins with the imports, 3 s of a core; orchestration "
        "is the files between the stages, too. Tables are columns made into Parquet with their "
        "checksums. All cards are threads of one process here, whose memory grows with them.",
        "",
        "| records | atoms | task runs | tables, GB | µs: reading | orchestration | proof | report "
        "| sum | tables | peak MiB | with the report |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in whole:
        us = overheads(row)
        lines.append(
            f"| {row['records']:,} | {row['atoms']} | {row['task_runs']} "
            f"| {row['bytes'] / 1e9:.2f} | {us['reading']:.1f} | {us['shards']:.1f} "
            f"| {us['proof']:.1f} | {us['report']:.1f} | {sum(us.values()) - us['tables']:.1f} "
            f"| {us['tables']:.1f} | {row['peak_mib']:.0f} | {row['peak_mib_with_report']:.0f} |"
        )
    lines += [
        "",
        "Gone on with at nine tenths; no finished shard was done again.",
        "",
        "| records | atoms | until the first shard, s | of a core, s | in all, s | slept, s "
        "| peak MiB |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in again:
        first = row["times"]["until the first shard"]
        total = sum(t["s"] for t in row["times"].values())
        lines.append(
            f"| {row['records']:,} | {row['atoms']} | {first['s']:.0f} "
            f"| {first['cpu_s']:.0f} | {total:.0f} "
            f"| {0.1 * row['sleep_s']:.0f} | {row['peak_mib']:.0f} |"
        )
    lines += [
        "",
        f"{content['listing']['parts']:,} parts of a folder are listed in "
        f"{content['listing']['s']:.2f} s.",
        "",
        "What a library comes to, of molecules of 41 atoms with a conformer each, as far as the "
        f"card is what it waits for, {content['rate']:,.0f} molecules/s; dollars at 3 an hour, "
        "which is an assumption:",
        "",
        "| records | shards | task runs | files | tables | work folder | card-hours "
        "| days on 100 cards | $ |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| 10^{len(str(row['records'])) - 1} | {row['shards']:,} | {row['task_runs']} "
        f"| {row['files']:,} | {size(row['tables_bytes'])} | {size(row['records_bytes'])} "
        f"| {row['gpu_hours']:,.2f} | {row['days_on_100']:.2f} | {row['dollars']:,.2f} |"
        for row in content["arithmetic"]
    ]
    return "\n".join(lines)


def size(n_bytes: float) -> str:
    """In megabytes, or larger."""
    for unit in ("MB", "GB", "TB"):
        n_bytes /= 1000
        if n_bytes < 1e6:
            return f"{n_bytes / 1000:,.1f} {unit}"
    raise OverflowError(n_bytes)


if __name__ == "__main__":
    main()
