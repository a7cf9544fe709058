"""One trace for each request, from POST to callback over all processes, at a real collector or at none."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deployment import Deployment, free_port, stop
from servers import AuthorizationStub, Receiver
from support.trace_collector import TraceCollector, TracedSpan

DRIVER = "driver-token-of-tracing-1"
CALLER_TRACE, CALLER_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"}
NEVER = "3600000"
ONE_REQUEST = ("accept", "authorization", "POST", "callback", "POST", "delivery")


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    collector = TraceCollector()
    yield collector
    collector.close()


@pytest.fixture
def service() -> Iterator[AuthorizationStub]:
    service = AuthorizationStub()
    yield service
    service.close()


def submit(deployment: Deployment, callback_url: str) -> str:
    body = {
        "stationId": "123e4567-e89b-12d3-a456-426614174000",
        "driverToken": DRIVER,
        "callbackUrl": callback_url,
    }
    return str(deployment.post(json=body, headers=TRACEPARENT).json()["requestId"])


def named(spans: list[TracedSpan], name: str) -> list[TracedSpan]:
    return [each for each in spans if each.name == name]


def traceparent(span: TracedSpan) -> str:
    return f"00-{span.trace_id}-{span.span_id}-"


def test_one_post_is_one_trace_over_all_processes(
    data_dir: Callable[[], Path], receiver: Receiver, service: AuthorizationStub, collector: TraceCollector
) -> None:
    service.answers(DRIVER, 500, "allowed")
    path = receiver.path(503, 204)
    settings = {
        "AUTHORIZATION_SERVICE_URL": service.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "CALLBACK_RETRY_DELAY_MILLIS": "50",
    }
    with Deployment(data_dir(), **settings) as deployment:
        deployment.up()
        request_id = submit(deployment, receiver.url(path))
        deployment.wait_until(request_id, state="delivered")
        spans = collector.wait_for("accept", "authorization", *["POST"] * 4, "callback", "callback", "delivery")
        log = deployment.output()

    # Exactly one trace, and its name is the request's.
    assert {each.trace_id for each in spans} == {request_id.removeprefix("req-")}
    assert len(spans) == len({each.span_id for each in spans}) == 9
    (accept,), (authorization,), (delivery,) = (named(spans, name) for name in ("accept", "authorization", "delivery"))
    first, second = named(spans, "callback")
    tries, attempts = (
        [each for each in named(spans, "POST") if each.parent_id in parents]
        for parents in ({authorization.span_id}, {first.span_id, second.span_id})
    )
    # Parents.
    assert accept.parent_id == ""
    assert {each.parent_id for each in (authorization, first, second, delivery)} == {accept.span_id}
    assert [each.parent_id for each in attempts] == [first.span_id, second.span_id]
    # Who was called can continue the trace.
    assert [each.headers["traceparent"][:-2] for each in service.asked(DRIVER)] == [*map(traceparent, tries)]
    assert [each.headers["traceparent"][:-2] for each in receiver.at(path)] == [*map(traceparent, attempts)]
    # What happened.
    assert [each.attributes["http.response.status_code"] for each in tries] == [500, 200]
    assert [each.attributes["http.response.status_code"] for each in (first, second)] == [503, 204]
    assert [each.failed for each in (first, second)] == [True, False]
    assert authorization.attributes["chargeapp.tries"] == 2
    assert authorization.attributes["chargeapp.decision"] == "allowed"
    assert delivery.attributes["chargeapp.state"] == "delivered"
    # The caller's own trace is linked.
    assert accept.links == ((CALLER_TRACE, CALLER_SPAN),)
    # Four processes, one service, and the time goes forward.
    assert len({each.pid for each in (accept, authorization, first, delivery)}) == 4
    assert {each.service for each in spans} == {"chargeapp"}
    assert all(accept.began <= each.began <= each.ended for each in spans)
    # Nothing of the driver.
    assert not any(DRIVER[:8].encode() in body for body in collector.received)
    assert "tracing_failed" not in log


def test_what_was_not_sent_yet_is_sent_at_the_end(
    data_dir: Callable[[], Path], receiver: Receiver, service: AuthorizationStub, collector: TraceCollector
) -> None:
    service.answers(DRIVER, "allowed")
    settings = {
        "AUTHORIZATION_SERVICE_URL": service.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": NEVER,
    }
    with Deployment(data_dir(), **settings) as deployment:
        deployment.up()
        deployment.wait_until(submit(deployment, receiver.url(receiver.path())), state="delivered")
        assert collector.spans() == []

        stop(deployment.supervisor)

    assert sorted(each.name for each in collector.spans()) == sorted(ONE_REQUEST)


def test_without_its_collector_requests_go_on_as_ever(
    data_dir: Callable[[], Path], receiver: Receiver, service: AuthorizationStub
) -> None:
    service.answers(DRIVER, "allowed")
    settings = {
        "AUTHORIZATION_SERVICE_URL": service.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
        # A full queue must drop spans, not hold up requests.
        "OTEL_BSP_MAX_QUEUE_SIZE": "4",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2",
    }
    with Deployment(data_dir(), **settings) as deployment:
        deployment.up()
        accepted = [submit(deployment, receiver.url(receiver.path())) for _ in range(20)]
        for request_id in accepted:
            assert deployment.wait_until(request_id, state="delivered")["decision"] == "allowed"

        assert stop(deployment.supervisor) == 0
