"""How fast a library is read, counted, hashed and cut into shards, and in how much memory.

    python benchmarks/screen.py ingest [--records N ...] [--formats FORMAT ...] [--shard-size N]

Libraries are made in a temporary folder: the molecules of datasets/druglike over and over, each
record with an id of its own, so that lines are as long as they are in life. Each is read in a
process of its own, which has imported no more than what reads it; its CPU time is that of one core.
"""

import argparse
import gzip
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FORMATS = ("smi.gz", "csv", "parquet")
_ROWS = 100_000


def main(arguments: list[str]) -> None:
    """Make the libraries, read each, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[10**6, 10**7])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--shard-size", type=int, default=20_000)
    options = parser.parse_args(arguments)

    # A process inherits its parent's peak of memory: this one stays small until all is measured.
    rows = []
    for n_records, form in itertools.product(options.records, options.formats):
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / f"library.{form}")
            elsewhere("write", path, n_records)
            rows.append(json.loads(elsewhere("read", path, options.shard_size)))
            print(rows[-1], file=sys.stderr)

    import torch
    from _harness import RESULTS, Results, environment

    about = environment(torch.device("cpu")) | {"shard_size": options.shard_size}
    results = Results(RESULTS / "ingest.json", about)
    for row in rows:
        results.add(row)
    results.finish(markdown)


def elsewhere(what: str, path: str, n: int) -> str:
    """What a fresh process prints."""
    words = [sys.executable, __file__, what, path, str(n)]
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def measured(path: Path, shard_size: int) -> dict[str, Any]:
    """One pass over a library; memory is the most that it took beyond what the imports hold."""
    from mlff_core.library import open_library
    from mlff_core.library.ingest import ingest

    before = peak_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    library = open_library(path)
    opened = time.perf_counter() - wall
    report = ingest(library, path.parent / "shards", shard_size)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "format": path.name.partition(".")[2],
        "records": report.n_records,
        "file_mb": path.stat().st_size / 1e6,
        "open_s": opened,
        "wall_s": wall,
        "cpu_s": cpu,
        "records_per_cpu_s": report.n_records / cpu,
        "peak_mib": peak_mib(),
        "peak_mib_of_imports": before,
    }


def peak_mib() -> float:
    """The most memory that this process ever had in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def records(n_records: int) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and SMILES in pieces; the order of the molecules differs from one piece to the next."""
    from mlff_core.library import open_library

    smiles = [r.smiles or "" for r in open_library(ROOT / "datasets" / "druglike").records()]
    shuffled = random.Random(0)
    for begin in range(0, n_records, _ROWS):
        numbers = range(begin, min(begin + _ROWS, n_records))
        yield [f"Z{number:09d}" for number in numbers], shuffled.choices(smiles, k=len(numbers))


def write_library(path: Path, n_records: int) -> None:
    """Write a library of this many records, in the format that its name says."""
    if path.name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([("id", pa.string()), ("smiles", pa.string())])
        # No dictionary: in life no SMILES comes twice.
        with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
            for ids, smiles in records(n_records):
                writer.write_table(pa.table({"id": ids, "smiles": smiles}, schema=schema))
        return
    rows = path.name.endswith(".csv")
    with path.open("w") if rows else gzip.open(path, "wt", compresslevel=1) as file:
        file.write("id,smiles,weight\n" if rows else "")
        for ids, smiles in records(n_records):
            pairs = zip(ids, smiles, strict=True)
            if rows:
                file.writelines(f"{one},{s},{len(s) * 9.7:.2f}\n" for one, s in pairs)
            else:
                file.writelines(f"{s}\t{one}\n" for one, s in pairs)


def markdown(content: dict[str, Any]) -> str:
    """The table of the results."""
    lines = [
        "One pass over a library: read, count, hash, cut into shards of "
        f"{content['shard_size']:,}. {content['device']}, Python {content['python']}, "
        f"commit {content['commit'][:7]}, {content['date']}; by `benchmarks/screen.py ingest`.",
        "",
        "| format | records | file, MB | CPU s | records/s of a core | peak MiB | after imports |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| .{row['format']} | {row['records']:,} | {row['file_mb']:.0f} | {row['cpu_s']:.1f} "
        f"| {row['records_per_cpu_s']:,.0f} | {row['peak_mib']:.0f} "
        f"| {row['peak_mib_of_imports']:.0f} |"
        for row in content["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write_library(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(measured(Path(sys.argv[2]), int(sys.argv[3]))))
