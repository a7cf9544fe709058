"""Health, metrics and the console over HTTP, on a real database and a real Redis."""

import contextlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from pysqlite3 import dbapi2 as sqlite
from support.builders import (
    DELIVERED,
    FAILED,
    STATION,
    TOKEN,
    accept,
    attempt,
    change,
    close_runtime,
    decide,
    end,
    just_now,
    new_runtime,
    seconds,
)
from support.redis_server import RedisServer

import chargeapp.app
from chargeapp.clock import epoch_millis, utcnow
from chargeapp.config import Settings
from chargeapp.pipeline import STAGES
from chargeapp.runtime import Runtime
from chargeapp.storage import heartbeats


@pytest.fixture
def runtime(tmp_path: Path, server: RedisServer) -> Iterator[Runtime]:
    with new_runtime(tmp_path, redis_url=server.url, queue_max_size=10) as runtime:
        yield runtime


def client_of(runtime: Runtime) -> FlaskClient:
    with pytest.MonkeyPatch.context() as patch:
        # So that the test can close what it uses.
        patch.setattr(chargeapp.app, "Runtime", lambda _: runtime)
        return chargeapp.app.create_app(runtime.settings).test_client()


@pytest.fixture
def client(runtime: Runtime) -> FlaskClient:
    return client_of(runtime)


@pytest.fixture
def without_redis(tmp_path: Path) -> Iterator[Runtime]:
    with new_runtime(tmp_path) as runtime:
        yield runtime


@pytest.fixture
def without_database(tmp_path: Path) -> Iterator[FlaskClient]:
    path = tmp_path / "directory.db"
    runtime = Runtime(
        Settings(chargeapp_data_dir=tmp_path, database_url=f"sqlite:///{path}", redis_url=f"unix://{tmp_path}/none")
    )
    client = client_of(runtime)
    runtime.database.close()
    for each in tmp_path.glob("directory.db*"):
        each.unlink()
    path.mkdir()
    yield client
    close_runtime(runtime)


def all_processes(runtime: Runtime) -> None:
    names = ["relay", *(f"worker {stage.queue} host 1" for stage in STAGES)]
    for name in names:
        change(runtime.database, lambda session, name=name: heartbeats.beat(session, name, utcnow()))


def one_of_everything(runtime: Runtime) -> None:
    accept(runtime.database, now=just_now())
    decide(runtime.database, now=utcnow())
    attempt(runtime.database, DELIVERED, utcnow())
    end(runtime.database, utcnow())
    accept(runtime.database, now=just_now())


def health(client: FlaskClient) -> tuple[int, dict[str, Any]]:
    response = client.get("/health")
    return response.status_code, response.get_json()


def test_everything_at_work_is_up(runtime: Runtime, client: FlaskClient) -> None:
    all_processes(runtime)

    code, found = health(client)

    assert (code, found["status"]) == (200, "UP")
    assert {component["status"] for component in found["components"].values()} == {"UP"}


def test_health_has_the_published_keys(runtime: Runtime, client: FlaskClient) -> None:
    one_of_everything(runtime)
    _, found = health(client)

    assert set(found) == {"status", "timestamp", "components"}
    assert abs(found["timestamp"] - epoch_millis(utcnow())) < 10_000
    components = found["components"]
    assert set(components) == {"queue", "authorization", "callbacks", "database", "redis", "relay", "workers"}
    assert components["queue"]["details"] == {"currentSize": "1", "maxSize": "10"}
    details = components["authorization"]["details"]
    assert (details["errorRate"], details["totalDecisions"]) == ("0.00", "1")
    assert components["callbacks"]["details"] == {"errorRate": "0.00", "totalCallbacks": "1"}


def test_without_redis_it_is_degraded_and_still_accepts(without_redis: Runtime) -> None:
    all_processes(without_redis)
    client = client_of(without_redis)

    code, found = health(client)

    assert (code, found["status"]) == (200, "DEGRADED")
    assert found["components"]["redis"]["status"] == "DOWN"
    body = {"stationId": STATION, "driverToken": TOKEN, "callbackUrl": "http://127.0.0.1:9/hook"}
    assert client.post("/api/v1/charging-session", json=body).status_code == 200


@pytest.mark.parametrize("missing", ["relay", "worker callbacks host 1"])
def test_a_missing_process_is_degraded(runtime: Runtime, client: FlaskClient, missing: str) -> None:
    all_processes(runtime)
    change(runtime.database, lambda session: heartbeats.leave(session, missing))

    code, found = health(client)

    assert (code, found["status"]) == (200, "DEGRADED")
    degraded = [name for name, component in found["components"].items() if component["status"] != "UP"]
    assert degraded == ["relay" if missing == "relay" else "workers"]


def test_a_nearly_full_queue_is_degraded(runtime: Runtime, client: FlaskClient) -> None:
    all_processes(runtime)
    accept(runtime.database, 9)

    assert health(client)[1]["components"]["queue"]["status"] == "DEGRADED"


def test_an_open_breaker_is_degraded(runtime: Runtime, client: FlaskClient) -> None:
    all_processes(runtime)
    change(
        runtime.database,
        lambda session: heartbeats.beat(session, "worker authorization host 1", utcnow(), "open"),
    )

    assert health(client)[1]["components"]["authorization"]["status"] == "DEGRADED"


def test_without_its_database_it_is_down(without_database: FlaskClient) -> None:
    code, found = health(without_database)

    assert (code, found["status"]) == (503, "DOWN")
    assert found["components"]["database"]["status"] == "DOWN"


def test_without_its_database_it_lives_but_is_not_ready(without_database: FlaskClient) -> None:
    assert without_database.get("/health/live").status_code == 200
    assert without_database.get("/health/ready").status_code == 503


def test_without_its_database_every_other_door_says_503_and_when_to_come_again(without_database: FlaskClient) -> None:
    body = {"stationId": STATION, "driverToken": TOKEN, "callbackUrl": "https://caller.example/hook"}
    for response in (
        without_database.post("/api/v1/charging-session", json=body),
        without_database.get("/api/v1/charging-session"),
        without_database.get("/metrics"),
        without_database.get("/"),
    ):
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
        assert response.get_json()["status"] == "unavailable"


def test_a_degraded_instance_is_ready(without_redis: Runtime) -> None:
    response = client_of(without_redis).get("/health/ready")

    assert (response.status_code, response.get_json()["status"]) == (200, "UP")


def test_metrics_are_json_by_default_with_the_published_keys(runtime: Runtime, client: FlaskClient) -> None:
    one_of_everything(runtime)

    response = client.get("/metrics", headers={"Accept": "*/*"})

    found = response.get_json()
    assert found["requests_total"] == 2
    assert found["authorization_decisions"] == {"allowed": 1, "not_allowed": 0, "unknown": 0, "invalid": 0}
    assert found["callback_results"] == {"succeeded": 1, "failed": 0}
    assert (found["authorization_time_avg_ms"], found["authorization_time_p95_ms"]) == (7.0, 10.0)
    assert (found["queue_size_current"], found["queue_size_max"]) == (1, 10)
    assert found["requests_ended"] == {"delivered": 1, "failed": 0, "expired": 0}


PROMETHEUS = [
    ("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"),
    ("/metrics", "text/plain;version=0.0.4"),
    ("/metrics?format=prometheus", "*/*"),
]


@pytest.mark.parametrize(("path", "accept_header"), PROMETHEUS)
def test_prometheus_gets_its_own_text(runtime: Runtime, client: FlaskClient, path: str, accept_header: str) -> None:
    all_processes(runtime)
    one_of_everything(runtime)

    response = client.get(path, headers={"Accept": accept_header})

    assert response.content_type.startswith("text/plain; version=")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.get_data(as_text=True))
        for sample in family.samples
    }
    assert samples[("chargeapp_requests_total",)] == 2
    assert samples[("chargeapp_decisions_total", "allowed")] == 1
    assert samples[("chargeapp_callbacks_total", "succeeded")] == 1
    assert samples[("chargeapp_queue_size",)] == 1
    assert samples[("chargeapp_workers", "callbacks")] == 1
    assert samples[("chargeapp_circuit_breaker_open",)] == 0
    assert samples[("chargeapp_relay_last_seen_seconds",)] < 60


def samples_of(client: FlaskClient) -> dict[tuple[str, ...], float]:
    text = client.get("/metrics?format=prometheus").get_data(as_text=True)
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_prometheus_is_told_whether_requests_can_be_accepted(runtime: Runtime, client: FlaskClient) -> None:
    assert samples_of(client)[("chargeapp_accepting",)] == 1

    other = sqlite.connect(runtime.database.path)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        found = samples_of(client)

    assert found[("chargeapp_accepting",)] == 0
    assert found[("chargeapp_requests_total",)] == 0


def test_prometheus_is_told_whether_redis_answers(client: FlaskClient, without_redis: Runtime) -> None:
    assert samples_of(client)[("chargeapp_redis_up",)] == 1
    assert samples_of(client_of(without_redis))[("chargeapp_redis_up",)] == 0


def test_a_row_that_is_due_gets_older_and_one_that_waits_for_its_retry_does_not(
    runtime: Runtime, client: FlaskClient
) -> None:
    accept(runtime.database, now=utcnow() - seconds(60))
    found = samples_of(client)
    assert found[("chargeapp_oldest_due_seconds", "authorization")] > 59
    assert found[("chargeapp_oldest_due_seconds", "callbacks")] == 0

    decide(runtime.database, now=utcnow())
    attempt(runtime.database, FAILED, utcnow() + seconds(30))
    found = samples_of(client)
    assert found[("chargeapp_outbox_rows_waiting", "callbacks")] == 1
    assert found[("chargeapp_oldest_due_seconds", "callbacks")] == 0


def test_the_age_of_a_relay_that_never_ran_is_not_made_up(client: FlaskClient) -> None:
    assert "chargeapp_relay_last_seen_seconds" not in client.get("/metrics?format=prometheus").get_data(as_text=True)
    assert client.get("/metrics").get_json()["relay_last_seen_seconds"] is None


def test_health_and_metrics_can_be_switched_off(tmp_path: Path) -> None:
    with new_runtime(tmp_path, monitoring_health_check_enabled=False, monitoring_metrics_enabled=False) as runtime:
        client = client_of(runtime)
        assert [client.get(path).status_code for path in ("/health", "/health/live", "/metrics")] == [404] * 3


class Links(HTMLParser):
    """What a page loads or runs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.loaded += [value for name in ("src", "href") if tag != "a" and (value := given.get(name))]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]


def test_the_console_shows_what_happened_last_and_masks_the_driver(runtime: Runtime, client: FlaskClient) -> None:
    one_of_everything(runtime)

    response = client.get("/")

    page = response.get_data(as_text=True)
    assert response.status_code == 200
    assert "delivered" in page
    assert "DRIV…6789" in page
    assert TOKEN not in page


def test_the_console_of_an_empty_database_says_what_to_do(client: FlaskClient) -> None:
    assert "No requests yet" in client.get("/").get_data(as_text=True)


def test_the_console_keeps_to_a_strict_content_security_policy(runtime: Runtime, client: FlaskClient) -> None:
    one_of_everything(runtime)

    response = client.get("/")

    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    links = Links(response.get_data(as_text=True))
    assert links.inline == []
    assert "style" not in links.tags
    assert links.loaded
    assert all(link.startswith("/static/") for link in links.loaded)
    for link in links.loaded:
        with client.get(link) as loaded:
            assert loaded.status_code == 200


def test_what_a_caller_sent_is_shown_as_text(runtime: Runtime, client: FlaskClient) -> None:
    accept(runtime.database, token_masked="<script>alert(1)</script>")

    assert "<script>" not in client.get("/").get_data(as_text=True)
