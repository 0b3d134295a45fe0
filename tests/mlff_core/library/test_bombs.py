"""Files that are small and become huge: refused in words, and never held in memory."""

import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlff_core.errors import LibraryError
from mlff_core.library import open_library
from mlff_core.library.ingest import ingest
from mlff_core.library.pages import unpacked_bytes
from mlff_core.library.read import LONGEST_ID, LONGEST_SMILES
from mlff_core.library.records import read_records

MEGABYTE = 1 << 20
#: Reads a library, and prints what came of it and the most memory that it had, in MB. The kernel's
#: own count: that of getrusage begins with the process that started this one.
READ = """
import sys
from pathlib import Path
from mlff_core.errors import LibraryError
from mlff_core.library import open_library
from mlff_core.library.ingest import ingest
try:
    said = ingest(open_library(sys.argv[1]), Path(sys.argv[2]), 10_000).n_records
except LibraryError as error:
    said = error
peak = next(s for s in open("/proc/self/status") if s.startswith("VmHWM:"))
print(int(peak.split()[1]) >> 10, said)
"""


def lines_bomb(path: Path) -> None:
    one = gzip.compress(b"C" * (30 * MEGABYTE) + b"\n", 1)
    path.write_bytes(one * 20)


def parquet_in_gzip_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(b"PAR1", 1) + gzip.compress(bytes(32 * MEGABYTE), 1) * 20)


def dictionary_bomb(path: Path) -> None:
    """One value of a megabyte, repeated by numbers: half a kilobyte that becomes 16 GB."""
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 16_384), pa.array(["C" * MEGABYTE]))
    pq.write_table(pa.table({"smiles": repeated}), path, compression="zstd")


def dotted_bomb(path: Path) -> None:
    """The same in a column whose name looks like the path to a nested one."""
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 16_384), pa.array(["C" * MEGABYTE]))
    pq.write_table(pa.table({"my.smiles": repeated}), path, compression="zstd")


def page_bomb(path: Path) -> None:
    """Pages of repetitions, which compress to next to nothing."""
    schema = pa.schema([("smiles", pa.string())])
    batch = pa.record_batch([["C" * MEGABYTE] * 64], schema=schema)
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(6):
            writer.write_batch(batch)  # all into one row group


def lying_bomb(path: Path) -> None:
    """Pages of repetitions, and a footer that says that they become 100 kB."""
    schema = pa.schema([("smiles", pa.string())])
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=False, write_statistics=False
    ) as writer:
        writer.write_batch(pa.record_batch([["C" * MEGABYTE] * 512], schema=schema))
    true = pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size

    def number(value: int, length: int) -> bytes:
        """As Thrift writes it, in so many bytes."""
        rest = (length - 1) * [128] + [0]
        return bytes((2 * value >> 7 * k) & 127 | more for k, more in enumerate(rest))

    length = -(-(2 * true).bit_length() // 7)
    data = path.read_bytes()
    assert number(true, length) in data
    path.write_bytes(data.replace(number(true, length), number(100_000, length)))
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size == 100_000


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("lines.smi.gz", lines_bomb),
        ("table.parquet.gz", parquet_in_gzip_bomb),
        ("dictionary.parquet", dictionary_bomb),
        ("dotted.parquet", dotted_bomb),
        ("pages.parquet", page_bomb),
        ("lie.parquet", lying_bomb),
    ],
)
def test_what_becomes_far_larger_than_it_is_is_refused_in_little_memory(tmp_path, name, make):
    make(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 16 * MEGABYTE
    ended = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / name), str(tmp_path / "work")],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    megabytes, _, said = ended.stdout.partition(" ")
    assert "no library compresses so well" in said
    assert said.count("\n") == 1
    assert int(megabytes) < 1000


def test_a_column_of_lists_is_no_id_whatever_it_would_become(tmp_path):
    """A value of a megabyte in every list."""
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 16_384), pa.array(["C" * MEGABYTE]))
    lists = pa.ListArray.from_arrays(pa.array(range(16_385), pa.int32()), repeated)
    path = tmp_path / "lists.parquet"
    table = pa.table({"smiles": ["CCO"] * 16_384, "id": lists, "smiles_stereo": lists})
    pq.write_table(table, path, compression="zstd")
    ended = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(tmp_path / "work")],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    megabytes, _, said = ended.stdout.partition(" ")
    assert said == "16384\n"
    assert int(megabytes) < 1000
    assert open_library(path).smiles_column == "smiles"
    assert open_library(path).id_column is None
    with pytest.raises(LibraryError, match=r"'id' holds list.*; expected text or numbers"):
        open_library(path, id_column="ID")
    with pytest.raises(LibraryError, match=r"'smiles_stereo' holds list.*; expected text"):
        open_library(path, smiles_column="smiles_stereo")


def test_a_library_that_repeats_itself_is_none(tmp_path):
    path = tmp_path / "a.smi.gz"
    path.write_bytes(gzip.compress(b"CCO ethanol\n" * 100_000))
    assert ingest(open_library(path), tmp_path / "work", 10_000).n_records == 100_000


@pytest.mark.parametrize("kind", ["smi", "csv", "parquet"])
def test_an_entry_that_is_far_too_long_is_a_record_that_says_so(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    rows = [("CCO", "a"), ("C" * (LONGEST_SMILES + 1), "b"), ("CC", "é" * LONGEST_ID), ("CCC", "d")]
    if kind == "parquet":
        smiles, ids = zip(*rows, strict=True)
        pq.write_table(pa.table({"smiles": list(smiles), "id": list(ids)}), path)
    else:
        blank = "," if kind == "csv" else " "
        head = ["smiles,id"] if kind == "csv" else []
        path.write_text("\n".join(head + [blank.join(row) for row in rows]) + "\n")
    ingest(open_library(path), tmp_path / "work", 10)
    records = read_records(tmp_path / "work", 0)
    assert [r.smiles for r in records] == ["CCO", None, "CC", "CCC"]
    assert [r.input_id for r in records] == ["a", "b", "é" * (LONGEST_ID // 2), "d"]
    assert records[0].note is records[3].note is None
    assert records[1].note == "a SMILES of 65,537 characters; no more than 65,536 are read"
    assert records[2].note == "an id of 4,096 characters is cut"


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_what_pages_become_is_what_a_truthful_footer_says(tmp_path, compression, version):
    """But for the headers of the pages, which it counts, too."""
    path, n = tmp_path / "a.parquet", 30_000
    table = pa.table({"smiles": ["C" * (1 + k % 97) for k in range(n)], "id": list(range(n))})
    pq.write_table(
        table, path, compression=compression, data_page_version=version, row_group_size=12_000,
        data_page_size=5_000, write_page_checksum=True,
    )  # fmt: skip
    about = pq.ParquetFile(path).metadata
    with path.open("rb") as stream:
        for group in range(about.num_row_groups):
            for k in range(2):
                chunk = about.row_group(group).column(k)
                begin = min(chunk.dictionary_page_offset or 1 << 60, chunk.data_page_offset)
                size = chunk.total_compressed_size
                found = unpacked_bytes(stream, begin, size)
                assert 0.9 * chunk.total_uncompressed_size < found < chunk.total_uncompressed_size
                assert unpacked_bytes(stream, begin + 1, size) is None
                assert unpacked_bytes(stream, begin, size - 1) is None
