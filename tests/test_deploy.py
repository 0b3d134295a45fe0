"""What is shipped to run elsewhere fits what is here."""

import configparser
import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from flows.call import ScreenCall
from flows.cli import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_the_image_copies_what_is_there_and_installs_extras_that_there_are() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    sources = [name for line in copied for name in line.split()]
    assert {"flows", "tasks", "mlff_core", "datasets"} <= set(sources)
    let_in = (ROOT / ".dockerignore").read_text().split()
    for name in sources:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in let_in, name
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert {*extras.split(","), "triton"} <= PROJECT["optional-dependencies"].keys()
    assert "\nUSER screen\n" in text


def test_compose_publishes_nothing_beyond_this_host() -> None:
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    (command,) = services["worker"]["command"]
    made, started = command.split(" && exec ")
    assert made.endswith("--base-job-template deploy/work-pool.json --overwrite")
    assert started == "prefect worker start --pool screen --type process"
    token = services["worker"]["environment"]["PREFECT_API_AUTH_STRING"]
    assert services["server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"] == token
    assert token.startswith("screen:${SCREEN_TOKEN:?")


def test_the_services_start_what_the_operations_page_starts() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    for name in ("server", "worker"):
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read(ROOT / f"deploy/mlff-screen-{name}.service")
        program, _, arguments = unit["Service"]["ExecStart"].partition(" ")
        assert program.endswith("/.venv/bin/prefect")
        assert f"prefect {arguments}" in page
        assert unit["Service"]["EnvironmentFile"] == "/etc/mlff-screen/token"


def test_the_site_has_every_page_of_the_docs() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = set(re.findall(r"[\w/]+\.md", yaml.safe_dump(site["nav"])))
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert named == {page for page in pages if not page.startswith("log/")}


def test_a_shell_can_complete_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "bash"])
    assert stop.value.code == 0
    script = capsys.readouterr().out
    for name in ScreenCall.model_fields:
        assert name == "library" or f"--{name.replace('_', '-')}" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_failures_are_told_by_an_automation_that_prefect_takes(prefect_server: None) -> None:
    notify = runpy.run_path(str(ROOT / "examples/nightly/notify.py"))["notify"]
    for url in ("http://127.0.0.1:9/first", "http://127.0.0.1:9/second"):
        automation = notify(url)
    assert automation.name == "mlff-screen-failures"
    assert automation.enabled
    [action] = automation.actions
    assert "flow_run.state" in action.subject
