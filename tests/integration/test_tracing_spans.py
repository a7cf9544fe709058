"""What is told of a request to a collector of traces, what is not, and that nothing depends on it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.builders import (
    STATION,
    TOKEN,
    Deliveries,
    accept,
    attempt,
    claim_and_take,
    decide,
    just_now,
    new_runtime,
    own_rows,
)
from support.callers import open_api
from support.trace_collector import TraceCollector

from chargeapp.clock import utcnow
from chargeapp.config import Settings
from chargeapp.errors import MisconfiguredError
from chargeapp.otlp_tracing import OtlpTracing
from chargeapp.runtime import Runtime
from chargeapp.tracing import NO_TRACING
from jobs.authorization import Authorization
from jobs.delivery_events import DeliveryEvents

REQUEST_ID = "req-0199c0ffee00a1b2c3d4e5f60718293a"
WITHOUT_COLLECTOR = """
import sys
if sys.argv[2] == "without its packages":
    sys.modules["opentelemetry"] = None
import chargeapp.app, chargeapp.commands, jobs.worker
from chargeapp.config import load_settings
chargeapp.app.create_app(load_settings(environ={"CHARGEAPP_DATA_DIR": sys.argv[1]}))
tracing = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "chargeapp.otlp_tracing")
print([name for name in sys.modules if name.startswith(tracing)])
"""


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    collector = TraceCollector()
    yield collector
    collector.close()


@pytest.fixture
def runtime(tmp_path: Path, collector: TraceCollector) -> Iterator[Runtime]:
    with new_runtime(tmp_path, otel_exporter_otlp_endpoint=collector.url) as runtime:
        yield runtime
        runtime.tracing.flush()


def body() -> dict[str, str]:
    return {"stationId": STATION, "driverToken": TOKEN, "callbackUrl": "http://127.0.0.1:9/hook"}


@pytest.mark.parametrize("how", ["with its packages", "without its packages"])
def test_without_a_collector_all_starts_and_nothing_that_traces_is_imported(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", WITHOUT_COLLECTOR, tmp_path, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.stdout == "[]\n", done.stderr


def test_without_a_collector_calls_carry_no_header(tmp_path: Path) -> None:
    with new_runtime(tmp_path) as runtime:
        assert runtime.tracing is NO_TRACING
        with runtime.tracing.step("authorization", REQUEST_ID), runtime.tracing.call("caller.example", 443) as call:
            assert call.headers == {}


def test_a_collector_without_the_packages_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "chargeapp.otlp_tracing", raising=False)
    settings = Settings(chargeapp_data_dir=tmp_path, otel_exporter_otlp_endpoint="http://127.0.0.1:4318")

    with pytest.raises(MisconfiguredError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .*pip install 'chargeapp\[tracing\]'"):
        Runtime(settings).verify()


def test_a_request_that_is_refused_has_no_trace_and_one_repeated_has_one(
    runtime: Runtime, collector: TraceCollector
) -> None:
    client = open_api(runtime)
    tracing = client.application.extensions["tracing"]
    key = {"Idempotency-Key": "once"}

    assert client.post("/api/v1/charging-session", json={}).status_code == 400
    first, again = (client.post("/api/v1/charging-session", json=body(), headers=key) for _ in range(2))
    tracing.flush()

    assert first.json["requestId"] == again.json["requestId"]
    told, told_again = collector.spans()
    assert (told.name, told_again.name) == ("accept", "accept again")
    assert f"req-{told.trace_id}" == f"req-{told_again.trace_id}" == first.json["requestId"]
    assert told_again.parent_id == told.span_id == told.trace_id[16:]


@pytest.mark.parametrize("header", ["nonsense", "00-00000000000000000000000000000000-0000000000000000-01", ""])
def test_a_callers_header_that_is_no_trace_is_left_alone(
    runtime: Runtime, collector: TraceCollector, header: str
) -> None:
    runtime.tracing.accepted(REQUEST_ID, utcnow(), replayed=False, traceparent=header)
    runtime.tracing.flush()

    (told,) = collector.spans()
    assert told.links == ()
    assert told.trace_id == REQUEST_ID.removeprefix("req-")


def test_what_goes_wrong_is_told_by_its_kind_and_never_by_its_text(runtime: Runtime, collector: TraceCollector) -> None:
    with pytest.raises(ValueError, match=TOKEN), runtime.tracing.step("callback", REQUEST_ID):
        raise ValueError(TOKEN)
    runtime.tracing.flush()

    (told,) = collector.spans()
    assert (told.failed, told.why) == (True, "ValueError")
    assert TOKEN.encode() not in b"".join(collector.received)


def test_a_decision_nobody_made_is_told_as_a_failure(runtime: Runtime, collector: TraceCollector) -> None:
    """Its time is over before it is asked for."""
    accept(runtime.database, now=just_now(), vault=runtime.vault, decide_within_seconds=0)
    work = Authorization(runtime)
    tickets = claim_and_take(runtime.database, work.stage.outbox, utcnow())
    with runtime.database.writing() as session:
        (question,) = work.take(session, own_rows(session, work.stage.outbox, tickets), utcnow())

    work.perform(question)
    runtime.tracing.flush()

    (told,) = collector.spans()
    assert (told.name, told.failed, told.why) == ("authorization", True, "authorization_timeout")
    assert told.attributes["chargeapp.decision"] == "unknown"


def test_a_delivery_is_told_once_it_is_committed(runtime: Runtime, collector: TraceCollector) -> None:
    (request_id,) = accept(runtime.database, now=just_now())
    decide(runtime.database, now=utcnow())
    attempt(runtime.database, now=utcnow())
    work = DeliveryEvents(runtime)
    tickets = claim_and_take(runtime.database, Deliveries, utcnow())

    with pytest.raises(OSError, match="no room"), runtime.database.writing() as session:
        work.take(session, own_rows(session, Deliveries, tickets), utcnow())
        raise OSError("no room")
    with runtime.database.writing() as session:
        work.take(session, own_rows(session, Deliveries, tickets), utcnow())
    runtime.tracing.flush()

    (told,) = collector.spans()
    assert (told.name, told.attributes["chargeapp.state"]) == ("delivery", "delivered")
    assert f"req-{told.trace_id}" == request_id


@pytest.mark.parametrize(("ratio", "flags", "spans"), [("0", "00", 0), ("1", "01", 3)])
def test_all_of_a_trace_is_sampled_or_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, collector: TraceCollector, ratio: str, flags: str, spans: int
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    web, worker = (OtlpTracing(collector.url) for _ in range(2))

    web.accepted(REQUEST_ID, utcnow(), replayed=False, traceparent=None)
    with worker.step("callback", REQUEST_ID), worker.call("caller.example", 443) as call:
        header = call.headers["traceparent"]
    web.flush()
    worker.flush()

    assert int(header[-2:], 16) & 1 == int(flags, 16)
    assert len(collector.spans()) == spans


def test_the_collector_is_told_the_name_and_the_key_that_were_given(
    monkeypatch: pytest.MonkeyPatch, collector: TraceCollector
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chargeapp-north")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20key-of-the-collector")
    tracing = OtlpTracing(f"{collector.url}/")

    with tracing.step("callback", REQUEST_ID):
        pass
    tracing.flush()

    (told,) = collector.spans()
    assert told.service == "chargeapp-north"
    assert collector.keys == {"Bearer key-of-the-collector"}


def test_a_wrong_variable_of_opentelemetry_refuses_no_request(
    runtime: Runtime, collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "many")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    client = open_api(runtime)

    answer = client.post("/api/v1/charging-session", json=body())
    with runtime.tracing.step("callback", REQUEST_ID), runtime.tracing.call("caller.example", 443) as call:
        assert call.headers["traceparent"].endswith("-00")
    runtime.tracing.flush()

    assert answer.status_code == 200
    assert collector.spans() == []


def test_a_collector_that_hangs_does_not_keep_a_process_from_ending(
    collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chargeapp.otlp_tracing.FLUSH_SECONDS", 0.1)
    tracing = OtlpTracing(collector.url)
    with collector.hanging():
        with tracing.step("callback", REQUEST_ID):
            pass
        tracing.flush()

        assert collector.spans() == []
    collector.wait_for("callback")
