"""Writers side by side, as only PostgreSQL has them: each rule holds although nobody waits for the whole database."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from support.builders import (
    DELIVERED,
    NOW,
    POLICY,
    TOKEN,
    VAULT,
    Callbacks,
    Deliveries,
    Requests,
    accept,
    attempt,
    begin_callbacks,
    change,
    claim,
    claim_and_take,
    decide,
    end,
    eventually,
    facts,
    new_database,
    new_request,
    own_rows,
    rows,
    seconds,
    the_request,
)
from support.postgres_server import PostgresServer

from chargeapp.commands.followed_events import Tail
from chargeapp.errors import DatabaseUnavailable
from chargeapp.services.authorization_decisions import decide_overdue
from chargeapp.services.callback_deliveries import Attempt, record_attempts
from chargeapp.services.clock_changes import follow_clock_back
from chargeapp.services.delivery_events import expire_overdue, record_delivery_events
from chargeapp.services.driver_tokens import erase_driver
from chargeapp.services.queue_limit import QueueLimit
from chargeapp.services.redeliveries import RedeliveryRefused, redeliver
from chargeapp.services.retention import sum_up_old_minutes
from chargeapp.services.session_requests import Acknowledgement, IdempotencyKeyReused, request_charging_sessions
from chargeapp.storage import heartbeats, outbox, timeline
from chargeapp.storage.database import Database
from chargeapp.storage.models import IdempotencyKey, SessionRequest, Tally
from chargeapp.storage.tallies import Counter

Work = Callable[[Session], Any]
LATE = NOW + seconds(901)


@pytest.fixture
def database(postgres: PostgresServer, tmp_path: Path) -> Iterator[Database]:
    with postgres.new_database() as url, new_database(tmp_path, url) as database:
        yield database


def one_runs_into_the_other(database: Database, first: Work, second: Work) -> tuple[Any, Any]:
    """`first` has done its work and not committed when `second` begins; what they returned, or what `second` raised."""
    with ThreadPoolExecutor(1) as pool:
        with database.writing() as session:
            done = first(session)
            later = pool.submit(change, database, second)
            eventually(lambda: later.done() or anybody_waits(database), "it neither waits nor ends")
        error = later.exception(10)
    return done, error or later.result()


def without_waiting(work: Work) -> Work:
    """Raises DatabaseUnavailable if it had to wait for a lock."""

    def hurried(session: Session) -> Any:
        session.execute(text("SET LOCAL lock_timeout TO 1"))
        return work(session)

    return hurried


def anybody_waits(database: Database) -> bool:
    waiting = text("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
    with database.reading() as session:
        return session.scalar(waiting) is not None


def test_rows_that_another_is_claiming_are_skipped_and_not_waited_for(database: Database) -> None:
    accept(database, 4)

    def two(session: Session) -> list[int]:
        return [each.row_id for each in outbox.claim_due(session, Requests, job_id="job", limit=2, now=NOW)]

    assert one_runs_into_the_other(database, two, without_waiting(two)) == ([1, 2], [3, 4])


def test_of_two_jobs_with_the_same_tickets_only_the_first_begins(database: Database) -> None:
    accept(database, 3)
    tickets = claim(database, Requests)

    first, second = one_runs_into_the_other(
        database,
        lambda session: outbox.take(session, Requests, tickets, NOW),
        lambda session: outbox.take(session, Requests, tickets[::-1], NOW),
    )

    assert ([row.ticket for row in first], second) == (tickets, [])


def test_a_result_that_comes_while_another_is_recorded_is_fenced(database: Database) -> None:
    accept(database, 2)
    tickets = claim_and_take(database, Requests)

    def settle(session: Session) -> int:
        own = outbox.own_rows(session, Requests, tickets)
        outbox.settle(session, Requests, list(own), NOW)
        return len(own)

    assert one_runs_into_the_other(database, settle, settle) == (2, 0)


def test_a_row_that_a_job_begins_with_just_now_is_not_lost(database: Database) -> None:
    accept(database)
    tickets = claim(database, Requests, job_id="slow")

    _, released = one_runs_into_the_other(
        database,
        lambda session: outbox.take(session, Requests, tickets, NOW),
        without_waiting(lambda session: outbox.release_lost(session, Requests, ["slow"])),
    )

    assert released == 0


def test_two_writers_with_the_same_keys_in_another_order_do_not_wait_in_a_circle(database: Database) -> None:
    def request(*keys: str) -> Work:
        wanted = [new_request(idempotency_key=key) for key in keys]
        return lambda session: request_charging_sessions(session, wanted, limit=QueueLimit(10), now=NOW)

    with ThreadPoolExecutor(1) as pool:
        with database.writing() as session:
            request("a")(session)
            later = pool.submit(change, database, request("b", "a"))
            eventually(lambda: anybody_waits(database), "it does not wait")
            request("b")(session)
        answers = later.result(10)

    assert [each.replayed for each in answers] == [True, True]


@pytest.mark.parametrize("body", ["the same", "another"])
def test_one_idempotency_key_is_one_request(database: Database, body: str) -> None:
    def ask(hash_: str) -> Work:
        new = new_request(idempotency_key="key", body_hash=hash_)
        return lambda session: request_charging_sessions(session, [new], limit=QueueLimit(10), now=NOW)

    ((first,), (second,)) = one_runs_into_the_other(database, ask("the same"), ask(body))

    if body == "the same":
        assert second == Acknowledgement(first.request_id, NOW, replayed=True)
    else:
        assert isinstance(second, IdempotencyKeyReused)
    assert [each.id for each in rows(database, SessionRequest)] == [first.request_id]
    with database.reading() as session:
        assert session.scalars(select(IdempotencyKey.request_id)).all() == [first.request_id]


def test_two_relays_decide_an_overdue_request_once(database: Database) -> None:
    accept(database, 3)

    def decide_late(session: Session) -> int:
        return decide_overdue(session, LATE, LATE)

    assert one_runs_into_the_other(database, decide_late, decide_late) == (3, 0)
    assert len(rows(database, Callbacks)) == 3


def test_two_relays_end_an_expired_request_once(database: Database) -> None:
    accept(database, 3)
    decide(database)
    for ticket in claim(database, Callbacks):
        change(database, lambda session, dead=ticket: outbox.bury(session, Callbacks, dead, "Broken", NOW))

    def expire(session: Session) -> int:
        return expire_overdue(session, LATE, LATE)

    assert one_runs_into_the_other(database, expire, expire) == (3, 0)
    assert len(rows(database, Deliveries)) == 3


def test_what_a_job_delivers_at_the_last_moment_does_not_expire_too(database: Database) -> None:
    accept(database)
    decide(database)
    callbacks = begin_callbacks(database)

    def record(session: Session) -> None:
        record_attempts(session, [Attempt(each, DELIVERED, LATE) for each in callbacks], POLICY, LATE)

    _, expired = one_runs_into_the_other(database, record, lambda session: expire_overdue(session, LATE, LATE))

    assert expired == 0
    assert [each.type for each in rows(database, Deliveries)] == ["CallbackDeliverySucceeded"]


def test_of_two_ends_of_a_request_only_the_first_is_terminal(database: Database) -> None:
    (request_id,) = accept(database)
    decide(database)
    attempt(database)
    draft = outbox.Draft(request_id, "CallbackDeliveryFailed", {"reason": "expired", "final": True}, NOW)
    change(database, lambda session: outbox.put(session, Deliveries, [draft], NOW))
    tickets = claim_and_take(database, Deliveries)

    _, trouble = one_runs_into_the_other(
        database,
        lambda session: record_delivery_events(session, own_rows(session, Deliveries, tickets[:1]), POLICY, NOW),
        lambda session: record_delivery_events(session, own_rows(session, Deliveries, tickets[1:]), POLICY, NOW),
    )

    assert not isinstance(trouble, Exception)
    assert [each.type for each in facts(database, request_id) if each.terminal] == ["CallbackDeliverySucceeded"]
    assert the_request(database, request_id).state == "delivered"


def delivered(database: Database) -> str:
    (request_id,) = accept(database)
    decide(database)
    attempt(database)
    end(database)
    return request_id


def send_again(request_id: str) -> Work:
    return lambda session: redeliver(session, session.get_one(SessionRequest, request_id), 900, NOW)


def test_of_two_who_send_a_callback_again_the_second_is_refused(database: Database) -> None:
    request_id = delivered(database)

    _, refused = one_runs_into_the_other(database, send_again(request_id), send_again(request_id))

    assert isinstance(refused, RedeliveryRefused)
    assert len(rows(database, Callbacks)) == 2


def test_a_driver_token_is_not_erased_while_its_callback_is_sent_again(database: Database) -> None:
    request_id = delivered(database)

    _, erased = one_runs_into_the_other(
        database, send_again(request_id), lambda session: erase_driver(session, TOKEN, VAULT.hash(TOKEN))
    )

    assert (erased.requests, erased.under_way) == (0, 1)
    assert the_request(database, request_id).token_sealed is not None


def test_a_callback_is_not_sent_again_whose_driver_token_is_being_erased(database: Database) -> None:
    request_id = delivered(database)

    _, refused = one_runs_into_the_other(
        database, lambda session: erase_driver(session, TOKEN, VAULT.hash(TOKEN)), send_again(request_id)
    )

    assert isinstance(refused, RedeliveryRefused)
    assert "erased" in str(refused)


@pytest.mark.parametrize("seen_before", [False, True])
def test_whoever_follows_events_sees_those_too_that_are_committed_late(database: Database, seen_before: bool) -> None:
    (first,) = accept(database)
    tail = Tail(database, station=None, state=None)
    if seen_before:
        tail.begin(0)
    with database.writing() as session:
        timeline.append(session, [timeline.Fact(first, "Late")], NOW)
        (second,) = accept(database)
        if not seen_before:
            tail.begin(0)
        early = [each.request_id for each in tail.look()]
    late = [each.type for each in tail.look()]

    assert early == ([second] if seen_before else [])
    assert late == ["Late"]
    assert list(tail.look()) == []


def test_two_relays_sum_up_old_minutes_once(database: Database) -> None:
    def count(session: Session) -> None:
        counter = Counter()
        counter.count("requests", 7)
        counter.write(session, NOW)

    change(database, count)

    def sum_up(session: Session) -> None:
        sum_up_old_minutes(session, NOW + seconds(3 * 86_400))

    one_runs_into_the_other(database, sum_up, sum_up)

    with database.reading() as session:
        assert session.scalars(select(Tally.count)).all() == [7]


def test_what_is_counted_while_old_minutes_are_summed_up_is_not_lost(database: Database) -> None:
    def count(session: Session) -> None:
        counter = Counter()
        counter.count("requests", 7)
        counter.write(session, NOW)

    change(database, count)

    one_runs_into_the_other(database, count, lambda session: sum_up_old_minutes(session, NOW + seconds(3 * 86_400)))

    with database.reading() as session:
        assert session.scalars(select(Tally.count)).all() == [14]


def test_two_relays_follow_the_clock_back_once(database: Database) -> None:
    (request_id,) = accept(database)
    change(database, lambda session: heartbeats.beat(session, "relay", NOW))
    back = NOW - seconds(3600)

    def follow(session: Session) -> Any:
        found = follow_clock_back(session, "relay", back)
        heartbeats.beat(session, "relay", back)
        return found

    assert one_runs_into_the_other(database, follow, follow) == (seconds(3600), seconds(0))
    assert the_request(database, request_id).expires_at == back + seconds(900)


def test_events_are_added_to_a_request_that_is_being_decided(database: Database) -> None:
    """Without waiting: adding one locks its request a little, by the foreign key."""
    (request_id,) = accept(database)
    draft = outbox.Draft(request_id, "Command", {}, NOW)

    _, trouble = one_runs_into_the_other(
        database,
        lambda session: decide_overdue(session, LATE, LATE),
        without_waiting(lambda session: outbox.put(session, Callbacks, [draft], NOW)),
    )

    assert trouble is None


def test_counting_in_any_order_never_ends_in_a_circle(database: Database) -> None:
    names = [f"name {number}" for number in range(20)]

    def count(order: list[str]) -> Work:
        def work(session: Session) -> None:
            counter = Counter()
            for name in order:
                counter.count(name)
            counter.write(session, NOW)

        return work

    with ThreadPoolExecutor(4) as pool:
        works = [count(names), count(names[::-1])] * 20
        list(pool.map(lambda work: change(database, work), works))

    with database.reading() as session:
        assert set(session.scalars(select(Tally.count))) == {40}


def test_a_circle_of_waiting_is_the_databases_trouble(database: Database) -> None:
    accept(database, 2)

    def lock(session: Session, number: int) -> None:
        session.execute(text("UPDATE charging_session_request_outbox SET attempts = 1 WHERE id = :id"), {"id": number})

    def crosswise(session: Session) -> None:
        lock(session, 2)
        lock(session, 1)

    def work() -> Any:
        with database.writing() as session, ThreadPoolExecutor(1) as pool:
            lock(session, 1)
            other = pool.submit(change, database, crosswise)
            eventually(lambda: anybody_waits(database))
            try:
                lock(session, 2)
            finally:
                session.commit() if session.is_active else session.rollback()
            return other.exception(10)

    try:
        broken = work()
    except DatabaseUnavailable as error:
        broken = error

    assert isinstance(broken, DatabaseUnavailable)
    assert "deadlock" in str(broken)


def test_requests_are_listed_in_the_order_of_their_ids_whatever_the_language(database: Database) -> None:
    for number in range(5):
        accept(database, 3, now=NOW + seconds(number * 7919))

    found = [each.id for each in rows(database, SessionRequest)]

    assert all(before < after for before, after in pairwise(found))
