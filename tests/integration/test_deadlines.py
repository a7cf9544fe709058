"""No silence: whoever died, every request is decided by its deadline and ends soon after it expired."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.builders import (
    DELIVERED,
    FAILED,
    Callbacks,
    Deliveries,
    Requests,
    accept,
    attempt,
    begin_callbacks,
    change,
    decide,
    end,
    facts,
    just_now,
    new_runtime,
    only_row,
    record,
    rows,
    seconds,
    the_request,
)

from chargeapp.clock import utcnow
from chargeapp.domain.retry_policy import RetryPolicy
from chargeapp.relay import DECISION_GRACE, Pass
from chargeapp.runtime import RECORDING_GRACE_SECONDS, Runtime
from chargeapp.services.delivery_events import expire_overdue
from chargeapp.storage import outbox

ONE_TRY = RetryPolicy(max_retries=0, first_delay_seconds=1, rounds_seconds=(30,))


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """Redis is not there, and is not needed."""
    with new_runtime(tmp_path) as runtime, capture_logs():
        yield runtime


def watch(runtime: Runtime) -> Pass:
    done = Pass()
    runtime.relay.watch_deadlines(done)
    return done


def asked(runtime: Runtime, seconds_ago: float, **changes: object) -> str:
    (request_id,) = accept(runtime.database, now=utcnow() - seconds(seconds_ago), **changes)
    return request_id


def decided(runtime: Runtime, seconds_ago: float, **changes: object) -> str:
    request_id = asked(runtime, seconds_ago, **changes)
    decide(runtime.database, now=utcnow() - seconds(seconds_ago))
    return request_id


def expire(runtime: Runtime) -> int:
    now = utcnow()
    return change(runtime.database, lambda session: expire_overdue(session, now, now))


def test_what_nobody_decided_in_time_the_relay_decides_as_unknown(runtime: Runtime) -> None:
    request_id = asked(runtime, DECISION_GRACE.total_seconds() + 30.1)

    assert watch(runtime).decided_by_deadline == 1

    request = the_request(runtime.database, request_id)
    assert (request.decision, request.reason, request.source) == ("unknown", "authorization_timeout", "deadline")
    assert only_row(runtime.database, Callbacks).request_id == request_id


def test_a_job_has_a_moment_to_record_its_decision_itself(runtime: Runtime) -> None:
    asked(runtime, 30.1)

    assert watch(runtime).decided_by_deadline == 0


def test_a_dead_letter_does_not_keep_its_request_from_a_decision(runtime: Runtime) -> None:
    request_id = asked(runtime, 40)
    with runtime.database.writing() as session:
        (row,) = outbox.claim_and_take(session, Requests, job_id="job", limit=1, now=utcnow())
        outbox.bury(session, Requests, row.ticket, "TokenUnreadable", utcnow())

    watch(runtime)

    assert the_request(runtime.database, request_id).decision == "unknown"


def test_a_request_that_expired_without_an_end_is_ended(runtime: Runtime) -> None:
    grace = runtime.settings.callback_timeout_seconds + RECORDING_GRACE_SECONDS
    request_id = decided(runtime, 60 + grace + 0.1, ttl_seconds=60)

    assert watch(runtime).expired == 1
    end(runtime.database, utcnow())

    request = the_request(runtime.database, request_id)
    assert request.state == "expired"
    assert [fact.type for fact in facts(runtime.database, request_id) if fact.terminal] == ["CallbackDeliveryFailed"]
    assert only_row(runtime.database, Callbacks).settled_at is not None


def test_a_callback_under_way_has_the_time_to_be_recorded(runtime: Runtime) -> None:
    decided(runtime, 61, ttl_seconds=60)

    assert watch(runtime).expired == 0


def test_a_request_is_told_to_have_expired_once(runtime: Runtime) -> None:
    decided(runtime, 61, ttl_seconds=60)

    assert expire(runtime) == 1
    assert expire(runtime) == 0
    assert len(rows(runtime.database, Deliveries)) == 1


def test_a_request_whose_end_is_on_its_way_does_not_expire(runtime: Runtime) -> None:
    decided(runtime, 61, ttl_seconds=60)
    attempt(runtime.database, DELIVERED, utcnow() - seconds(30))

    assert expire(runtime) == 0


def test_an_ended_request_does_not_expire(runtime: Runtime) -> None:
    decided(runtime, 61, ttl_seconds=60)
    attempt(runtime.database, DELIVERED, utcnow() - seconds(30))
    end(runtime.database, utcnow())

    assert expire(runtime) == 0


def test_an_undecided_request_is_decided_before_it_can_expire(runtime: Runtime) -> None:
    request_id = asked(runtime, 100, ttl_seconds=60)

    assert expire(runtime) == 0
    done = watch(runtime)

    assert (done.decided_by_deadline, done.expired) == (1, 1)
    end(runtime.database, utcnow())
    assert the_request(runtime.database, request_id).state == "expired"


def test_a_next_round_that_nobody_began_is_given_up_when_the_request_expired(runtime: Runtime) -> None:
    request_id = decided(runtime, 62, ttl_seconds=60)
    attempt(runtime.database, FAILED, utcnow() - seconds(61.5), ONE_TRY)
    end(runtime.database, utcnow() - seconds(61), ONE_TRY)

    assert expire(runtime) == 1
    end(runtime.database, utcnow())

    assert the_request(runtime.database, request_id).state == "expired"
    assert all(row.settled_at for row in rows(runtime.database, Callbacks))


def test_the_result_of_a_callback_that_was_given_up_is_noted_only(runtime: Runtime) -> None:
    request_id = decided(runtime, 61, ttl_seconds=60)
    under_way = begin_callbacks(runtime.database, utcnow() - seconds(30))
    expire(runtime)

    record(runtime.database, under_way, DELIVERED, utcnow())
    end(runtime.database, utcnow())

    assert the_request(runtime.database, request_id).state == "expired"
    assert len(facts(runtime.database, request_id, "LateResultDiscarded")) == 1


def test_a_dead_letter_is_kept_when_its_request_expires(runtime: Runtime) -> None:
    decided(runtime, 61, ttl_seconds=60)
    with runtime.database.writing() as session:
        (row,) = outbox.claim_and_take(session, Callbacks, job_id="job", limit=1, now=just_now())
        outbox.bury(session, Callbacks, row.ticket, "TokenUnreadable", utcnow())

    assert expire(runtime) == 1

    row = only_row(runtime.database, Callbacks)
    assert (row.settled_at, row.last_error) == (None, "TokenUnreadable")
