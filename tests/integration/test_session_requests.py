"""Accepting requests: stored, queued and acknowledged together, or not at all."""

import threading
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gevent
import pytest
from sqlalchemy import delete
from support.builders import (
    NOW,
    Requests,
    accept,
    decide,
    eventually,
    facts,
    new_request,
    new_runtime,
    only_row,
    rows,
    seconds,
    the_request,
)

from chargeapp.errors import DatabaseUnavailable, TemporaryFailure
from chargeapp.runtime import Runtime
from chargeapp.services.queue_limit import QueueLimit
from chargeapp.services.session_requests import (
    Acknowledgement,
    IdempotencyKeyReused,
    NewRequest,
    QueueFull,
    Refusal,
    request_charging_sessions,
)
from chargeapp.storage import requests
from chargeapp.storage.api_keys import Seen
from chargeapp.storage.database import Database
from chargeapp.storage.models import SessionRequest
from chargeapp.storage.pipes import Pipes
from chargeapp.web import intake as web_intake
from chargeapp.web.intake import CallerChanged, Intake, Waiting
from chargeapp.web.loop import Beside, Loop

NO_KEYS = Seen(None)


def ask(
    database: Database, *wanted: NewRequest, now=NOW, queue_max_size: int = 100, limit: QueueLimit | None = None
) -> list[Acknowledgement | Refusal]:
    with database.writing() as session:
        return request_charging_sessions(session, wanted, limit=limit or QueueLimit(queue_max_size), now=now)


def erase(database: Database, answers: list[Acknowledgement | Refusal]) -> None:
    ids = [each.request_id for each in answers if isinstance(each, Acknowledgement)]
    with database.writing() as session:
        session.execute(delete(SessionRequest).where(SessionRequest.id.in_(ids)))


def keyed(key: str = "key", body_hash: str = "one", caller: str = "") -> NewRequest:
    return new_request(idempotency_key=key, body_hash=body_hash, caller=caller)


def test_an_accepted_request_its_command_and_its_event_are_stored_together(database: Database) -> None:
    (request_id,) = accept(database)

    request, row = the_request(database, request_id), only_row(database, Requests)
    assert (request.state, request.decision, request.callback_attempts) == ("accepted", None, 0)
    assert (request.decide_by, request.expires_at) == (NOW + seconds(30), NOW + seconds(900))
    assert (row.type, row.payload) == ("StartChargingSessionRequestCommand", {"request_id": request_id})
    assert (row.request_id, row.due_at) == (request_id, NOW)
    assert [fact.type for fact in facts(database, request_id)] == ["RequestAccepted"]


def test_requests_that_arrive_together_are_each_answered_in_their_order(database: Database) -> None:
    answers = ask(database, keyed("a"), new_request(), keyed("a"), keyed("a", "two"), new_request())

    kinds = [type(each) for each in answers]
    assert kinds == [Acknowledgement, Acknowledgement, Acknowledgement, IdempotencyKeyReused, Acknowledgement]
    assert answers[0].request_id == answers[2].request_id
    assert [each.replayed for each in answers if isinstance(each, Acknowledgement)] == [False, False, True, False]
    assert len(rows(database, SessionRequest)) == len(rows(database, Requests)) == 3


def test_the_same_key_and_body_get_the_first_answer_again(database: Database) -> None:
    (first,) = ask(database, keyed())
    (again,) = ask(database, keyed(), now=NOW + seconds(60))

    assert again == Acknowledgement(first.request_id, NOW, replayed=True)
    assert len(rows(database, Requests)) == 1


def test_the_same_key_with_another_body_is_refused_and_nothing_is_stored(database: Database) -> None:
    ask(database, keyed())
    (refused,) = ask(database, keyed(body_hash="two"))

    assert isinstance(refused, IdempotencyKeyReused)
    assert str(refused) == "This Idempotency-Key was already used with another body."
    assert len(rows(database, Requests)) == 1


def test_a_key_belongs_to_its_caller(database: Database) -> None:
    (mine,) = ask(database, keyed(caller="me"))
    (yours,) = ask(database, keyed(caller="you"))

    assert mine.request_id != yours.request_id


def test_a_key_is_remembered_for_24_hours(database: Database) -> None:
    (first,) = ask(database, keyed())
    (within,) = ask(database, keyed(), now=NOW + seconds(24 * 3600 - 1))
    (after,) = ask(database, keyed(body_hash="two"), now=NOW + seconds(24 * 3600))
    (again,) = ask(database, keyed(body_hash="two"), now=NOW + seconds(24 * 3600 + 1))

    assert within.request_id == first.request_id
    assert isinstance(after, Acknowledgement)
    assert not after.replayed
    assert again.request_id == after.request_id != first.request_id


def test_the_queue_takes_exactly_as_many_as_it_may(database: Database) -> None:
    ask(database, new_request(), queue_max_size=3)
    answers = ask(database, *[new_request() for _ in range(4)], queue_max_size=3)

    kinds = [type(each) for each in answers]
    assert kinds == [Acknowledgement, Acknowledgement, QueueFull, QueueFull]
    assert len(rows(database, SessionRequest)) == 3


def test_a_decided_request_leaves_the_queue(database: Database) -> None:
    ask(database, new_request(), queue_max_size=1)
    assert isinstance(ask(database, new_request(), queue_max_size=1)[0], QueueFull)
    decide(database)

    assert isinstance(ask(database, new_request(), queue_max_size=1)[0], Acknowledgement)


def test_what_other_processes_accept_counts_too(database: Database) -> None:
    ours, theirs = QueueLimit(4), QueueLimit(4)
    ask(database, new_request(), limit=ours)
    ask(database, new_request(), new_request(), limit=theirs)
    answers = ask(database, new_request(), new_request(), limit=ours)

    assert [type(each) for each in answers] == [Acknowledgement, QueueFull]


def test_an_old_count_refuses_nobody(database: Database) -> None:
    limit = QueueLimit(3)
    for _ in range(5):
        assert isinstance(ask(database, new_request(), limit=limit)[0], Acknowledgement)
        decide(database)


def test_the_queue_is_not_counted_for_each_request(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, counted = QueueLimit(10), []
    monkeypatch.setattr(requests, "count_undecided", lambda *_: counted.append(1) or 0)
    for _ in range(20):
        ask(database, new_request(), limit=limit)

    assert len(counted) == 2


def test_numbers_that_begin_anew_do_not_make_room(database: Database) -> None:
    limit, others = QueueLimit(4), QueueLimit(4)
    answers = ask(database, *[new_request()] * 3, limit=limit)
    decide(database)
    answers += ask(database, *[new_request()] * 2, limit=limit)
    erase(database, answers)
    ask(database, new_request(), limit=others)

    kinds = [type(each) for each in ask(database, *[new_request()] * 4, limit=limit)]
    assert kinds == [*[Acknowledgement] * 3, QueueFull]


def test_a_refusal_of_a_full_queue_is_not_remembered_under_its_key(database: Database) -> None:
    ask(database, new_request(), queue_max_size=1)
    assert isinstance(ask(database, keyed(), queue_max_size=1)[0], QueueFull)

    (answer,) = ask(database, keyed(), queue_max_size=2)
    assert answer.replayed is False


def test_a_repeated_key_is_answered_though_the_queue_is_full(database: Database) -> None:
    (first,) = ask(database, keyed(), queue_max_size=1)
    (again,) = ask(database, keyed(), queue_max_size=1)

    assert again.request_id == first.request_id


def test_ids_sort_by_age(database: Database) -> None:
    ids = [accept(database, now=NOW + seconds(number / 1000))[0] for number in range(20)]

    assert ids == sorted(ids)
    assert all(len(id_) == 36 and id_.startswith("req-") for id_ in ids)


# Requests that arrive together share a transaction.


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with new_runtime(tmp_path, queue_max_size=3) as runtime:
        yield runtime


class Stuck:
    """Holds up the first commit until told to go on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on, self.sizes = threading.Event(), threading.Event(), []
        patch.setattr(web_intake, "request_charging_sessions", self)

    def __call__(self, session, wanted, **given):  # type: ignore[no-untyped-def]
        self.sizes.append(len(wanted))
        self.begun.set()
        self.go_on.wait(10)
        return request_charging_sessions(session, wanted, **given)


def store_in_threads(intake: Intake, number: int, stuck: Stuck) -> list[Acknowledgement | Exception]:
    """The first one is committing while the others arrive."""
    answers: list[Acknowledgement | Exception] = []

    def store() -> None:
        try:
            answers.append(intake.store(new_request(), NO_KEYS))
        except TemporaryFailure as error:
            answers.append(error)

    threads = [threading.Thread(target=store) for _ in range(number)]
    threads[0].start()
    assert stuck.begun.wait(5)
    for thread in threads[1:]:
        thread.start()
    eventually(lambda: len(intake._waiting) == number - 1 or answers)
    stuck.go_on.set()
    for thread in threads:
        thread.join(10)
    return answers


def test_requests_that_wait_for_a_commit_share_the_next_one(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck(monkeypatch)

    answers = store_in_threads(Intake(runtime, Loop()), 6, stuck)

    assert stuck.sizes == [1, 5]
    assert sum(isinstance(each, Acknowledgement) for each in answers) == 3
    assert sum(isinstance(each, QueueFull) for each in answers) == 3
    assert len(rows(runtime.database, SessionRequest)) == 3


def test_so_they_do_in_the_loop_which_serves_others_meanwhile(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, stuck = Loop(), Stuck(monkeypatch)
    intake = Intake(runtime, loop)

    def serve() -> int:
        loop.enter()
        first = gevent.spawn(intake.store, new_request(), NO_KEYS)
        while not stuck.begun.is_set():
            gevent.sleep(0.001)
        callers = [first, *(gevent.spawn(intake.store, new_request(), NO_KEYS) for _ in range(2))]
        gevent.sleep(0)
        stuck.go_on.set()
        return len({each.get(timeout=5).request_id for each in callers})

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(serve).result(10) == 3
    assert stuck.sizes == [1, 2]


def test_a_caller_that_has_changed_keeps_nobody_else_from_being_stored(runtime: Runtime) -> None:
    changed = Seen(namedtuple("Key", ["id"])("no such key"))
    seen = {"a": NO_KEYS, "b": changed, "c": NO_KEYS}
    crowd = [Waiting(new_request(station_id=station), each, threading.Event()) for station, each in seen.items()]

    with runtime.database.writing() as session:
        first, other, last = Intake(runtime, Loop())._answers(session, crowd)

    assert isinstance(other, CallerChanged)
    assert [isinstance(each, Acknowledgement) for each in (first, last)] == [True, True]
    stored = {row.id: row.station_id for row in rows(runtime.database, SessionRequest)}
    assert [stored[each.request_id] for each in (first, last)] == ["a", "c"]  # type: ignore[union-attr]


def test_where_writers_take_no_turns_jobs_are_rung_for_after_the_commit(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_when_rung: list[int] = []

    def ring(wakeups: Pipes, queue: str) -> bool:
        stored_when_rung.append(len(rows(runtime.database, SessionRequest)))
        return True

    monkeypatch.setattr(Database, "takes_turns", False)
    monkeypatch.setattr(Pipes, "ring", ring)
    with runtime.wakeups.listen("authorization") as job:
        Intake(runtime, Loop()).store(new_request(), NO_KEYS)
        eventually(lambda: stored_when_rung == [1])
        assert not job.wait(0)


def test_a_commit_that_fails_fails_for_all_that_shared_it(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck(monkeypatch)

    def fail(session, wanted, **given):  # type: ignore[no-untyped-def]
        stuck(session, wanted, **given)
        raise DatabaseUnavailable

    monkeypatch.setattr(web_intake, "request_charging_sessions", fail)

    answers = store_in_threads(Intake(runtime, Loop()), 4, stuck)

    assert [type(each) for each in answers] == [DatabaseUnavailable] * 4
    assert rows(runtime.database, SessionRequest) == []


def test_where_no_thread_can_be_had_callers_are_told_and_the_next_ones_are_stored(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = Intake(runtime, Loop())
    with monkeypatch.context() as patch:
        patch.setattr(Beside, "run", lambda *given: raise_error(RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="new thread"):
            intake.store(new_request(), NO_KEYS)

    intake.store(new_request(), NO_KEYS)

    assert len(rows(runtime.database, SessionRequest)) == 1


def raise_error(error: Exception) -> None:
    raise error


def test_who_waits_too_long_behind_a_stuck_commit_is_refused_and_not_stored(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_intake, "PATIENCE_SECONDS", 0.1)
    stuck, intake = Stuck(monkeypatch), Intake(runtime, Loop())
    first = threading.Thread(target=intake.store, args=(new_request(), NO_KEYS))
    first.start()
    assert stuck.begun.wait(5)

    with pytest.raises(DatabaseUnavailable, match="busy for too long"):
        intake.store(new_request(), NO_KEYS)

    stuck.go_on.set()
    first.join(10)
    assert len(rows(runtime.database, SessionRequest)) == 1


def test_the_relay_is_rung_when_a_request_is_stored(runtime: Runtime) -> None:
    with runtime.wakeups.listen("relay") as bell:
        Intake(runtime, Loop()).store(new_request(), NO_KEYS)
        assert bell.wait(1)
