"""The manifests of ``deploy/kubernetes``: built by kustomize, valid, and in step with the code.

Every variable that a container is given is a setting of its process with a value that it takes; ports, probes, commands
and metrics are those of the code.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from gateway.jobs.jetstream.queue import CONSUMERS
from services.common.config import GatewaySettings, unknown_settings
from services.common.metrics import Metrics
from tests.deploy.processes import PROCESSES

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
DEPLOYMENTS = {f"dpst-{name}": process for name, process in PROCESSES.items()}
# Of other projects: what is used of their resources is checked by the tests below.
FOREIGN = {"Certificate", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")}

Manifest = dict[str, Any]


def built(folder: Path) -> list[Manifest]:
    """What ``kubectl apply -k`` would send."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl, for `kubectl kustomize`")
    done = subprocess.run(
        [kubectl, "kustomize", "--load-restrictor=LoadRestrictionsNone", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(
    scope="session", params=[*OVERLAYS, *(f"cpu with {name}" for name in COMPONENTS), "gpu with everything"]
)
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """Each overlay, each component on one of them, and all of them at once; built once, and only read."""
    overlay, _, component = request.param.partition(" with ")
    if not component:
        return built(KUBERNETES / "overlays" / overlay)
    # The gpu overlay has the models already.
    chosen = [name for name in COMPONENTS if name != "models"] if component == "everything" else [component]
    text = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(Path("overlays") / overlay)],
        "components": [str(Path("components") / name) for name in chosen],
    }
    folder = tmp_path_factory.mktemp("deploy") / "kubernetes"
    shutil.copytree(KUBERNETES, folder)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return built(folder)


def of_kind(manifests: list[Manifest], kind: str) -> Iterator[tuple[str, Manifest]]:
    for manifest in manifests:
        if manifest["kind"] == kind:
            yield manifest["metadata"]["name"], manifest


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Name of the deployment, its pod, its only container."""
    for name, manifest in of_kind(manifests, "Deployment"):
        pod = manifest["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        yield name, pod, container


def environment(container: Manifest) -> dict[str, str]:
    found = {variable["name"]: variable["value"] for variable in container["env"]}
    assert len(found) == len(container["env"]), "a variable is given twice"
    return found


def test_valid(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        if manifest["kind"] in SCHEMAS:
            jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])


def test_variables_are_settings(manifests: list[Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name for name, _, _ in containers(manifests)} == DEPLOYMENTS.keys()
    for name, pod, container in containers(manifests):
        variables = environment(container)
        assert not unknown_settings(variables)
        process = DEPLOYMENTS[name]
        for variable, value in variables.items():
            assert variable.removeprefix("DPST_").lower() in process.settings.model_fields, (
                f"{variable} is no setting of {name}"
            )
            monkeypatch.setenv(variable, value)
        settings = process.settings()
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"grpc": settings.port, "http": settings.http_port, "health": settings.health_port}
        for probe in ("startupProbe", "readinessProbe"):
            assert container[probe]["grpc"] == {"port": settings.health_port, "service": process.service}
        assert container["livenessProbe"]["grpc"] == {"port": settings.health_port}
        assert pod["terminationGracePeriodSeconds"] > settings.drain_delay_seconds + settings.drain_seconds
        assert pod["enableServiceLinks"] is False, "the cluster's variables would be taken for settings"
        for variable in variables:
            monkeypatch.delenv(variable)


def test_nothing_may_be_written_but_mounts(manifests: list[Manifest]) -> None:
    for _, pod, container in containers(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for each in (container, *pod.get("initContainers", ())):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted.keys() <= {volume["name"] for volume in pod["volumes"]}
        for variable, value in environment(container).items():
            if value.startswith("/"):
                assert any(value.startswith(path) for path in mounted.values()), f"{variable} is on no volume"


def test_services_are_found_where_the_gateway_looks(manifests: list[Manifest]) -> None:
    services = dict(of_kind(manifests, "Service"))
    for service in services.values():
        assert service["spec"]["clusterIP"] == "None", "one connection to one address would be pinned to one replica"
    (gateway,) = [environment(c) for name, _, c in containers(manifests) if name == "dpst-gateway"]
    for variable in ("DPST_SEGMENTATION_ADDRESS", "DPST_STYLIZER_ADDRESS"):
        name, port = gateway[variable].removeprefix("dns:///").split(":")
        assert int(port) in {each["port"] for each in services[name]["spec"]["ports"]}


def test_selectors_select(manifests: list[Manifest]) -> None:
    labels = {
        name: manifest["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "StatefulSet")
        for name, manifest in of_kind(manifests, kind)
    }
    for kind in ("Service", "PodDisruptionBudget"):
        for name, manifest in of_kind(manifests, kind):
            selector = manifest["spec"]["selector"]
            assert (selector.get("matchLabels") or selector).items() <= labels[name].items()
    for name, policy in of_kind(manifests, "NetworkPolicy"):
        wanted = policy["spec"]["podSelector"].get("matchLabels", {})
        assert any(wanted.items() <= found.items() for found in labels.values()), name
    classes = dict(of_kind(manifests, "PriorityClass"))
    for _, pod, _ in containers(manifests):
        assert pod["priorityClassName"] in classes
    for _, scaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] in labels


def test_metrics_exist(manifests: list[Manifest]) -> None:
    known = {family.name for family in Metrics().registry.collect()}
    for _, scaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            assert metric["type"] == "Resource" or metric["pods"]["metric"]["name"] in known


def test_models_that_are_pulled_are_known(manifests: list[Manifest]) -> None:
    models = tomllib.loads((ROOT / "services/common/models.toml").read_text())["model"]
    names = {model["name"] for model in models}
    for _, pod, container in containers(manifests):
        for each in pod.get("initContainers", ()):
            assert each["command"][:3] == ["dpst", "models", "pull"]
            assert set(each["command"][3:]) <= names
            assert each["image"] == container["image"]
            assert environment(each)["DPST_MODELS_DIR"] == environment(container)["DPST_MODELS_DIR"]


def test_what_is_of_other_projects(manifests: list[Manifest]) -> None:
    for _, certificate in of_kind(manifests, "Certificate"):
        services = {name for name, _ in of_kind(manifests, "Service") if name in DEPLOYMENTS}
        assert certificate["apiVersion"] == "cert-manager.io/v1"
        assert set(certificate["spec"]["dnsNames"]) == services
        for _, pod, _ in containers(manifests):
            names = [v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v]
            assert names == [certificate["spec"]["secretName"]]
    for _, monitor in of_kind(manifests, "ServiceMonitor"):
        assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
        wanted = monitor["spec"]["selector"]["matchLabels"]
        for service in (service for name, service in of_kind(manifests, "Service") if name in DEPLOYMENTS):
            assert wanted.items() <= service["metadata"]["labels"].items()
            assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= {
                port["name"] for port in service["spec"]["ports"]
            }


def test_a_scaled_object_asks_for_the_consumers_of_the_code(manifests: list[Manifest]) -> None:
    for _, scaled in of_kind(manifests, "ScaledObject"):
        targets = {name for name, _ in of_kind(manifests, "Deployment")}
        assert scaled["spec"]["scaleTargetRef"]["name"] in targets
        scalers = {
            scaler["spec"]["scaleTargetRef"]["name"] for _, scaler in of_kind(manifests, "HorizontalPodAutoscaler")
        }
        assert scaled["spec"]["scaleTargetRef"]["name"] not in scalers, "two would pull at one Deployment"
        stream = f"{GatewaySettings().jobs_nats_prefix}-work"
        asked = [
            (trigger["metadata"]["stream"], trigger["metadata"]["consumer"]) for trigger in scaled["spec"]["triggers"]
        ]
        assert asked == [(stream, name) for name in CONSUMERS]


def test_gateways_find_nats_and_it_keeps_what_they_ask_for(manifests: list[Manifest]) -> None:
    sets = dict(of_kind(manifests, "StatefulSet"))
    for name, _, container in containers(manifests):
        variables = environment(container)
        if name != "dpst-gateway" or "DPST_JOBS_URL" not in variables:
            continue
        host, _, port = variables["DPST_JOBS_URL"].removeprefix("nats://").partition(":")
        service = dict(of_kind(manifests, "Service"))[host]
        assert int(port) in {each["port"] for each in service["spec"]["ports"]}
        assert int(variables["DPST_JOBS_NATS_REPLICAS"]) <= sets[host]["spec"]["replicas"]


def test_cards_are_for_stylizers_only() -> None:
    found = {
        name: container["resources"]["limits"].get("nvidia.com/gpu")
        for name, _, container in containers(built(KUBERNETES / "overlays" / "gpu"))
    }
    assert found == {"dpst-gateway": None, "dpst-segmentation": None, "dpst-stylizer": 1}
