"""Debian's Prometheus with our own configuration reads a running chargeapp, and raises an alert for a real fault."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from deployment import ROOT, Deployment, free_port, stop
from servers import Receiver
from support.builders import eventually
from support.callers import make_key
from support.prometheus import Programs

from chargeapp.security.api_keys import Scope

DEADLINE_SECONDS = 60.0
DRIVER = "driver-token-of-prometheus-1"


class Prometheus:
    """Our files as they are, but for the port, and in 5 s what takes 15: Kafka is given 3 to answer."""

    def __init__(self, programs: Programs, folder: Path, target: int, key: str) -> None:
        files = ROOT / "deploy" / "prometheus"
        configuration = (files / "prometheus.yml").read_text()
        given = configuration.replace("127.0.0.1:8080", f"127.0.0.1:{target}").replace(" 15s", " 5s")
        assert given.count(" 5s") == 2
        (folder / "prometheus.yml").write_text(given)
        (folder / "alerts.yml").write_text((files / "alerts.yml").read_text().replace("for: 1m", "for: 2s"))
        (folder / "chargeapp.key").write_text(key)
        self._port = free_port()
        self._log = folder / "prometheus.log"
        options = {
            "config.file": folder / "prometheus.yml",
            "storage.tsdb.path": folder / "data",
            "web.listen-address": f"127.0.0.1:{self._port}",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [programs.prometheus, *(f"--{name}={value}" for name, value in options.items())],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._is_ready, "Prometheus does not start", DEADLINE_SECONDS)

    def close(self) -> None:
        stop(self._process)

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self._get("/-/ready").ok
        except requests.ConnectionError:
            return False

    def _get(self, path: str, **parameters: str) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(f"http://127.0.0.1:{self._port}{path}", params=parameters, timeout=DEADLINE_SECONDS)

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self._get(f"/api/v1/{path}", **parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, query: str) -> float | None:
        """Of the one series that `query` finds."""
        found = self.ask("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        return {each["labels"]["alertname"] for each in self.ask("alerts")["alerts"] if each["state"] == "firing"}


@pytest.fixture(scope="module")
def deployment(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(data_dir()) as deployment:
        yield deployment.up()


@pytest.fixture(scope="module")
def prometheus(
    programs: Programs, deployment: Deployment, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Three requests have been delivered before it starts."""
    deployment.allow(DRIVER)
    for request_id in [deployment.submit(DRIVER, receiver.url(receiver.path())) for _ in range(3)]:
        deployment.wait_until(request_id, state="delivered")
    key = make_key(deployment.runtime, Scope.OPERATE)
    prometheus = Prometheus(programs, tmp_path_factory.mktemp("prometheus"), deployment.port, key)
    yield prometheus
    prometheus.close()


def test_prometheus_reads_a_running_instance_with_a_key(prometheus: Prometheus) -> None:
    eventually(lambda: prometheus.value('up{job="chargeapp"}') == 1, "not up", DEADLINE_SECONDS)

    (target,) = prometheus.ask("targets")["activeTargets"]
    assert target["health"] == "up", target["lastError"]
    assert prometheus.value("chargeapp_requests_total") == 3
    assert prometheus.value('chargeapp_decisions_total{decision="allowed"}') == 3
    assert prometheus.value('chargeapp_callbacks_total{result="succeeded"}') == 3
    assert prometheus.value("chargeapp_accepting") == 1
    assert prometheus.value('chargeapp_workers{queue="callbacks"}') == 1


def test_prometheus_loads_every_alert_and_none_fires_without_need(prometheus: Prometheus) -> None:
    def evaluated() -> bool:
        (group,) = prometheus.ask("rules")["groups"]
        return all(rule["health"] == "ok" for rule in group["rules"])

    eventually(lambda: prometheus.value('up{job="chargeapp"}') == 1, "not up", DEADLINE_SECONDS)
    eventually(evaluated, "a rule cannot be evaluated", DEADLINE_SECONDS)
    assert prometheus.firing() == set()


def test_the_alert_for_the_broker_fires_while_it_is_away(prometheus: Prometheus, deployment: Deployment) -> None:
    alert = {"redis": "ChargeappRedisDown", "kafka": "ChargeappKafkaDown"}[deployment.broker]
    broker = deployment.pid_of(deployment.broker)
    os.kill(broker, signal.SIGSTOP)
    try:
        eventually(lambda: alert in prometheus.firing(), "no alert", DEADLINE_SECONDS)
    finally:
        os.kill(broker, signal.SIGCONT)

    eventually(lambda: prometheus.firing() == set(), "the alert stays", DEADLINE_SECONDS)
