"""The relay on a real Redis: moves rows, holds back, finds lost ones, wakes when rung."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer
from structlog.testing import capture_logs
from support.builders import (
    DELIVERED,
    Callbacks,
    Deliveries,
    Requests,
    accept,
    attempt,
    change,
    decide,
    eventually,
    just_now,
    new_runtime,
    only_row,
    rows,
    seconds,
    the_request,
)
from support.redis_server import RedisServer

from chargeapp import relay as relay_module
from chargeapp.clock import utcnow
from chargeapp.errors import DatabaseUnavailable
from chargeapp.pipeline import AUTHORIZATION, STAGES, Stage
from chargeapp.relay import Pass, new_job_id
from chargeapp.runtime import Runtime
from chargeapp.storage import heartbeats, outbox
from chargeapp.storage.outbox import Ticket
from chargeapp.transport.broker import BrokerUnavailable
from chargeapp.transport.rq_transport import JOBS_IN_QUEUE, ROWS_PER_JOB


@pytest.fixture
def runtime(tmp_path: Path, server: RedisServer) -> Iterator[Runtime]:
    server.client.flushall()
    with new_runtime(tmp_path, redis_url=server.url) as runtime:
        yield runtime


@pytest.fixture
def without_redis(tmp_path: Path) -> Iterator[Runtime]:
    with new_runtime(tmp_path) as runtime:
        yield runtime


def queued(server: RedisServer, queue: str = "authorization") -> list[Job]:
    ids = [raw.decode() for raw in server.client.lrange(f"rq:queue:{queue}", 0, -1)]
    return [Job.fetch(id_, connection=server.client, serializer=JSONSerializer) for id_ in ids]


class Running:
    """A continuous relay in a thread."""

    def __init__(self, runtime: Runtime) -> None:
        self.stop = threading.Event()
        self._runtime = runtime
        self._thread = threading.Thread(target=runtime.relay.run, args=(self.stop.is_set,))

    def __enter__(self) -> "Running":
        self._thread.start()
        eventually(lambda: self._runtime.wakeups._pipes("relay@"))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._runtime.wakeups.ring("authorization")
        self._thread.join(5)
        assert not self._thread.is_alive()


def test_a_due_row_becomes_a_job_that_carries_its_number_only(runtime: Runtime, server: RedisServer) -> None:
    accept(runtime.database)

    assert runtime.relay.publish_due(AUTHORIZATION) == 1

    (job,) = queued(server)
    assert (job.func_name, job.args, job.kwargs) == ("jobs.authorization.authorize", [{"rows": [[1, 1]]}], {})
    assert (job.result_ttl, job.failure_ttl) == (0, 3600)
    assert b"DRIVER-TOKEN" not in b"".join(server.client.hgetall(job.key).values())


def test_at_most_two_jobs_of_64_rows_wait_in_a_queue(runtime: Runtime, server: RedisServer) -> None:
    accept(runtime.database, 200)

    published = runtime.relay.publish_due(AUTHORIZATION)

    assert (JOBS_IN_QUEUE, ROWS_PER_JOB) == (2, 64)
    assert published == 128
    assert [len(job.args[0]["rows"]) for job in queued(server)] == [64, 64]
    assert sum(row.lease_until is None for row in rows(runtime.database, Requests)) == 72


def test_the_rows_that_had_to_wait_follow_when_the_queue_is_short_again(runtime: Runtime, server: RedisServer) -> None:
    accept(runtime.database, 130)
    runtime.relay.publish_due(AUTHORIZATION)
    server.client.rpop("rq:queue:authorization")

    assert runtime.relay.publish_due(AUTHORIZATION) == 2


def test_rows_that_cannot_be_published_are_released(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, server: RedisServer
) -> None:
    accept(runtime.database)
    server.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(BrokerUnavailable, match="Redis"):
            runtime.relay.publish_due(AUTHORIZATION)
    finally:
        server.client.config_set("maxmemory", "0")

    row = only_row(runtime.database, Requests)
    assert (row.lease_until, row.job_id, row.settled_at) == (None, None, None)
    assert runtime.relay.publish_due(AUTHORIZATION) == 1


def test_a_row_that_arrived_all_the_same_is_left_to_the_worker_that_began_with_it(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(runtime.database)

    def arrive_and_fail(stage: Stage, tickets: list[Ticket], *_: object) -> None:
        change(runtime.database, lambda session: outbox.take(session, Requests, tickets, utcnow()))
        raise BrokerUnavailable("The reply was lost")

    monkeypatch.setattr(runtime.transport, "publish", arrive_and_fail)
    with pytest.raises(BrokerUnavailable):
        runtime.relay.publish_due(AUTHORIZATION)

    row = only_row(runtime.database, Requests)
    assert row.taken_at is not None
    assert row.lease_until > utcnow()
    assert runtime.relay.publish_due(AUTHORIZATION) == 0


def test_a_row_that_another_claimed_between_the_look_and_the_claim_is_left_to_it(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(runtime.database)
    monkeypatch.setattr(relay_module.outbox, "claim_due", lambda *_, **__: [])

    assert runtime.relay.publish_due(AUTHORIZATION) == 0


def test_rows_of_jobs_that_redis_lost_are_published_again(runtime: Runtime, server: RedisServer) -> None:
    accept(runtime.database, 5, now=just_now())
    runtime.relay.once()
    server.client.flushall()

    done = Pass()
    runtime.relay.recover(done)
    assert done.recovered == 0  # claimed a moment ago: the job may not be there yet
    relay_in_a_while(runtime, done)

    assert done.recovered == 5
    assert runtime.relay.publish_due(AUTHORIZATION) == 5
    assert [row.enqueue_seq for row in rows(runtime.database, Requests)] == [2] * 5


def relay_in_a_while(runtime: Runtime, done: Pass) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay_module, "utcnow", lambda: utcnow() + seconds(3))
        runtime.relay.recover(done)


def test_rows_of_jobs_that_redis_still_has_are_left_alone(runtime: Runtime) -> None:
    accept(runtime.database, now=just_now())
    runtime.relay.once()
    done = Pass()

    relay_in_a_while(runtime, done)

    assert done.recovered == 0
    assert only_row(runtime.database, Requests).job_id is not None


def test_one_pass_moves_every_stage_and_tells_what_it_did(runtime: Runtime) -> None:
    accept(runtime.database, 3, now=just_now())
    decide(runtime.database, now=just_now())
    accept(runtime.database, 2, now=just_now())

    done = runtime.relay.once()

    assert done == Pass(published={"authorization": 2, "callbacks": 3, "delivery-events": 0})


def test_one_pass_says_that_the_relay_lives(runtime: Runtime) -> None:
    runtime.relay.once()

    with runtime.database.reading() as session:
        beaten = heartbeats.last(session, "relay")
    assert beaten is not None
    assert utcnow() - beaten < seconds(5)


def test_a_checkpoint_that_fails_keeps_no_row_from_its_queue(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise DatabaseUnavailable("disk full")

    monkeypatch.setattr(runtime.database, "checkpoint", fail)
    accept(runtime.database)
    with capture_logs() as lines:
        done = runtime.relay.once()

    assert done.published["authorization"] == 1
    assert [each["error"] for each in lines if each["action"] == "checkpoint_failed"] == ["disk full"]


def test_two_passes_at_once_claim_no_row_twice(runtime: Runtime, server: RedisServer) -> None:
    accept(runtime.database, 100)
    threads = [threading.Thread(target=runtime.relay.once) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    published = [row for job in queued(server) for row in job.args[0]["rows"]]
    assert sorted(published) == [[number, 1] for number in range(1, 101)]


def test_fresh_rows_are_left_to_a_job_that_is_taking_them(runtime: Runtime) -> None:
    accept(runtime.database, now=just_now())
    with runtime.wakeups.listen("authorization"):
        assert runtime.relay.publish_due(AUTHORIZATION, patient=True) == 0
        # Without it cron alone would wait a minute more.
        assert runtime.relay.publish_due(AUTHORIZATION) == 1


def test_rows_that_nobody_takes_in_time_are_published_though_a_job_attends(runtime: Runtime) -> None:
    accept(runtime.database, now=utcnow() - relay_module.PATIENCE)
    with runtime.wakeups.listen("authorization"):
        assert runtime.relay.publish_due(AUTHORIZATION, patient=True) == 1


def test_the_running_relay_publishes_at_once_when_rung(
    runtime: Runtime, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "TICK_SECONDS", 30)
    with Running(runtime):
        accept(runtime.database, now=just_now())
        began = time.monotonic()
        runtime.wakeups.ring("authorization")
        eventually(lambda: queued(server), deadline_seconds=5)
        assert time.monotonic() - began < 2


def test_the_running_relay_looks_by_itself_when_nobody_rings(runtime: Runtime, server: RedisServer) -> None:
    with Running(runtime):
        accept(runtime.database, now=just_now())
        eventually(lambda: queued(server), deadline_seconds=5)


def test_the_running_relay_finds_lost_jobs(
    runtime: Runtime, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "RECOVERY_SECONDS", 0.1)
    monkeypatch.setattr(relay_module, "JUST_CLAIMED", seconds(0.1))
    with Running(runtime):
        accept(runtime.database, now=just_now())
        eventually(lambda: queued(server))
        server.client.flushall()
        eventually(lambda: queued(server))

    assert only_row(runtime.database, Requests).enqueue_seq == 2


def test_a_relay_that_is_to_stop_does_not_wait(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "TICK_SECONDS", 30)
    answers = iter([False, True, True])
    began = time.monotonic()

    runtime.relay.run(lambda: next(answers))

    assert time.monotonic() - began < 5
    assert runtime.wakeups._pipes("relay@") == []


def test_the_running_relay_goes_on_after_redis_was_away(
    runtime: Runtime, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "RECOVERY_SECONDS", 0.2)
    server.stop()
    try:
        with Running(runtime):
            (request_id,) = accept(runtime.database, now=utcnow() - seconds(60))
            # Deadlines need no Redis.
            eventually(lambda: the_request(runtime.database, request_id).decision == "unknown" or ring(runtime))
            server.start()
            eventually(lambda: queued(server, "callbacks"))
    finally:
        if not server.socket.exists():
            server.start()


def test_the_relay_says_once_that_it_is_hindered_and_once_that_it_works_again(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What each pass finds: how many rows were published, or why none could be.
    passes = iter([BrokerUnavailable("one"), BrokerUnavailable("two"), 0, BrokerUnavailable("one"), 0, 1, 1])

    def pass_by(stage: Stage, *, patient: bool) -> int:
        found = next(passes) if stage is STAGES[0] else 0
        if isinstance(found, BrokerUnavailable):
            raise found
        return found

    monkeypatch.setattr(runtime.relay, "publish_due", pass_by)
    monkeypatch.setattr(runtime.relay, "_wait", lambda *_: None)
    monkeypatch.setattr(runtime.relay, "_maintain", lambda: None)
    ends = iter([False] * 7)
    with capture_logs() as lines:
        runtime.relay.run(lambda: next(ends, True))

    said = [each["action"] for each in lines if each["action"] in ("relay_hindered", "relay_back")]
    assert said == ["relay_hindered", "relay_back"]


def ring(runtime: Runtime) -> bool:
    time.sleep(0.1)
    runtime.wakeups.ring("authorization")
    return False


def test_one_pass_without_redis_says_so_and_keeps_the_rows(without_redis: Runtime) -> None:
    accept(without_redis.database, now=just_now())

    with pytest.raises(BrokerUnavailable, match="Redis"):
        without_redis.relay.once()

    row = only_row(without_redis.database, Requests)
    assert (row.lease_until, row.job_id) == (None, None)


def test_the_retry_of_a_job_comes_back_into_its_queue(runtime: Runtime, server: RedisServer) -> None:
    accept(runtime.database, now=just_now())
    runtime.relay.publish_due(AUTHORIZATION)
    (job,) = queued(server)
    server.client.delete("rq:queue:authorization")
    server.client.zadd("rq:scheduled:authorization", {job.id: time.time() - 1})

    runtime.relay.once()

    assert [each.id for each in queued(server)] == [job.id]


def test_job_ids_are_never_used_twice_and_suit_rq() -> None:
    ids = {new_job_id(stage) for stage in STAGES for _ in range(100)}

    assert len(ids) == 300
    assert all(id_.replace("-", "").isalnum() for id_ in ids)


def test_delivery_events_are_published_too(runtime: Runtime) -> None:
    accept(runtime.database, now=just_now())
    decide(runtime.database, now=just_now())
    attempt(runtime.database, DELIVERED, just_now())

    assert runtime.relay.once().published == {"authorization": 0, "callbacks": 0, "delivery-events": 1}
    assert only_row(runtime.database, Deliveries).job_id.startswith("delivery-events-")
    assert only_row(runtime.database, Callbacks).settled_at is not None


def test_a_broker_that_is_away_is_told_once_and_not_with_every_try(
    without_redis: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse() -> None:
        tries.append(1)
        raise BrokerUnavailable("Redis: away")

    monkeypatch.setattr(without_redis.transport, "enqueue_scheduled", refuse)
    with capture_logs() as lines, Running(without_redis):
        for number in range(1, 4):
            eventually(lambda number=number: len(tries) >= number)
            without_redis.wakeups.ring("authorization")

    assert [each["error"] for each in lines if each["event"] == "Relay cannot work just now"] == ["Redis: away"]
