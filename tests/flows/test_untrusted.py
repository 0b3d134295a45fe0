"""What files of others may do: nothing but be refused, or be shown as text."""

import hashlib
import json
import os
import pickle
import socket
import struct
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from flows.call import ScreenCall
from flows.cli import main, on_one_line
from flows.engines import LocalEngine
from flows.run import run_screen
from flows.summary import markdown_summary
from flows.terminal import Terminal
from flows.watch import Watcher
from mlff_core.errors import LibraryError, ModelFileError, OutputError
from mlff_core.library import open_library
from mlff_core.library.http import check_host
from mlff_core.models.checkpoint import read_checkpoint, save_checkpoint
from mlff_core.models.reference import refer_to_model
from mlff_core.store import open_store
from mlff_core.tables import read_manifest
from mlff_core.testing import random_model

ESCAPE = "\x1b[2Jowned\x07\x1b]0;title\x07"


class Opened:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "header", "lie", "nan", "inf"])
def test_weights_that_are_none_are_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    file, mark = tmp_path / "m.safetensors", tmp_path / "mark"
    network = random_model(n_features=16)
    if kind in ("nan", "inf"):
        with torch.no_grad():
            next(iter(network.parameters())).view(-1)[3] = float(kind)
    save_checkpoint(network, file, {})
    data = {
        "pickle": pickle.dumps(Opened(mark)),
        "header": struct.pack("<Q", 1 << 40) + b"{}",
        "lie": struct.pack("<Q", 60)
        + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}     ',
    }.get(kind)
    if data is not None:
        card = json.loads((tmp_path / "m.json").read_text())
        card["sha256"] = hashlib.sha256(data).hexdigest()
        (tmp_path / "m.json").write_text(json.dumps(card))
        file.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        read_checkpoint(file)
    assert str(caught.value).count(str(file)) == 1
    assert not mark.exists()


@pytest.mark.parametrize(
    "edit",
    [
        {"n_features": 10**7},
        {"n_features": 10**7, "n_interactions": 1},
        {"n_interactions": 10**12},
        {"n_rbf": 10**12},
        {"n_features": 16.0},
        {"n_features": True},
        {"n_features": "16"},
        {"cutoff": float("inf")},
        {"cutoff": float("nan")},
        {"cutoff": None},
        {"elements": 6},
        {"elements": [6, "x"]},
        {"max_charge": 10**400},
        {"min_charge": float("nan")},
        "deep",
        "long",
        "list",
    ],
    ids=lambda edit: str(edit)[:40],
)
def test_a_card_that_asks_for_what_cannot_be_is_refused_in_a_line(
    tmp_path: Path, edit: dict | str
) -> None:
    file = tmp_path / "m.safetensors"
    card = save_checkpoint(random_model(n_features=16), file, {})
    if isinstance(edit, dict):
        text = json.dumps(card | {"config": card["config"] | edit})
    else:
        text = {"deep": "[" * 10**6, "long": " " * (1 << 25), "list": "[1]"}[edit]
    (tmp_path / "m.json").write_text(text)

    def load() -> None:
        refer_to_model(file)
        read_checkpoint(file)

    with pytest.raises(ModelFileError) as caught:
        load()
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_names_move_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", str(tmp_path / f"{ESCAPE}.smi"), "--out", str(tmp_path / "out")])
    Terminal().tell(f"model: {ESCAPE}")
    told = capsys.readouterr()
    assert "owned" in told.err
    assert not set(told.err + told.out) & {"\x1b", "\x07"}
    assert on_one_line("a\n b\x9b31m") == "a b?31m"


def test_a_link_in_the_place_of_the_work_folder_is_not_followed(
    tmp_path: Path, small_model: Path
) -> None:
    library, out, elsewhere = tmp_path / "a.smi", tmp_path / "out", tmp_path / "elsewhere"
    library.write_text("CCO a\n")
    for folder in (out, elsewhere):
        folder.mkdir()
    (elsewhere / "mine").write_text("kept")
    (out / ".mlff-screen").symlink_to(elsewhere)
    for more in ({}, {"append": True}):
        call = ScreenCall(
            library=str(library), out=str(out), model=str(small_model), device="cpu", workers=1,
            **more,
        )  # fmt: skip
        with pytest.raises(OutputError, match="is a symbolic link"):
            run_screen(call, LocalEngine(), Watcher())
    assert [p.name for p in elsewhere.iterdir()] == ["mine"]


def test_what_a_run_says_moves_no_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "m.safetensors", tmp_path / f"{ESCAPE}\x9b31m".replace("/", "")
    card = save_checkpoint(random_model(n_features=16), model, {})
    card |= {"name": f"model {ESCAPE}", "headline": {"minima": ESCAPE}}
    (tmp_path / "m.json").write_text(json.dumps(card))
    library = tmp_path / "library.csv"
    library.write_text(f'smiles,id\nCCO,"{ESCAPE}a"\n[Xe],"{ESCAPE}b"\n')
    words = [str(library), "--out", str(out), "--model", str(model), "--device", "cpu"]
    assert main(["run", *words, "--workers", "1", "--max-steps", "2"]) == 0
    assert main(["run", *words, "--workers", "1", "--max-steps", "2", "--resume", "--json"]) == 0
    for command in (["status"], ["status", "--check"], ["report"]):
        assert main([command[0], str(out), *command[1:]]) == 0
    assert main(["export", str(out), "--sdf", str(out / f"{ESCAPE[-3:]}.sdf")]) == 0
    told = capsys.readouterr()
    assert told.err.count("owned") + told.out.count("owned") > 5
    as_json = next(line for line in told.out.splitlines() if line.startswith("{"))
    assert json.loads(as_json)["out"] == str(out)
    assert not set(told.err + told.out) & {"\x1b", "\x07", "\x9b"}
    page = markdown_summary(read_manifest(out), Path("a\n```\n<script>"))
    assert page.count("```") == 4


@pytest.mark.parametrize("link", ["molecules", "conformers", ".run.lock"])
def test_links_in_a_folder_have_us_write_nowhere_else(
    tmp_path: Path, small_model: Path, link: str
) -> None:
    library, out, elsewhere = tmp_path / "a.smi", tmp_path / "out", tmp_path / "elsewhere"
    library.write_text("CCO a\n")
    out.mkdir()
    if link == ".run.lock":
        elsewhere.write_text("kept")
    else:
        elsewhere.mkdir()
        (elsewhere / "part-000000.parquet").write_text("kept")
    (out / link).symlink_to(elsewhere)
    call = ScreenCall(
        library=str(library), out=str(out), model=str(small_model), device="cpu", workers=1,
        overwrite=True,
    )  # fmt: skip
    with pytest.raises(OutputError, match=f"{link}: is a symbolic link"):
        run_screen(call, LocalEngine(), Watcher())
    kept = elsewhere if link == ".run.lock" else elsewhere / "part-000000.parquet"
    assert kept.read_text() == "kept"
    assert (out / link).is_symlink()


def test_a_link_under_the_name_of_a_file_to_be_is_replaced_and_not_followed(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("kept")
    for name in ("manifest.json", f".manifest.json.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to(mine)
    with open_store(tmp_path).put("manifest.json") as stream:
        stream.write(b"new")
    assert mine.read_text() == "kept"
    assert not (tmp_path / "manifest.json").is_symlink()


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder", "huge"])
def test_a_manifest_that_never_ends_ends_a_command(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.json"
    if kind == "pipe":
        os.mkfifo(manifest)
    elif kind == "endless":
        manifest.symlink_to("/dev/zero")
    elif kind == "folder":
        manifest.mkdir()
    else:
        with manifest.open("wb") as stream:
            stream.truncate(1 << 42)
    with pytest.raises(SystemExit, match="2"):
        main(["status", str(tmp_path)])
    assert "manifest.json: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",  # the same in one number
        "0xa9.254.43518",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",  # through a translator
        "[2002:a9fe:a9fe::1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
    ],
)
def test_a_machines_secrets_are_no_library(host: str) -> None:
    with pytest.raises(PermissionError, match="secrets"):
        check_host(f"http://{host}/latest/meta-data")
    check_host("http://127.0.0.1:1/a.smi")


def test_nor_is_a_name_that_leads_elsewhere_when_it_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, real = [], socket.getaddrinfo

    def rebinding(host: str, *given: object, **more: object) -> object:
        if host != "rebinds.example":
            return real(host, *given, **more)  # type: ignore[arg-type]
        told.append("127.0.0.1" if not told else "169.254.169.254")
        return real(told[-1], *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with pytest.raises(LibraryError, match="secrets"):
        open_library("http://rebinds.example:9/a.smi")
    assert len(told) >= 2


def test_nor_are_they_when_another_host_sends_one_there() -> None:
    class Sends(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/a.smi")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Sends) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(LibraryError, match="secrets"):
            open_library(f"http://127.0.0.1:{server.server_port}/a.smi")
        server.shutdown()
