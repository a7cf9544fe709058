"""The circuit breaker: closed, open, one probe, closed again."""

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Self

import pybreaker
import pytest
from support.builders import eventually

from chargeapp.outbound import circuit_breaker
from chargeapp.outbound.circuit_breaker import FAILURES, OPEN_SECONDS, CircuitBreaker


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker(open_seconds=0.1)


def fail(breaker: CircuitBreaker, times: int = FAILURES) -> None:
    for _ in range(times):
        assert breaker.admits()
        breaker.record(succeeded=False)


@pytest.fixture
def probing(breaker: CircuitBreaker) -> Iterator[CircuitBreaker]:
    """Open for long enough, and its probe is under way."""
    fail(breaker)
    eventually(breaker.admits)
    return breaker


def test_by_default_it_opens_after_5_failures_for_30_seconds() -> None:
    assert (FAILURES, OPEN_SECONDS) == (5, 30)


def test_four_failures_leave_it_closed(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)

    assert breaker.state == "closed"
    assert breaker.admits()


def test_the_fifth_consecutive_failure_opens_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 5)

    assert breaker.state == "open"
    assert not breaker.admits()


def test_a_success_begins_the_count_anew(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)
    breaker.record(succeeded=True)
    fail(breaker, 4)

    assert breaker.state == "closed"


def test_after_the_open_period_one_probe_is_let_through_and_no_other(probing: CircuitBreaker) -> None:
    assert [probing.admits() for _ in range(5)] == [False] * 5


def test_a_probe_that_succeeds_closes_it(probing: CircuitBreaker) -> None:
    probing.record(succeeded=True)

    assert probing.state == "closed"
    fail(probing, 4)
    assert probing.admits()


def test_a_probe_that_fails_opens_it_again_for_a_whole_period(probing: CircuitBreaker) -> None:
    probing.record(succeeded=False)

    assert probing.state == "open"
    assert not probing.admits()
    eventually(probing.admits)


def test_it_closes_in_time_after_the_clock_was_set_back(
    breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HourBack(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) - timedelta(hours=1)

    fail(breaker)
    for module in (pybreaker, circuit_breaker):
        monkeypatch.setattr(module, "datetime", HourBack, raising=False)
    eventually(breaker.admits)
    breaker.record(succeeded=True)

    assert breaker.state == "closed"


def test_a_call_that_began_before_it_opened_does_not_close_it(breaker: CircuitBreaker) -> None:
    assert breaker.admits()
    fail(breaker)

    breaker.record(succeeded=True)

    assert breaker.state == "open"


def test_calls_run_side_by_side() -> None:
    breaker = CircuitBreaker()
    together = threading.Barrier(8, timeout=5)
    arrived = []

    def call() -> None:
        assert breaker.admits()
        together.wait()  # passes only if all are in the middle of their call at once
        arrived.append(1)
        breaker.record(succeeded=True)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(arrived) == 8


def test_of_many_threads_one_makes_the_probe(breaker: CircuitBreaker) -> None:
    fail(breaker)
    threading.Event().wait(0.15)
    start, admitted = threading.Barrier(8), []

    def ask() -> None:
        start.wait()
        admitted.append(breaker.admits())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(admitted) == 1
