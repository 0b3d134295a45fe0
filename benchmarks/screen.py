"""How fast a screen is, end to end and stage by stage, and how busy card and cores are.

    python benchmarks/screen.py [LIBRARY] [--limit N] [--model NAME] [--embedder NAME] [--json FILE]
    python benchmarks/screen.py --render FILE                            the table of what was kept
    python benchmarks/screen.py LIBRARY --embedding [--conformers N]     to starting geometries only
    python benchmarks/screen.py ingest [--records N ...]                 reading; see ingest.py

The screen runs in this process, as `mlff-screen run` does without a Prefect server; kernels are
compiled before. Seconds of the stages come from the manifest. Twice a second the card and the cores
are asked how busy they are, and every process of the run how long it has computed. The steady state
lasts from the first shard that is finished to the last one. What is known so far is written after
each stage of a shard: a run that is cut off has measured something.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__" and sys.argv[1:2] == ["ingest"]:  # its processes must be small
    import ingest

    ingest.main(sys.argv[2:])
    raise SystemExit

import torch
from _harness import RESULTS, environment, render
from timed_screen import Clock, Load, measure

from flows.call import ScreenCall
from flows.compute import AT_ONCE_WITH_CARD
from flows.plan import open_call
from flows.settings import chemistry_of
from mlff_core.cores import usable_cores
from mlff_core.tables import read_manifest
from tasks import opened as live
from tasks.embed import embed
from tasks.ingest import ingest

#: In the place of a model. Its shards are embedded side by side and end nearly together: there is
#: no steady state between the first and the last.
EMBEDDING_ALONE = "embedding alone"


def measure_embedding(
    call: ScreenCall,
    folder: Path,
    keep: Callable[[dict[str, Any]], None],
    samples: Path | None = None,
) -> None:
    """From SMILES to starting geometries, as many shards at a time as in a screen.

    The processes are started before, as a screen starts them before it loads its model.
    """
    device = "cuda" if torch.cuda.is_available() and call.device != "cpu" else "cpu"
    opened = open_call(call)
    read = ingest(opened.library, str(folder), opened.shard_size(device), call.limit)
    chemistry = chemistry_of(call, opened.model)
    about = {
        **environment(torch.device(device)),
        "library": Path(call.library).name,
        "model": EMBEDDING_ALONE,
        "conformers": call.conformers,
        "cores": usable_cores(),
        "compiled_s": live.compile_kernels([opened.model.file], device, "auto", "auto"),
    }
    processes = live.embedding_processes(str(folder), chemistry, call.workers, device)
    processes.begin()
    processes.wait_until_begun()
    embed_shards = partial(
        embed,
        work_dir=str(folder),
        chemistry=chemistry,
        workers=call.workers,
        embedder="card",
        device=device,
    )
    with Load() as load, ThreadPoolExecutor(AT_ONCE_WITH_CARD) as threads:
        clock = Clock(about, load, keep, last="embed")
        clock.begin(read.n_records, 0)
        under_way = {threads.submit(embed_shards, shard): shard for shard in range(read.n_shards)}
        for future in as_completed(under_way):
            clock.advance("embed", under_way[future], future.result())
    if samples is not None:
        load.write(samples, clock.begun)
    live.close(str(folder))


def table(content: dict[str, Any]) -> str:
    """The reports in Markdown."""
    return "\n\n".join(_one_table(report) for report in content["rows"])


def _one_table(report: dict[str, Any]) -> str:
    if report["model"] == EMBEDDING_ALONE:
        report = {name: value for name, value in report.items() if not name.startswith("steady")}
    n, steady = report["finished"], report.get("steady", {})
    rows = [
        f"{n:,} records of {report['library']}, {report['model']}, "
        f"{report['conformers']} conformers each, {report['device']}, {report['cores']} cores; "
        f"commit {report['commit'][:7]}, {report['date']}",
        "",
        "| | |",
        "|---|---:|",
        f"| molecules/s from the first shard's begin to the last one's end "
        f"| {report['molecules_per_s']:,.0f} |",
    ]
    if report["conformers"] > 1:
        conformers = report["molecules_per_s"] * report["conformers"]
        rows += [f"| conformers/s, as many as were asked for | {conformers:,.0f} |"]
    if "steady_molecules_per_s" in report:
        rows += [f"| molecules/s in steady state | {report['steady_molecules_per_s']:,.0f} |"]
    if steady:
        rows += [
            f"| card busy in steady state | {steady['card_busy']:.0%} |",
            f"| cores busy in steady state | {steady['cores_busy']:.0%} |",
            *(f"| ... {part} | {n:.1f} |" for part, n in steady["cores_by_part"].items()),
        ]
    if "start_and_end_s" in report:
        rows += [f"| start and end, s | {report['start_and_end_s']:.1f} |"]
    rows += [
        f"| kernels compiled before, s | {report['compiled_s']:.1f} |",
        *(
            f"| {name}: seconds, ms a molecule | {s:.1f}, {1000 * s / max(n, 1):.2f} |"
            for name, s in report["stages_s"].items()
        ),
        *(f"| {status} | {count:,} |" for status, count in report["counts"].items()),
    ]
    return "\n".join(rows)


def keep_in(file: Path) -> Callable[[dict[str, Any]], None]:
    """Writes a report into a file of reports, in the place of an earlier one of the same kind."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []

    def kind(report: dict[str, Any]) -> tuple[object, ...]:
        return report["model"], report["conformers"], report["device"]

    def keep(report: dict[str, Any]) -> None:
        others = [row for row in rows if kind(row) != kind(report)]
        content = json.dumps({"rows": [*others, report]}, indent=1)
        file.write_text(content + "\n", encoding="utf-8")

    return keep


def main() -> None:
    """Run the screen and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", nargs="?", default="datasets/druglike")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shard-size", type=int)
    parser.add_argument("--conformers", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--embedder", default="auto", choices=["auto", "rdkit", "card"])
    parser.add_argument("--model", default="default")
    parser.add_argument("--embedding", action="store_true", help="stop at starting geometries")
    parser.add_argument("--out", type=Path, help="keep the tables here")
    parser.add_argument("--samples", type=Path, help="write all samples of the load here")
    parser.add_argument("--json", type=Path, default=RESULTS / "screen.json")
    parser.add_argument("--render", type=Path, help="make the Markdown of such a file, and end")
    arguments = parser.parse_args()
    if arguments.render:
        render(arguments.render, table)
        return
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder) / "out"
        given = {
            name: getattr(arguments, name)
            for name in ("library", "limit", "shard_size", "conformers", "device", "embedder")
        }
        call = ScreenCall(**given, model=arguments.model, out=str(out), overwrite=True)
        if arguments.embedding:
            measure_embedding(call, Path(folder), keep_in(arguments.json), arguments.samples)
        else:
            measure(call, keep_in(arguments.json), arguments.samples)
            assert read_manifest(out) is not None
    render(arguments.json, table)


if __name__ == "__main__":
    main()
