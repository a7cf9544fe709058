"""Figures say what was done, over all processes."""

import pytest
from support.builders import (
    DELIVERED,
    FAILED,
    NOW,
    Requests,
    accept,
    attempt,
    change,
    claim_and_take,
    decide,
    end,
    seconds,
)

from chargeapp import reports
from chargeapp.domain.authorization import Answer
from chargeapp.domain.charging_session import Decision, Reason
from chargeapp.reports import Figures
from chargeapp.storage import heartbeats, outbox, tallies
from chargeapp.storage.database import Database

ELSEWHERE = "00000000-0000-4000-8000-000000000000"


def figures(database: Database, now=NOW) -> Figures:
    with database.reading() as session:
        return reports.figures(session, now)


def time_calls(database: Database, *millis: int, now=NOW) -> None:
    counter = tallies.Counter()
    for each in millis:
        counter.time("callback", each)
    change(database, lambda session: counter.write(session, now))


def beat(database: Database, process: str, at=NOW, note: str = "") -> None:
    change(database, lambda session: heartbeats.beat(session, process, at, note))


def processes(database: Database) -> reports.Processes:
    with database.reading() as session:
        return reports.processes(session, NOW)


def test_the_figures_of_an_empty_database_are_zero(database: Database) -> None:
    found = figures(database)

    assert found.totals == {"requests": 0}
    assert found.decisions == {"allowed": 0, "not_allowed": 0, "unknown": 0, "invalid": 0}
    assert found.ended == {"delivered": 0, "failed": 0, "expired": 0}
    assert (found.queue_size, found.oldest_waiting_seconds) == (0, 0.0)
    assert (found.authorization.mean_millis, found.authorization.p95_millis) == (0.0, 0.0)


def test_the_figures_equal_what_was_done(database: Database) -> None:
    accept(database, 2)
    decide(database, Answer(Decision.ALLOWED, None, "access_list", millis=10))
    attempt(database, FAILED)
    attempt(database, DELIVERED, NOW + seconds(2))
    end(database, NOW + seconds(3))
    accept(database, 1, now=NOW + seconds(10))
    decide(
        database,
        Answer(Decision.UNKNOWN, Reason.AUTHORIZATION_TIMEOUT, "authorization_service", millis=40),
        NOW + seconds(11),
    )
    accept(database, 4, now=NOW + seconds(20))

    found = figures(database, NOW + seconds(50))

    assert found.totals == {"requests": 7}
    assert found.decisions == {"allowed": 2, "not_allowed": 0, "unknown": 1, "invalid": 0}
    assert found.ended == {"delivered": 2, "failed": 0, "expired": 0}
    assert (found.callbacks_succeeded, found.callbacks_failed) == (2, 2)
    assert found.authorization_errors == 1
    assert (found.authorization.count, found.authorization.mean_millis) == (3, 20.0)
    assert (found.callback.count, found.callback.mean_millis) == (4, 12.0)
    assert found.queue_size == 4
    assert found.backlog == {"authorization": 4, "callbacks": 1, "delivery-events": 0}
    assert found.oldest_waiting_seconds == 30.0


def test_dead_letters_are_counted_apart_from_what_waits(database: Database) -> None:
    accept(database, 2)
    first, _ = claim_and_take(database, Requests)
    change(database, lambda session: outbox.bury(session, Requests, first, "TokenUnreadable", NOW))

    found = figures(database)

    assert found.dead_letters == {"authorization": 1, "callbacks": 0, "delivery-events": 0}
    assert found.backlog["authorization"] == 1


@pytest.mark.parametrize(
    ("millis", "p95"),
    [
        ([3] * 100, 5),
        ([3] * 95 + [400] * 5, 5),
        ([3] * 94 + [400] * 6, 500),
        ([5], 5),
        ([6], 10),
        ([99_999], 30_000),
    ],
)
def test_the_95th_percentile_is_the_bound_of_its_bucket(database: Database, millis: list[int], p95: float) -> None:
    time_calls(database, *millis)

    assert figures(database).callback.p95_millis == p95


def test_the_95th_percentile_is_that_of_the_last_hour(database: Database) -> None:
    time_calls(database, *[400] * 100, now=NOW - seconds(3700))
    time_calls(database, 3)

    assert figures(database).callback.p95_millis == 5
    assert figures(database).callback.count == 101


def test_counts_of_one_minute_add_up_over_transactions(database: Database) -> None:
    for _ in range(3):
        time_calls(database, 4, 6)

    assert (figures(database).callback.count, figures(database).callback.mean_millis) == (6, 5.0)


def test_workers_count_while_their_heart_beats(database: Database) -> None:
    beat(database, "worker callbacks host 1")
    beat(database, "worker callbacks host 2", NOW - seconds(29))
    beat(database, "worker callbacks host 3", NOW - seconds(31))
    beat(database, "worker authorization host 4", note="closed")

    found = processes(database)

    assert found.workers == {"authorization": 1, "callbacks": 2, "delivery-events": 0}
    assert found.circuit_breaker == "closed"


def test_one_open_breaker_shows(database: Database) -> None:
    beat(database, "worker authorization host 1", note="open")
    beat(database, "worker authorization host 2", note="closed")

    assert processes(database).circuit_breaker == "open"


@pytest.mark.parametrize(("age", "alive"), [(None, False), (89, True), (90, False)])
def test_a_relay_counts_as_missing_after_a_minute_and_a_half(database: Database, age: float, alive: bool) -> None:
    if age is not None:
        beat(database, "relay", NOW - seconds(age))

    assert processes(database).relay_alive is alive
    assert processes(database).relay_age_seconds == age


def test_a_timeline_is_in_the_order_of_writing(database: Database) -> None:
    (request_id,) = accept(database)
    decide(database)
    attempt(database)
    end(database)

    with database.reading() as session:
        timeline = reports.timeline(session, request_id)

    assert [each["type"] for each in timeline] == [
        "RequestAccepted",
        "AuthorizationDecided",
        "CallbackAttempted",
        "CallbackDeliverySucceeded",
    ]
    assert timeline[1]["decision"] == "allowed"
    assert timeline[0]["at"] == NOW.isoformat()


def test_the_latest_requests_come_newest_first(database: Database) -> None:
    ids = [accept(database, now=NOW + seconds(number))[0] for number in range(5)]
    with database.reading() as session:
        found = reports.latest_requests(session, 3)

    assert [each.id for each in found] == ids[:1:-1]
