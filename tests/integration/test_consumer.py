"""One run of one job: rows side by side, each recorded once, none holding up another."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from rq.timeouts import JobTimeoutException
from sqlalchemy import text
from structlog.testing import capture_logs
from support.builders import (
    ALLOWED,
    DELIVERED,
    FAILED,
    Callbacks,
    Requests,
    accept,
    claim,
    claim_and_take,
    decide,
    decide_in,
    eventually,
    facts,
    just_now,
    only_row,
    rows,
    seconds,
    the_request,
)

import jobs.consumer
from chargeapp.clock import utcnow
from chargeapp.domain.callback import Reply
from chargeapp.errors import DatabaseUnavailable, PermanentFailure
from chargeapp.runtime import Runtime
from chargeapp.services.callback_deliveries import Attempt, Callback
from chargeapp.storage import fair_gate, outbox
from chargeapp.storage import sqlite as storage
from chargeapp.storage.outbox import Ticket
from jobs.callbacks import Callbacks as CallbacksWork
from jobs.consumer import Consumer

Perform = Callable[[Callback], Reply]
SLOW, QUICK = "slow.example:443", "quick.example:443"


class Rehearsed(CallbacksWork):
    """Callbacks as they are, but for the call itself."""

    def __init__(self, runtime: Runtime, perform: Perform) -> None:
        super().__init__(runtime)
        self.call = perform

    def perform(self, task: Callback) -> Attempt:
        return Attempt(task, self.call(task), utcnow())


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(jobs.consumer, "LINGER_SECONDS", 0.15)
    monkeypatch.setattr(jobs.consumer, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(storage, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(fair_gate, "BUSY_SECONDS", 0.2)
    with capture_logs():
        yield


class Job:
    """One run, in a thread of its own if wanted."""

    def __init__(self, runtime: Runtime, work: CallbacksWork, threads: int = 4) -> None:
        self.stopping = threading.Event()
        self.commits = 0
        self.retry_at: datetime | None = None
        self.error: BaseException | None = None
        self.pool = ThreadPoolExecutor(threads)
        self.consumer = Consumer(
            work,
            job_id="job",
            database=runtime.database,
            wakeups=runtime.wakeups,
            pool=self.pool,
            threads=threads,
            stopping=self.stopping.is_set,
            after_commit=self.count,
        )
        self.thread: threading.Thread | None = None

    def count(self) -> None:
        self.commits += 1

    def run(self, tickets: Sequence[Ticket] = ()) -> None:
        try:
            self.retry_at = self.consumer.run(tickets)
        except BaseException as error:
            self.error = error
        finally:
            self.pool.shutdown()

    def start(self, tickets: Sequence[Ticket] = ()) -> None:
        self.thread = threading.Thread(target=self.run, args=(tickets,))
        self.thread.start()

    def join(self) -> None:
        assert self.thread is not None
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error


def decided(runtime: Runtime, number: int = 1, destination: str = QUICK) -> list[str]:
    """So many requests whose callback is due, in the order of its rows."""
    accept(runtime.database, number, now=just_now(), destination=destination)
    decide(runtime.database, ALLOWED, just_now())
    return [row.request_id for row in rows(runtime.database, Callbacks)][-number:]


def deliver(callback: Callback) -> Reply:
    return DELIVERED


def attempts(runtime: Runtime) -> list[int]:
    with runtime.database.reading() as session:
        return list(
            session.scalars(
                text(
                    "SELECT callback_attempts FROM charging_session_requests AS request"
                    " JOIN authorization_decision_callback_outbox AS row ON row.request_id = request.id ORDER BY row.id"
                )
            )
        )


def unsettled(runtime: Runtime) -> list[int]:
    return [row.id for row in rows(runtime.database, Callbacks) if row.settled_at is None]


def test_the_rows_of_the_job_are_done_and_recorded(runtime: Runtime) -> None:
    decided(runtime, 5)
    job = Job(runtime, Rehearsed(runtime, deliver))

    job.start(claim(runtime.database, Callbacks, utcnow()))
    job.join()

    assert unsettled(runtime) == []
    assert attempts(runtime) == [1] * 5
    assert job.retry_at is None
    assert job.commits > 0


def test_a_job_goes_on_with_whatever_else_is_due(runtime: Runtime) -> None:
    decided(runtime, 20)
    job = Job(runtime, Rehearsed(runtime, deliver), threads=2)

    job.start(claim(runtime.database, Callbacks, utcnow(), limit=1))
    job.join()

    assert attempts(runtime) == [1] * 20


def test_a_lingering_job_takes_rows_that_are_rung_for_meanwhile(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.consumer, "LINGER_SECONDS", 10)
    monkeypatch.setattr(jobs.consumer, "LOOK_SECONDS", 10)
    job = Job(runtime, Rehearsed(runtime, deliver))
    job.start()
    eventually(lambda: runtime.wakeups.attended("callbacks"))

    decided(runtime)
    began = time.monotonic()
    while not attempts(runtime)[0]:
        runtime.wakeups.ring("callbacks")
        assert time.monotonic() - began < 5
    job.stopping.set()
    runtime.wakeups.ring("callbacks")
    job.join()


def test_a_job_that_is_rung_for_before_the_commit_finds_the_row(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.consumer, "LINGER_SECONDS", 10)
    monkeypatch.setattr(jobs.consumer, "LOOK_SECONDS", 10)
    monkeypatch.setattr(fair_gate, "BUSY_SECONDS", 5)
    accept(runtime.database, now=just_now())
    tickets = claim_and_take(runtime.database, Requests, just_now())
    job = Job(runtime, Rehearsed(runtime, deliver))
    begun: list[int] = []
    ended: list[int] = []
    transact = job.consumer._transact

    def observed(claim: int) -> None:
        begun.append(claim)
        transact(claim)
        ended.append(claim)

    monkeypatch.setattr(job.consumer, "_transact", observed)
    job.start()
    eventually(lambda: len(ended) == 1)

    with runtime.database.writing() as session:
        decide_in(session, tickets, now=just_now())
        assert runtime.wakeups.ring_early("callbacks")
        eventually(lambda: len(begun) == 2)
    eventually(lambda: attempts(runtime) == [1])
    job.stopping.set()
    runtime.wakeups.ring("callbacks")
    job.join()


def test_a_job_that_ends_lets_those_commit_who_rang_for_it(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_gate, "BUSY_SECONDS", 5)
    job = Job(runtime, Rehearsed(runtime, deliver))
    job.start()
    eventually(lambda: runtime.wakeups.attended("callbacks"))

    with runtime.database.writing():
        eventually(lambda: not runtime.wakeups.attended("callbacks"))
        assert job.thread is not None
        job.thread.join(0.2)
        assert job.thread.is_alive()
    job.join()


def test_a_job_ends_when_nothing_has_come_for_a_while(runtime: Runtime) -> None:
    job = Job(runtime, Rehearsed(runtime, deliver))
    began = time.monotonic()

    job.start()
    job.join()

    assert time.monotonic() - began < 2
    assert not runtime.wakeups.attended("callbacks")


def test_a_job_takes_no_more_after_its_longest_time(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.consumer, "LONGEST_SECONDS", 0.0)
    decided(runtime, 3)
    tickets = claim(runtime.database, Callbacks, utcnow(), limit=1)
    job = Job(runtime, Rehearsed(runtime, deliver), threads=1)
    monkeypatch.setattr(job.consumer, "_room", lambda: 0)

    job.start(tickets)
    job.join()

    assert attempts(runtime) == [1, 0, 0]


def test_calls_are_made_side_by_side(runtime: Runtime) -> None:
    decided(runtime, 3)
    together = threading.Barrier(3, timeout=5)

    def call(callback: Callback) -> Reply:
        together.wait()
        return DELIVERED

    job = Job(runtime, Rehearsed(runtime, call))
    job.start(claim(runtime.database, Callbacks, utcnow()))
    job.join()

    assert attempts(runtime) == [1, 1, 1]


def test_a_slow_destination_does_not_hold_up_others(runtime: Runtime) -> None:
    # More slow ones than the job may have in hand, all of them due before the quick one.
    slow, quick = decided(runtime, 40, SLOW), decided(runtime, 1, QUICK)
    finish = threading.Event()
    at_once: list[int] = []
    running = threading.Semaphore(0)

    def call(callback: Callback) -> Reply:
        if callback.destination == SLOW:
            at_once.append(1)
            running.release()
            finish.wait(20)
        return DELIVERED

    job = Job(runtime, Rehearsed(runtime, call))
    job.start(claim(runtime.database, Callbacks, utcnow(), limit=16))
    try:
        eventually(lambda: the_request(runtime.database, quick[0]).callback_attempts, "the quick one is held up", 3)
        assert sum(at_once) == 3
    finally:
        finish.set()
        job.join()

    assert len(slow) == sum(at_once)
    assert attempts(runtime) == [1] * 41


def test_rows_of_a_slow_destination_are_not_hoarded(runtime: Runtime) -> None:
    decided(runtime, 60, SLOW)
    one_by_one = threading.Semaphore(0)

    def call(callback: Callback) -> Reply:
        one_by_one.acquire(timeout=20)
        return DELIVERED

    job = Job(runtime, Rehearsed(runtime, call))
    job.start(claim(runtime.database, Callbacks, utcnow(), limit=1))
    try:
        for done in range(1, 6):
            one_by_one.release()
            eventually(lambda done=done: sum(attempts(runtime)) >= done)
        in_hand = [row for row in rows(runtime.database, Callbacks) if row.taken_at and not row.settled_at]
        assert len(in_hand) <= 16
    finally:
        one_by_one.release(100)
        job.join()

    assert attempts(runtime) == [1] * 60


def test_results_survive_a_locked_database_and_are_recorded_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.consumer, "RENEW_SECONDS", 0.05)
    (request_id,) = decided(runtime)
    called, finish, calls = threading.Event(), threading.Event(), []

    def call(callback: Callback) -> Reply:
        calls.append(callback)
        called.set()
        finish.wait(10)
        return DELIVERED

    job = Job(runtime, Rehearsed(runtime, call))
    job.start(claim(runtime.database, Callbacks, utcnow()))
    assert called.wait(5)
    with runtime.database.engine.connect() as locking:
        locking.execute(text("SELECT 1"))
        time.sleep(0.5)  # its lease cannot be renewed
        finish.set()
        time.sleep(0.7)  # longer than a transaction waits, several times
        assert job.thread is not None
        assert job.thread.is_alive()
    job.join()

    assert len(calls) == 1
    assert len(facts(runtime.database, request_id, "CallbackAttempted")) == 1
    assert unsettled(runtime) == []


def test_tickets_survive_a_locked_database(runtime: Runtime) -> None:
    decided(runtime)
    tickets = claim(runtime.database, Callbacks, utcnow())
    job = Job(runtime, Rehearsed(runtime, deliver))
    with runtime.database.engine.connect() as locking:
        locking.execute(text("SELECT 1"))
        job.start(tickets)
        time.sleep(0.5)
    job.join()

    assert attempts(runtime) == [1]


def test_leases_are_renewed_while_calls_last(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.consumer, "RENEW_SECONDS", 0.05)
    decided(runtime)
    finish = threading.Event()

    def call(callback: Callback) -> Reply:
        finish.wait(10)
        return DELIVERED

    job = Job(runtime, Rehearsed(runtime, call))
    job.start(claim(runtime.database, Callbacks, utcnow()))
    eventually(lambda: only_row(runtime.database, Callbacks).taken_at)
    before = only_row(runtime.database, Callbacks).lease_until
    try:
        eventually(lambda: only_row(runtime.database, Callbacks).lease_until > before)
    finally:
        finish.set()
        job.join()


@pytest.mark.parametrize("claimed_by", ["relay", "job"])
def test_a_row_that_cannot_be_taken_is_buried_and_the_others_go_on(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, claimed_by: str
) -> None:
    ids = decided(runtime, 3)
    work = Rehearsed(runtime, deliver)
    really = work.take

    def take(session, tickets, now):  # type: ignore[no-untyped-def]
        if any(ticket.row_id == 2 for ticket in tickets):
            raise LookupError("its request is gone")
        return really(session, tickets, now)

    monkeypatch.setattr(work, "take", take)
    job = Job(runtime, work)
    job.start(claim(runtime.database, Callbacks, utcnow()) if claimed_by == "relay" else ())
    job.join()

    assert attempts(runtime) == [1, 0, 1]
    (dead,) = [row for row in rows(runtime.database, Callbacks) if row.dead_at]
    assert (dead.request_id, dead.last_error) == (ids[1], "LookupError")


def test_a_result_that_cannot_be_recorded_is_buried_and_the_others_go_on(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = decided(runtime, 3)
    work = Rehearsed(runtime, deliver)
    really = work.record

    def record(session, results, now):  # type: ignore[no-untyped-def]
        really(session, results, now)
        if any(each.callback.request_id == ids[1] for each in results):
            raise ValueError("cannot be written")

    monkeypatch.setattr(work, "record", record)
    job = Job(runtime, work)
    job.start(claim(runtime.database, Callbacks, utcnow()))
    job.join()

    assert attempts(runtime) == [1, 0, 1]
    (dead,) = [row for row in rows(runtime.database, Callbacks) if row.dead_at]
    assert (dead.request_id, dead.last_error) == (ids[1], "ValueError")


@pytest.mark.parametrize("method", ["take", "record"])
def test_a_timeout_of_rq_is_no_fault_of_a_row(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    decided(runtime)
    work = Rehearsed(runtime, deliver)
    failures = iter([ValueError("first one"), JobTimeoutException("too long")])

    def fail(*_: object) -> None:
        raise next(failures)

    monkeypatch.setattr(work, method, fail)
    job = Job(runtime, work)
    job.start(claim(runtime.database, Callbacks, utcnow()))

    with pytest.raises(JobTimeoutException):
        job.join()
    assert only_row(runtime.database, Callbacks).dead_at is None


def test_a_timeout_of_rq_ends_the_job_at_once(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(runtime)
    work = Rehearsed(runtime, deliver)

    def fail(*_: object) -> None:
        raise JobTimeoutException("too long")

    monkeypatch.setattr(work, "take", fail)
    job = Job(runtime, work)
    job.start(claim(runtime.database, Callbacks, utcnow()))

    with pytest.raises(JobTimeoutException):
        job.join()


def test_an_error_that_is_no_rows_fault_is_not_swallowed(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(runtime)
    job = Job(runtime, Rehearsed(runtime, deliver))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no row of ours")

    monkeypatch.setattr(job.consumer, "_claim", fail)
    job.start()

    with pytest.raises(RuntimeError, match="no row of ours"):
        job.join()


def test_a_call_that_can_never_work_is_buried(runtime: Runtime) -> None:
    decided(runtime)

    def call(callback: Callback) -> Reply:
        raise PermanentFailure("sealed with a key that is gone")

    job = Job(runtime, Rehearsed(runtime, call))
    job.start(claim(runtime.database, Callbacks, utcnow()))
    job.join()

    row = only_row(runtime.database, Callbacks)
    assert row.dead_at is not None
    assert row.last_error == "PermanentFailure"


def test_a_call_that_failed_unexpectedly_is_tried_again_a_second_later(runtime: Runtime) -> None:
    decided(runtime)

    def call(callback: Callback) -> Reply:
        raise OSError("out of file descriptors")

    job = Job(runtime, Rehearsed(runtime, call))
    job.start(claim(runtime.database, Callbacks, utcnow()))
    job.join()

    row = only_row(runtime.database, Callbacks)
    assert (row.dead_at, row.settled_at, row.lease_until) == (None, None, None)
    assert utcnow() < row.due_at < utcnow() + seconds(1)


def test_a_call_that_needs_the_database_while_that_is_away_is_one_warning_and_no_attempt(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.consumer, "HINDERED_PAUSE", seconds(0))
    (request_id,) = decided(runtime)
    away = iter([True])

    def call(callback: Callback) -> Reply:
        if next(away, False):
            raise DatabaseUnavailable("The database cannot be read just now")
        return DELIVERED

    with capture_logs() as lines:
        job = Job(runtime, Rehearsed(runtime, call))
        job.start(claim(runtime.database, Callbacks, utcnow()))
        job.join()

    (line,) = [each for each in lines if each["log_level"] in ("warning", "error")]
    assert (line["action"], line["request_id"], "exc_info" in line) == ("call_hindered", request_id, False)
    assert line["error"] == "The database cannot be read just now"
    (attempt,) = facts(runtime.database, request_id, "CallbackAttempted")
    assert attempt.details["outcome"] == "delivered"
    assert unsettled(runtime) == []


def test_a_job_tells_when_its_earliest_retry_is_due(runtime: Runtime) -> None:
    decided(runtime)
    job = Job(runtime, Rehearsed(runtime, lambda callback: FAILED))

    job.start(claim(runtime.database, Callbacks, utcnow()))
    job.join()

    row = only_row(runtime.database, Callbacks)
    assert job.retry_at == row.due_at
    assert row.attempts == 1


def test_a_stopping_job_finishes_its_calls_and_begins_no_others(runtime: Runtime) -> None:
    decided(runtime, 30)
    called, finish, calls = threading.Event(), threading.Event(), []

    def call(callback: Callback) -> Reply:
        calls.append(callback)
        called.set()
        finish.wait(10)
        return DELIVERED

    job = Job(runtime, Rehearsed(runtime, call), threads=1)
    job.start(claim(runtime.database, Callbacks, utcnow(), limit=1))
    assert called.wait(5)
    job.stopping.set()
    finish.set()
    job.join()

    assert len(calls) == 1
    assert sum(attempts(runtime)) == 1
    # What it had not begun with is free for others, at once.
    assert len(claim(runtime.database, Callbacks, utcnow())) == 29


def test_a_stopping_job_does_not_wait_for_ever_for_a_call_that_hangs(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.consumer, "STOP_SECONDS", 0.2)
    decided(runtime)
    called, finish = threading.Event(), threading.Event()

    def call(callback: Callback) -> Reply:
        called.set()
        finish.wait(10)
        return DELIVERED

    job = Job(runtime, Rehearsed(runtime, call), threads=1)
    consumed = threading.Thread(target=job.consumer.run, args=(claim(runtime.database, Callbacks, utcnow()),))
    consumed.start()
    assert called.wait(5)
    job.stopping.set()
    consumed.join(5)
    ended = not consumed.is_alive()
    finish.set()
    job.pool.shutdown()

    assert ended
    # Left to its lease.
    assert only_row(runtime.database, Callbacks).lease_until > utcnow()


def test_a_database_that_cannot_be_read_ends_no_job(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(runtime)
    called, finish = threading.Event(), threading.Event()

    def call(callback: Callback) -> Reply:
        called.set()
        finish.wait(10)
        return DELIVERED

    def unreadable(*_: object) -> bool:
        raise DatabaseUnavailable

    monkeypatch.setattr(outbox, "any_to_take", unreadable)
    monkeypatch.setattr(outbox, "next_retry_at", unreadable)
    job = Job(runtime, Rehearsed(runtime, call))
    job.start(claim(runtime.database, Callbacks, utcnow()))
    assert called.wait(5)
    finish.set()
    job.join()

    assert attempts(runtime) == [1]
    assert job.retry_at is None  # the relay finds what is left


def test_an_expired_callback_that_waited_for_its_turn_is_not_sent(runtime: Runtime) -> None:
    (request_id,) = decided(runtime)
    work = CallbacksWork(runtime)
    with runtime.database.writing() as session:
        (task,) = work.take(
            session, outbox.claim_and_take(session, Callbacks, job_id="job", limit=1, now=utcnow()), utcnow()
        )
    expired = Callback(**{**vars(task), "expires_at": utcnow(), "token_sealed": runtime.vault.seal("unused")})

    result = work.perform(expired)
    with runtime.database.writing() as session:
        work.record(session, [result], utcnow())

    assert result.reply.outcome == "expired"
    assert the_request(runtime.database, request_id).callback_attempts == 0
    assert facts(runtime.database, request_id, "CallbackAttempted") == []
    assert unsettled(runtime) == []
