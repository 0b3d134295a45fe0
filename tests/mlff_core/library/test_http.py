"""Libraries behind http: read as files are, and no more of them than is asked for."""

import builtins
import gzip
import io
import random
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlff_core.errors import LibraryError
from mlff_core.library import open_library
from mlff_core.library.ingest import ingest
from mlff_core.library.records import read_records

N_RECORDS = 40_000


def parquet_bytes(ids: list[str], smiles: list[str]) -> bytes:
    buffer = io.BytesIO()
    noise = [random.Random(i).randbytes(100) for i in range(len(ids))]
    table = pa.table({"id": ids, "smiles": smiles, "noise": noise})
    pq.write_table(table, buffer, row_group_size=10_000)
    return buffer.getvalue()


class Site(ThreadingHTTPServer):
    """Serves a few files; counts what it sends, and gives parts of files or only whole ones."""

    daemon_threads = True

    def __init__(self, ranges: bool) -> None:
        self.ranges = ranges
        self.n_bytes = 0
        ids = [f"m{i}" for i in range(N_RECORDS)]
        smiles = ["C" * (60 + i % 40) for i in range(N_RECORDS)]
        lines = "".join(f"{s} {i}\n" for s, i in zip(smiles, ids, strict=True)).encode()
        rows = "".join(f"{i},{s}\n" for s, i in zip(smiles, ids, strict=True)).encode()
        self.files = {
            "/a.smi": lines,
            "/a.smi.gz": gzip.compress(lines, 1),
            "/a.csv": b"id,smiles\n" + rows,
            "/a.parquet": parquet_bytes(ids, smiles),
        }
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        if asked and self.server.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last or len(content)) + 1]
            self.send_response(206)
            end = int(first) + len(part) - 1
            self.send_header("Content-Range", f"bytes {first}-{end}/{len(content)}")
        else:
            part = content
            self.send_response(200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            try:
                self.wfile.write(part)
            except OSError:  # the reader has hung up
                return
            self.server.n_bytes += len(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module", params=[True, False], ids=["in parts", "whole files"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with Site(request.param) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("name", ["a.smi", "a.smi.gz", "a.csv", "a.parquet"])
def test_a_url_is_read_as_the_file_is(site: Site, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(site.files[f"/{name}"])
    there = ingest(open_library(site.url(name)), tmp_path / "there", 15_000)
    here = ingest(open_library(tmp_path / name), tmp_path / "here", 15_000)
    assert there == here
    assert there.n_records == N_RECORDS
    for shard in (0, 2):
        assert read_records(tmp_path / "there", shard) == read_records(tmp_path / "here", shard)


@pytest.mark.parametrize("name", ["a.smi", "a.csv", "a.parquet"])
def test_a_few_records_cost_a_few_requests(site: Site, tmp_path: Path, name: str) -> None:
    before = site.n_bytes
    report = ingest(open_library(site.url(name)), tmp_path, 100, limit=10)
    assert (report.n_records, report.hashed) == (10, "records")
    assert [r.input_id for r in read_records(tmp_path, 0)] == [f"m{i}" for i in range(10)]
    if site.ranges:
        assert site.n_bytes - before < len(site.files[f"/{name}"]) / 2


def test_what_is_not_there_is_said(site: Site) -> None:
    with pytest.raises(LibraryError, match="no such file"):
        open_library(site.url("nowhere.smi"))
    with pytest.raises(LibraryError, match="cannot be read"):
        open_library("http://127.0.0.1:1/a.smi")


def test_the_missing_package_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "aiohttp":
            raise ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp")
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "aiohttp", raising=False)
    with pytest.raises(LibraryError, match=r"pip install 'mlff-screen\[http\]'"):
        open_library("https://127.0.0.1:1/a.smi")
