"""Forgetting: what is old goes bite by bite, what is needed stays, and totals stay what they were."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs
from support.builders import (
    NOW,
    Callbacks,
    Deliveries,
    Requests,
    accept,
    attempt,
    change,
    claim_and_take,
    decide,
    end,
    new_runtime,
    rows,
    seconds,
    the_request,
)

from chargeapp import relay as relay_module
from chargeapp.clock import utcnow
from chargeapp.runtime import Runtime
from chargeapp.services.redeliveries import redeliver
from chargeapp.services.retention import (
    MINUTES_KEPT,
    QUARTERS_KEPT,
    SUMMED_UP_AT,
    Forgotten,
    Retention,
    count_purgeable,
    forget,
    sum_up_old_minutes,
)
from chargeapp.storage import outbox, tallies
from chargeapp.storage.database import Database
from chargeapp.storage.models import EventRecord, IdempotencyKey, SessionRequest, Tally

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
RETENTION = Retention(requests=30 * DAY, driver_tokens=24 * HOUR)
LATER = NOW + 30 * DAY + seconds(1)


def ended(database: Database, number: int = 1, **changes: Any) -> list[str]:
    """So many delivered requests."""
    ids = accept(database, number, **changes)
    decide(database)
    attempt(database)
    end(database)
    return ids


def bite(database: Database, now: Any = LATER, limit: int = 500, retention: Retention = RETENTION) -> Forgotten:
    found: Forgotten = change(database, lambda session: forget(session, retention, now, limit))
    return found


def left(database: Database, table: type[Any]) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def purgeable(database: Database, now: Any = LATER) -> int:
    with database.reading() as session:
        return count_purgeable(session, RETENTION, now)


def test_a_request_goes_with_all_that_belongs_to_it_and_not_before_its_time(database: Database) -> None:
    ended(database, idempotency_key="key")

    assert bite(database, NOW + 30 * DAY).requests == 0
    assert bite(database).requests == 1

    assert [left(database, each) for each in (SessionRequest, EventRecord, Requests, Callbacks, Deliveries)] == [0] * 5


def test_it_is_removed_in_bites(database: Database) -> None:
    ended(database, 25)

    bites = [bite(database, limit=10).requests for _ in range(4)]

    assert bites == [10, 10, 5, 0]


def test_the_dry_run_counts_what_all_bites_remove(database: Database) -> None:
    ended(database, 7)
    accept(database, 2)

    assert purgeable(database) == 7
    assert bite(database).requests == 7
    assert purgeable(database) == 0


@pytest.mark.parametrize("steps", [(), (decide,), (decide, attempt)], ids=["accepted", "decided", "delivered"])
def test_a_request_that_has_not_ended_is_never_removed(database: Database, steps: Any) -> None:
    (request_id,) = accept(database)
    for step in steps:
        step(database)

    assert purgeable(database, NOW + 1000 * DAY) == 0
    assert not replace(bite(database, NOW + 1000 * DAY), idempotency_keys=0)
    assert the_request(database, request_id).token_sealed is not None


def test_a_request_whose_callback_is_being_sent_again_is_not_removed(database: Database) -> None:
    (request_id,) = ended(database)
    send_again(database, request_id)

    assert purgeable(database) == 0
    assert bite(database).requests == 0

    attempt(database, now=LATER)
    assert bite(database).requests == 0  # its end has not been recorded
    end(database, now=LATER)
    assert bite(database).requests == 1


def send_again(database: Database, request_id: str) -> None:
    def work(session: Session) -> None:
        redeliver(session, session.get_one(SessionRequest, request_id), 900, LATER - seconds(2))

    change(database, work)


def test_a_dead_letter_of_an_ended_request_goes_with_it(database: Database) -> None:
    (request_id,) = ended(database)
    send_again(database, request_id)
    (ticket,) = claim_and_take(database, Callbacks, LATER)
    change(database, lambda session: outbox.bury(session, Callbacks, ticket, "cannot be read", LATER))

    assert bite(database).requests == 1


def test_a_recent_request_stays_beside_an_old_one(database: Database) -> None:
    ended(database)
    (recent,) = accept(database, now=LATER - DAY)
    decide(database, now=LATER - DAY)
    attempt(database, now=LATER - DAY)
    end(database, now=LATER - DAY)

    assert bite(database).requests == 1
    assert [each.id for each in rows(database, SessionRequest)] == [recent]


def test_driver_tokens_are_erased_first(database: Database) -> None:
    (request_id,) = ended(database)

    assert bite(database, NOW + 24 * HOUR).driver_tokens == 0
    assert bite(database, NOW + 24 * HOUR + seconds(1)) == Forgotten(0, 1, 0)
    assert the_request(database, request_id).token_sealed is None
    assert not bite(database, NOW + 24 * HOUR + seconds(1))


def test_keys_are_remembered_for_24_hours_and_then_forgotten(database: Database) -> None:
    for number in range(3):
        accept(database, idempotency_key=f"key-{number}")

    assert bite(database, NOW + 24 * HOUR).idempotency_keys == 0
    bites = [bite(database, NOW + 24 * HOUR + seconds(1), limit=2).idempotency_keys for _ in range(3)]

    assert bites == [2, 1, 0]
    assert left(database, IdempotencyKey) == 0
    assert left(database, SessionRequest) == 3


def count(database: Database, at: Any, name: str = "requests", times: int = 1, millis: int = 0) -> None:
    def work(session: Session) -> None:
        counter = tallies.Counter()
        counter.count(name, times, millis)
        counter.write(session, at)

    change(database, work)


def totals(database: Database) -> dict[str, tuple[int, int]]:
    with database.reading() as session:
        found = session.execute(
            select(Tally.name, func.sum(Tally.count), func.sum(Tally.millis)).group_by(Tally.name)
        ).all()
    return {name: (int(times), int(millis)) for name, times, millis in found}


def sum_up(database: Database, now: datetime) -> int:
    """In how many bites."""
    bites = 0
    while change(database, lambda session: sum_up_old_minutes(session, now)):
        bites += 1
    return bites


def test_old_minutes_are_summed_up_and_totals_stay(database: Database) -> None:
    for minutes in range(10):
        count(database, NOW - QUARTERS_KEPT - timedelta(minutes=minutes + 15), times=minutes + 1, millis=7)
        count(database, NOW - QUARTERS_KEPT - timedelta(minutes=minutes + 15), name="callback")
    count(database, NOW, times=5)
    before = totals(database)

    sum_up(database, NOW)

    assert totals(database) == before == {"requests": (60, 70), "callback": (10, 0)}
    with database.reading() as session:
        minutes = session.execute(select(Tally.name, Tally.minute).order_by(Tally.name, Tally.minute)).all()
    recent = NOW.replace(second=0, microsecond=0)
    assert list(map(tuple, minutes)) == [("callback", SUMMED_UP_AT), ("requests", SUMMED_UP_AT), ("requests", recent)]


def test_minutes_become_quarters_of_an_hour_first(database: Database) -> None:
    now = datetime(2026, 1, 2, 12, 7, tzinfo=UTC)
    for minutes in range(4 * 60):
        count(database, now - timedelta(minutes=minutes), millis=3)
    before = totals(database)

    for _ in range(2):
        sum_up(database, now)

        with database.reading() as session:
            kept = {each.minute: (each.count, each.millis) for each in session.scalars(select(Tally))}
        # From 10:00 on minutes, before that quarters, of which the first one begins where the counting began.
        quarters = [minute for minute in sorted(kept) if minute < now - MINUTES_KEPT - timedelta(minutes=7)]
        assert totals(database) == before == {"requests": (240, 720)}
        assert [f"{each:%H:%M}" for each in quarters] == [
            f"{hour:02}:{at:02}" for hour in (8, 9) for at in (0, 15, 30, 45)
        ]
        assert kept[quarters[0]] == (7, 21)
        assert kept[quarters[1]] == (15, 45)
        assert len(kept) == 8 + 128


def test_summing_up_again_adds_only_what_is_new(database: Database) -> None:
    for day in range(3):
        count(database, NOW + day * DAY, times=10)
        sum_up(database, NOW + day * DAY + QUARTERS_KEPT + HOUR)
        sum_up(database, NOW + day * DAY + QUARTERS_KEPT + HOUR)

        assert totals(database) == {"requests": (10 * (day + 1), 0)}
        assert left(database, Tally) == 1


def test_a_long_time_is_summed_up_in_bites(database: Database) -> None:
    for hour in range(12):
        count(database, NOW - QUARTERS_KEPT - (hour + 1) * HOUR)

    assert sum_up(database, NOW) == 6
    assert totals(database) == {"requests": (12, 0)}
    assert left(database, Tally) == 1


def test_totals_survive_their_requests(database: Database) -> None:
    ended(database, 3)
    before = totals(database)

    bite(database)
    sum_up(database, LATER)

    assert left(database, SessionRequest) == 0
    assert totals(database) == before


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with new_runtime(tmp_path) as runtime, capture_logs():
        yield runtime


def test_the_relay_forgets_everything_in_several_transactions(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "ROWS_A_BITE", 2)
    long_ago = utcnow() - 31 * DAY
    accept(runtime.database, 5, now=long_ago)
    decide(runtime.database, now=long_ago)
    attempt(runtime.database, now=long_ago)
    end(runtime.database, now=long_ago)

    total = runtime.relay.forget()

    assert total.requests == 5
    assert left(runtime.database, SessionRequest) == 0
    # The minutes in which all that was counted are summed up at the end.
    with runtime.database.reading() as session:
        assert set(session.scalars(select(Tally.minute))) == {SUMMED_UP_AT}


def test_one_pass_of_the_relay_forgets_no_more_than_its_bites(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "ROWS_A_BITE", 2)
    monkeypatch.setattr(relay_module, "BITES", 2)
    long_ago = utcnow() - 31 * DAY
    accept(runtime.database, 5, now=long_ago)
    decide(runtime.database, now=long_ago)
    attempt(runtime.database, now=long_ago)
    end(runtime.database, now=long_ago)

    assert [runtime.relay.forget().requests for _ in range(3)] == [4, 1, 0]
    assert left(runtime.database, SessionRequest) == 0
