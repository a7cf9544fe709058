"""The files in deploy/ whose engine does not run here, checked as strictly as can be done without one."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml
from support.builders import new_runtime
from test_docs import unknown_words

from chargeapp import __version__
from chargeapp.config import Settings
from chargeapp.pipeline import STAGES
from chargeapp.web.metrics import as_prometheus

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
DOCKER = ROOT / "deploy" / "docker"
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPOSE = sorted(DOCKER.glob("compose*.yaml"))
MANIFESTS = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")
SETTINGS = {field.name.upper(): field.metadata["secret"] for field in fields(Settings)}


def run(tool: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    found = which(tool, path=str(TOOLS)) or pytest.skip(f"{tool} is not installed: no ready-made one for this machine")
    return subprocess.run([found, *words], capture_output=True, text=True, timeout=120)


def services(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["services"]
    return found


def ours(path: Path) -> dict[str, dict[str, Any]]:
    return {name: each for name, each in services(path).items() if each["image"].startswith("chargeapp:")}


def objects(kind: str) -> list[dict[str, Any]]:
    every = [each for path in MANIFESTS for each in yaml.safe_load_all(path.read_text())]
    return [each for each in every if each["kind"] == kind]


def pods() -> list[dict[str, Any]]:
    return [each["spec"]["template"] for kind in ("Deployment", "Job") for each in objects(kind)]


# Docker


def test_a_linter_finds_nothing_to_say_about_the_dockerfile() -> None:
    done = run("hadolint", "--failure-threshold", "style", DOCKER / "Dockerfile")

    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_gets_what_it_copies() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    let_through = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()

    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in let_through


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_is_one_by_its_schema(path: Path) -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_our_containers_are_small_and_start_what_exists(path: Path) -> None:
    for each in ours(path).values():
        assert each["image"] == f"chargeapp:{__version__}"
        assert (each["read_only"], each["init"], each["cap_drop"]) == (True, True, ["ALL"])
        assert unknown_words(" ".join(["chargeapp", *each["command"]])) == []
        assert set(each.get("environment", {})) <= set(SETTINGS)


def test_compose_starts_a_worker_for_each_queue() -> None:
    commands = [each["command"] for each in ours(DOCKER / "compose.yaml").values()]

    assert {command[1] for command in commands if command[0] == "worker"} == {stage.queue for stage in STAGES}


def test_files_that_compose_mounts_are_there() -> None:
    mounts = [each for service in services(DOCKER / "compose.yaml").values() for each in service.get("volumes", [])]
    sources = [each.partition(":")[0] for each in mounts if each.startswith(".")]

    assert sources
    assert [each for each in sources if not (DOCKER / each).is_file()] == []


# Kubernetes


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_one_by_its_schema(path: Path) -> None:
    done = run("kubernetes-validate", "--strict", path)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_manifest_is_applied() -> None:
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())

    assert sorted(listed["resources"]) == [path.name for path in MANIFESTS]
    assert [each["newTag"] for each in listed["images"]] == [__version__]


def test_pods_reach_the_usual_ports_of_stores_and_brokers() -> None:
    (policy,) = [each["spec"] for each in objects("NetworkPolicy") if each["metadata"]["name"] == "chargeapp"]

    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "chargeapp"}
    let_out = {each["port"] for rule in policy["egress"] for each in rule["ports"]}
    assert let_out == {53, 5432, 6379, 26379, 9092, 9093}


def test_every_pod_may_do_little_and_starts_what_exists() -> None:
    for pod in pods():
        spec = pod["spec"]
        (container,) = spec["containers"]

        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] == f"chargeapp:{__version__}"
        assert unknown_words(" ".join(["chargeapp", *container["args"]])) == []


def test_there_are_three_of_the_api_two_relays_and_workers_for_each_queue() -> None:
    deployments = {each["metadata"]["name"]: each["spec"] for each in objects("Deployment")}
    scaled = {each["spec"]["scaleTargetRef"]["name"] for each in objects("HorizontalPodAutoscaler")}
    workers = {f"chargeapp-worker-{stage.queue}" for stage in STAGES}

    assert set(deployments) == {"chargeapp-web", "chargeapp-relay", *workers}
    assert (deployments["chargeapp-web"]["replicas"], deployments["chargeapp-relay"]["replicas"]) == (3, 2)
    assert scaled == workers


def test_every_deployment_has_a_disruption_budget_of_its_own() -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in objects("Deployment")]
    budgets = [each["spec"]["selector"]["matchLabels"] for each in objects("PodDisruptionBudget")]

    assert sorted(map(str, labels)) == sorted(map(str, budgets))


def test_workers_are_scaled_by_a_figure_that_the_api_serves(tmp_path: Path) -> None:
    with new_runtime(tmp_path) as runtime:
        served = as_prometheus(runtime)[0].decode()

    for each in objects("HorizontalPodAutoscaler"):
        (metric,) = [one["external"]["metric"] for one in each["spec"]["metrics"]]
        queue = metric["selector"]["matchLabels"]["queue"]
        assert f'{metric["name"]}{{queue="{queue}"}}' in served
        assert each["metadata"]["name"] == f"chargeapp-worker-{queue}"


def test_the_manifests_set_what_exists_and_hold_no_secret() -> None:
    (settings,) = objects("ConfigMap")

    assert objects("Secret") == []
    assert {name: SETTINGS[name] for name in settings["data"]} == dict.fromkeys(settings["data"], False)


def test_probes_ask_routes_that_exist() -> None:
    (web,) = [each for each in objects("Deployment") if each["metadata"]["name"] == "chargeapp-web"]
    (container,) = web["spec"]["template"]["spec"]["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}

    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}


# Lock files of the extras


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        ("postgres", {"psycopg", "psycopg-binary"}),
        ("dashboard", {"rq-dashboard", "six", "arrow", "redis-sentinel-url"}),
        ("kafka", {"confluent-kafka", "cloudevents", "deprecation"}),
    ],
)
def test_an_extra_is_locked_as_it_is_tested(extra: str, names: set[str]) -> None:
    pins = re.findall(r"^([a-z]\S*==\S+)", (ROOT / f"requirements-{extra}.lock").read_text(), re.MULTILINE)
    tested = (ROOT / "requirements-dev.lock").read_text()

    assert {each.partition("==")[0] for each in pins} == names
    assert [each for each in pins if f"\n{each} " not in tested] == []
