"""The figures of a fresh deployment are those of the test."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from deployment import DEADLINE_SECONDS, STATION, Deployment, children_of, stop
from prometheus_client.parser import text_string_to_metric_families
from servers import Receiver

REQUESTS = 120
BEFORE_THE_RESTART = 80
WEB_PROCESSES = 4
# What the receiver answers a request, by the last digit of its number.
ANSWERS = {0: (500, 204), 4: (500, 500, 204), 9: (410,)}
SCRAPER = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


@pytest.fixture(scope="module")
def measured(data_dir: Callable[[], Path], receiver: Receiver) -> Iterator[Deployment]:
    """Three requests: one allowed, two not; one of the callbacks needed three attempts, one was refused for good."""
    with Deployment(data_dir(), CALLBACK_RETRY_DELAY_MILLIS="50", QUEUE_MAX_SIZE="77") as deployment:
        deployment.up()
        deployment.allow("driver-token-of-metrics-1")
        for number, answers, ended in (
            (1, [204], "delivered"),
            (2, [500, 500, 204], "delivered"),
            (3, [410], "failed"),
        ):
            url = receiver.url(receiver.path(*answers))
            request_id = deployment.submit(f"driver-token-of-metrics-{number}", url)
            deployment.wait_until(request_id, state=ended)
        yield deployment


def samples_of(text: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_the_json_figures_equal_what_was_done(measured: Deployment) -> None:
    found = measured.get("/metrics").json()

    assert found["requests_total"] == 3
    assert found["authorization_decisions"] == {"allowed": 1, "not_allowed": 2, "unknown": 0, "invalid": 0}
    assert found["callback_results"] == {"succeeded": 2, "failed": 3}
    assert found["requests_ended"] == {"delivered": 2, "failed": 1, "expired": 0}
    assert (found["queue_size_current"], found["queue_size_max"]) == (0, 77)
    assert {"authorization_time_avg_ms", "authorization_time_p95_ms"} <= set(found)


@pytest.mark.parametrize("how", [{"headers": {"Accept": SCRAPER}}, {"params": {"format": "prometheus"}}])
def test_prometheus_reads_the_same_figures(measured: Deployment, how: dict[str, dict[str, str]]) -> None:
    answer = measured.get("/metrics", **how)

    samples = samples_of(answer.text)
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert samples["chargeapp_requests_total",] == 3
    assert samples["chargeapp_decisions_total", "not_allowed"] == 2
    assert samples["chargeapp_callbacks_total", "succeeded"] == 2
    assert samples["chargeapp_callbacks_total", "failed"] == 3


def test_health_tells_the_same_figures(measured: Deployment) -> None:
    components = measured.health()["components"]

    assert components["queue"] == {"status": "UP", "details": {"currentSize": "0", "maxSize": "77"}}
    assert components["authorization"]["details"]["totalDecisions"] == "3"
    assert components["callbacks"]["details"] == {"errorRate": "0.60", "totalCallbacks": "5"}


class LoadRun:
    """Requests from eight callers at once, each sent again with its key until it is accepted."""

    def __init__(self, deployment: Deployment, receiver: Receiver) -> None:
        self._deployment = deployment
        self._receiver = receiver
        self.paths = [receiver.path(*ANSWERS.get(number % 10, (204,))) for number in range(REQUESTS)]
        self.accepted: list[str] = []

    def submit(self, number: int) -> None:
        body = {
            "stationId": STATION,
            "driverToken": token(number),
            "callbackUrl": self._receiver.url(self.paths[number]),
        }
        deadline = time.monotonic() + 2 * DEADLINE_SECONDS
        while True:
            try:
                with requests.Session() as session:
                    session.trust_env = False
                    answer = session.post(
                        f"{self._deployment.url}/api/v1/charging-session",
                        json=body,
                        headers={"Idempotency-Key": f"load-run-{number}"},
                        timeout=DEADLINE_SECONDS,
                    )
                if answer.status_code == 200:
                    self.accepted.append(answer.json()["requestId"])
                    return
            except requests.ConnectionError:
                pass
            assert time.monotonic() < deadline, f"request {number} was never accepted"
            time.sleep(0.05)

    def answered(self) -> Counter[str]:
        """Attempts that the receiver saw, by what it answered."""
        counts: Counter[str] = Counter()
        for number, path in enumerate(self.paths):
            laid_out = ANSWERS.get(number % 10, (204,))
            for arrival in range(len(self._receiver.at(path))):
                status = laid_out[min(arrival, len(laid_out) - 1)]
                counts["succeeded" if status == 204 else "failed"] += 1
        return counts


def token(number: int) -> str:
    return f"driver-token-{'allowed' if number % 3 else 'unknown'}-{number:03}"


def test_with_four_web_processes_and_a_restart_in_a_load_run_no_figure_is_off(
    data_dir: Callable[[], Path], receiver: Receiver
) -> None:
    settings = {"WEB_WORKERS": str(WEB_PROCESSES), "CALLBACK_RETRY_DELAY_MILLIS": "50"}
    with Deployment(data_dir(), **settings) as deployment:
        deployment.up()
        deployment.until(
            lambda: WEB_PROCESSES in [len(children_of(pid)) for pid in children_of(deployment.supervisor.pid)],
            "not as many web processes",
        )
        second = deployment.start("worker", "callbacks")
        deployment.allow(*(token(number) for number in range(REQUESTS) if number % 3))
        run = LoadRun(deployment, receiver)
        with ThreadPoolExecutor(8) as callers:
            submitted = [callers.submit(run.submit, number) for number in range(BEFORE_THE_RESTART)]
            deployment.until(lambda: len(run.accepted) >= BEFORE_THE_RESTART // 2, "too few accepted")
            stop(deployment.supervisor)
            stop(second)
            # These begin while nobody listens.
            submitted += [callers.submit(run.submit, number) for number in range(BEFORE_THE_RESTART, REQUESTS)]
            deployment.up()
            for each in submitted:
                each.result()
        deployment.until(
            lambda: sum(deployment.get("/metrics").json()["requests_ended"].values()) >= REQUESTS, "not all ended"
        )

        # Any of the web processes may answer; all say the same.
        for _ in range(3 * WEB_PROCESSES):
            answer = deployment.get("/metrics", headers={"Accept": SCRAPER, "Connection": "close"})
            samples = samples_of(answer.text)
            allowed = sum(bool(number % 3) for number in range(REQUESTS))
            gone = sum(number % 10 == 9 for number in range(REQUESTS))
            assert samples["chargeapp_requests_total",] == len(set(run.accepted)) == REQUESTS
            assert samples["chargeapp_decisions_total", "allowed"] == allowed
            assert samples["chargeapp_decisions_total", "not_allowed"] == REQUESTS - allowed
            assert samples["chargeapp_decisions_total", "unknown"] == 0
            assert samples["chargeapp_callbacks_total", "succeeded"] == run.answered()["succeeded"] == REQUESTS - gone
            assert samples["chargeapp_callbacks_total", "failed"] == run.answered()["failed"]
            assert samples["chargeapp_requests_ended_total", "delivered"] == REQUESTS - gone
            assert samples["chargeapp_requests_ended_total", "failed"] == gone
            assert samples["chargeapp_queue_size",] == 0
