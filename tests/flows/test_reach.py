"""What parameters from a form may reach on a worker."""

import logging
from pathlib import Path

import pytest

from flows.call import DistillCall, ScreenCall
from flows.reach import check_reach, check_reach_of_distill
from mlff_core.errors import MlffError


@pytest.fixture(autouse=True)
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a worker runs in, with a link out of it."""
    home = tmp_path / "worker"
    home.mkdir()
    (home / "link").symlink_to(tmp_path)
    monkeypatch.chdir(home)
    monkeypatch.delenv("MLFF_SCREEN_ROOTS", raising=False)
    return home


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"library": "my/library.smi", "out": "out/../out/mine", "model": "small"},
        {"library": "https://host/library.smi.gz"},
        {"library": "s3://bucket/library.smi", "out": "s3://bucket/tables"},
        {"model": "models/mine.safetensors"},
    ],
    ids=str,
)
def test_what_lies_below_the_workers_folder_or_is_served_may_be_reached(given: dict) -> None:
    check_reach(ScreenCall(**given))


@pytest.mark.parametrize(
    "given",
    [
        {"library": "/etc/passwd"},
        {"library": "../secret.smi"},
        {"library": "link/secret.smi"},
        {"library": "~root/x.smi"},
        {"library": "~nobody-of-this-name/x.smi"},
        {"library": "a\0.smi"},
        {"library": "file:///etc/passwd"},
        {"library": "FILE:///etc/passwd"},
        {"library": "simplecache::https://host/x.smi"},
        {"library": "zip://x.smi::file:///home/x.zip"},
        {"library": "reference::https://host/x.json"},
        {"library": "https://host/x.smi::file:///etc/passwd"},
        {"library": "ssh://host/x.smi"},
        {"library": "github://a:b@/x.smi"},
        {"library": "memory://x.smi"},
        {"out": "/tmp/tables"},
        {"out": "../tables"},
        {"out": "link/tables"},
        {"out": "https://host/tables"},
        {"out": "s3://bucket/mine/../../other"},
        {"model": "/home/x/model.safetensors"},
        {"model": "https://host/model.safetensors"},
        {"model": "link/model.safetensors"},
        {"ray_address": "ray://elsewhere:10001"},
    ],
    ids=str,
)
def test_what_lies_elsewhere_is_refused_in_a_line(given: dict) -> None:
    with pytest.raises(MlffError, match=next(iter(given))) as caught:
        check_reach(ScreenCall(**given))
    assert "\n" not in str(caught.value)


#: A distillation that reaches nothing beyond the worker.
PLAIN = {"table": "my/table.parquet", "start": "small"}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"table": "s3://bucket/table.parquet"},
        {"recipe": "mine.toml", "start": "none"},
        {"teacher": "teachers/a.jpt", "start": "models/a.safetensors"},
    ],
    ids=str,
)
def test_a_distillation_reaches_what_lies_below_the_workers_folder(given: dict) -> None:
    check_reach_of_distill(DistillCall(**PLAIN | given))


@pytest.mark.parametrize(
    "given",
    [
        {"table": "/etc/passwd"},
        {"table": "file:///etc/passwd"},
        {"table": "zip://a.csv::https://host/a.zip"},
        {"teacher": "/home/x/teacher.jpt"},
        {"teacher": "https://host/teacher.jpt"},
        {"recipe": "../recipe.toml"},
        {"recipe": "link/recipe.toml"},
        {"out": "/tmp/student"},
        {"out": "s3://bucket/student"},
        {"start": "/home/x/model.safetensors"},
    ],
    ids=str,
)
def test_a_distillation_reaches_nothing_else(given: dict) -> None:
    with pytest.raises(MlffError, match=next(iter(given))):
        check_reach_of_distill(DistillCall(**PLAIN | given))


def test_both_deployments_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.distill
    import flows.screen

    class Deployed:
        id = "one"

    for module, asked in (
        (flows.distill, {"table": "/etc/passwd"}),
        (flows.screen, {"library": "/etc/passwd", "out": "out"}),
    ):
        monkeypatch.setattr(module, "deployment", Deployed)
        monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("here"))
        run = getattr(module, module.__name__.rpartition(".")[2])
        with pytest.raises(MlffError, match="leads out of"):
            run.fn(**asked)


def test_a_worker_may_be_given_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFF_SCREEN_ROOTS", f"{tmp_path / 'data'}:{tmp_path / 'screens'}")
    check_reach(ScreenCall(library=str(tmp_path / "data/a.smi"), out=str(tmp_path / "screens/1")))
    with pytest.raises(MlffError, match="leads out of"):
        check_reach(ScreenCall(library="here.smi", out=str(tmp_path / "screens/1")))
