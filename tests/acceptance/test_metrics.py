"""The figures of a fresh deployment are those of the test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deployment import Deployment
from prometheus_client.parser import text_string_to_metric_families
from servers import Receiver

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

    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
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
