"""The Dockerfile, its ignore file, and the compose files."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from services.common.config import unknown_settings
from tests.deploy.processes import PROCESSES

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def stage(name: str) -> str:
    """Instructions of a stage, continued lines joined, comments left out."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    (found,) = [part for part in re.split(r"^(?=FROM )", text, flags=re.MULTILINE) if f" AS {name}\n" in part]
    return found


def checked(*command: str | Path) -> None:
    """Run a tool of the environment; it has to find nothing."""
    tool = Path(sysconfig.get_path("scripts")) / command[0]
    ran = subprocess.run([tool, *command[1:]], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_dockerfile_is_good_style() -> None:
    checked("hadolint", "--failure-threshold", "style", DOCKER / "Dockerfile")


def test_compose_files_are_as_their_schema_says() -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *DOCKER.glob("compose*.yaml"))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_target_runs_its_process_as_nobody(name: str) -> None:
    process = PROCESSES[name]
    assert f'CMD ["{process.module}"]' in stage(name)
    assert (ROOT / process.module.replace(".", "/") / "__main__.py").exists()
    ports = {int(port) for port in re.findall(r"EXPOSE (.*)", stage(name))[0].split()}
    assert ports == {process.default("port"), process.default("http_port")}
    assert "USER 65532:65532" in stage("process")
    assert stage(name).startswith("FROM process ")


def test_everything_that_is_copied_is_let_in() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            path = source.replace("${KIND}", "cpu")
            assert (ROOT / path).exists(), source
            assert any(path == each or path.startswith(f"{each}/") for each in let_in), f"{path} is ignored"


def test_variables_are_settings() -> None:
    variables = dict(pair.split("=", 1) for pair in re.findall(r"DPST_\w+=\S+", stage("process")))
    assert not unknown_settings(variables)
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    for name, process in PROCESSES.items():
        given = compose["services"][name]["environment"]
        assert not unknown_settings(given)
        assert {variable.removeprefix("DPST_").lower() for variable in given} <= process.settings.model_fields.keys()


def test_nats_can_stand_behind_the_gateway() -> None:
    added = yaml.safe_load((DOCKER / "compose.nats.yaml").read_text())
    given = added["services"]["gateway"]["environment"]
    assert not unknown_settings(given)
    settings = PROCESSES["gateway"].settings(jobs_url=given["DPST_JOBS_URL"])
    assert settings.jobs_url == "nats://nats:4222"
    nats = added["services"]["nats"]
    assert nats["read_only"] is True
    for volume in nats["volumes"]:
        source, target, *_ = volume.split(":")
        assert source in added["volumes"] or (DOCKER / source).exists()
        assert target == "/data" or target in nats["command"]
    assert "port: 4222" in (DOCKER / "nats.conf").read_text()
    assert "store_dir: /data" in (DOCKER / "nats.conf").read_text()


def test_compose_locks_processes_up() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    for name in PROCESSES:
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["build"]["target"] == name
        for volume in service["volumes"]:
            source, place = volume.split(":")[:2]
            assert source in compose["volumes"]
            assert place in stage("process").split("install -d")[1].splitlines()[0].split(), "else it is root's"
    gateway = compose["services"]["gateway"]["environment"]
    for variable in ("DPST_SEGMENTATION_ADDRESS", "DPST_STYLIZER_ADDRESS"):
        service, port = gateway[variable].removeprefix("dns:///").split(":")
        assert int(port) == PROCESSES[service].default("port")


def test_prometheus_asks_every_process() -> None:
    scraped = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["scrape_configs"][0]["static_configs"][0]
    wanted = {f"{name}:{process.default('http_port')}" for name, process in PROCESSES.items()}
    assert set(scraped["targets"]) == wanted
