"""Single faults that need no processes: clock jumps, late owners, places that cannot be written to."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.builders import (
    DELIVERED,
    FAILED,
    Callbacks,
    accept,
    attempt,
    begin_callbacks,
    decide,
    eventually,
    facts,
    just_now,
    new_runtime,
    rows,
    seconds,
    the_request,
)
from support.callers import API, BODY, open_api
from support.redis_server import RedisServer

import jobs.authorization
import jobs.callbacks
import jobs.consumer
import jobs.worker
from chargeapp import relay as relay_module
from chargeapp.clock import utcnow
from chargeapp.domain.callback import Reply
from chargeapp.pipeline import STAGES
from chargeapp.runtime import Runtime
from chargeapp.services.callback_deliveries import Attempt, Callback
from chargeapp.storage import outbox
from chargeapp.storage.models import SessionRequest
from jobs.callbacks import Callbacks as CallbacksWork
from jobs.consumer import Consumer
from jobs.worker import StageWorker

HOUR = timedelta(hours=1)


class Clock:
    """What relay and jobs take for the time: it jumps after a start of the machine, on PostgreSQL, or by many hours."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utcnow() + self.ahead


@pytest.fixture
def runtime(tmp_path: Path, server: RedisServer) -> Iterator[Runtime]:
    server.client.flushall()
    with new_runtime(tmp_path, redis_url=server.url, queue_consumer_threads=4) as runtime, capture_logs():
        yield runtime


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (relay_module, jobs.authorization, jobs.callbacks, jobs.consumer, jobs.worker):
        monkeypatch.setattr(module, "utcnow", clock)
    monkeypatch.setattr(jobs.consumer, "LINGER_SECONDS", 0.1)
    return clock


class Endpoint:
    """Answers as laid out; what was sent is counted."""

    def __init__(self, *replies: Reply) -> None:
        self.sent: list[str] = []
        self._replies = [*replies] or [DELIVERED]

    def send(self, url: str, caller: str, request_id: str, body: Any, now: datetime) -> Reply:
        self.sent.append(request_id)
        return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]

    @property
    def _client(self) -> "Endpoint":
        return self

    def close(self) -> None:
        """Nothing is open."""


def receiver(runtime: Runtime, *replies: Reply) -> Endpoint:
    endpoint = Endpoint(*replies)
    vars(runtime)["callback_endpoint"] = endpoint
    return endpoint


def turn(runtime: Runtime) -> None:
    """The relay, then each worker with all that is in its queue."""
    runtime.relay.once()
    for stage in STAGES:
        worker = StageWorker(runtime, stage)
        worker.work(burst=True, logging_level=None)
        worker._jobs._pool.shutdown()
        worker.connection.close()


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def asked(runtime: Runtime, number: int = 1) -> list[str]:
    return accept(runtime.database, number, now=just_now(), vault=runtime.vault)


def states(runtime: Runtime) -> set[str]:
    return {each.state for each in rows(runtime.database, SessionRequest)}


# Clock


def turn_until_delivered(runtime: Runtime, deadline_seconds: float = 20) -> None:
    def delivered() -> bool:
        turn(runtime)
        return states(runtime) == {"delivered"}

    eventually(delivered, f"stalled: {states(runtime)}", deadline_seconds)


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["+1 h", "-1 h"])
def test_what_comes_after_a_jump_of_the_clock_goes_its_way(runtime: Runtime, clock: Clock, jump: timedelta) -> None:
    endpoint = receiver(runtime)
    runtime.relay.once()
    clock.ahead = jump
    ids = accept(runtime.database, 3, now=clock() - seconds(0.01), vault=runtime.vault)

    turn_until_delivered(runtime)

    assert sorted(endpoint.sent) == sorted(ids)


@pytest.mark.parametrize("step", ["accepted", "published", "decided", "to be tried again", "held by a dead worker"])
def test_nothing_stalls_when_the_clock_is_set_back(runtime: Runtime, clock: Clock, step: str) -> None:
    endpoint = receiver(runtime, *([FAILED] if step == "to be tried again" else []), DELIVERED)
    runtime.relay.once()
    (request_id,) = asked(runtime)
    if step == "published":
        runtime.relay.once()
    elif step != "accepted":
        decide(runtime.database, now=just_now())
    if step == "to be tried again":
        turn(runtime)
        assert endpoint.sent == [request_id]
    elif step == "held by a dead worker":
        begin_callbacks(runtime.database, utcnow() - seconds(outbox.LEASE_SECONDS))
    before = the_request(runtime.database, request_id)

    clock.ahead = -HOUR
    turn_until_delivered(runtime)

    request = the_request(runtime.database, request_id)
    assert set(endpoint.sent) == {request_id}
    # It has as much time left as before, give or take the seconds between two heartbeats.
    assert abs(before.expires_at - HOUR - request.expires_at) < seconds(30)
    assert [fact.type for fact in facts(runtime.database, request_id) if fact.terminal] == ["CallbackDeliverySucceeded"]


def test_setting_the_clock_back_is_logged_once(runtime: Runtime, clock: Clock) -> None:
    runtime.relay.once()
    asked(runtime)

    clock.ahead = -HOUR
    with capture_logs() as lines:
        runtime.relay.once()
        runtime.relay.once()

    told = [line for line in lines if line.get("action") == "clock_set_back"]
    assert len(told) == 1
    assert 3590 < told[0]["seconds"] <= 3600


def test_a_clock_that_is_only_corrected_changes_nothing(runtime: Runtime, clock: Clock) -> None:
    runtime.relay.once()
    (request_id,) = asked(runtime)
    before = the_request(runtime.database, request_id).expires_at

    clock.ahead = -seconds(2)
    with capture_logs() as lines:
        runtime.relay.once()

    assert [line for line in lines if line.get("action") == "clock_set_back"] == []
    assert the_request(runtime.database, request_id).expires_at == before


def test_a_request_accepted_after_the_clock_was_set_back_keeps_its_times(runtime: Runtime, clock: Clock) -> None:
    runtime.relay.once()
    clock.ahead = -HOUR
    (request_id,) = accept(runtime.database, now=clock() - seconds(0.01), vault=runtime.vault)
    before = the_request(runtime.database, request_id).expires_at

    runtime.relay.once()

    assert the_request(runtime.database, request_id).expires_at == before


def test_a_call_under_way_when_the_clock_jumps_ahead_is_no_failure(runtime: Runtime, clock: Clock) -> None:
    (request_id,) = asked(runtime)
    decide(runtime.database, now=just_now())

    class Jumping(Endpoint):
        def send(self, *arguments: Any) -> Reply:
            clock.ahead = HOUR
            return super().send(*arguments)

    endpoint = Jumping()
    vars(runtime)["callback_endpoint"] = endpoint

    turn_until_delivered(runtime)

    assert endpoint.sent == [request_id]
    assert [fact.type for fact in facts(runtime.database, request_id) if fact.terminal] == ["CallbackDeliverySucceeded"]


def test_what_waited_when_the_clock_jumped_ahead_is_decided_and_ends(runtime: Runtime, clock: Clock) -> None:
    """An hour more that cannot be told from one that has passed: what is too late has expired, and is never sent."""
    endpoint = receiver(runtime)
    ids = asked(runtime, 3)
    clock.ahead = HOUR

    eventually(
        lambda: turn(runtime) or ("accepted" not in states(runtime) and "decided" not in states(runtime)), "", 20
    )

    assert endpoint.sent == []
    for request_id in ids:
        request = the_request(runtime.database, request_id)
        assert (request.state, request.decision, request.reason) == ("expired", "unknown", "authorization_timeout")
        assert len([fact for fact in facts(runtime.database, request_id) if fact.terminal]) == 1


# A worker that was held up


class Rehearsed(CallbacksWork):
    def __init__(self, runtime: Runtime, call: Any) -> None:
        super().__init__(runtime)
        self._call = call

    def perform(self, task: Callback) -> Attempt:
        return Attempt(task, self._call(task), utcnow())


def test_rows_that_waited_in_a_job_for_longer_than_their_lease_are_not_called(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(jobs.consumer, "LINGER_SECONDS", 0.1)
    accept(runtime.database, 2, now=just_now())
    decide(runtime.database, now=just_now())
    called: list[str] = []

    def call(callback: Callback) -> Reply:
        """While this one takes its time, somebody else does both."""
        called.append(callback.request_id)
        if len(called) == 1:
            eventually(
                lambda: done_by_another.extend(attempt(runtime.database, now=utcnow())) or len(done_by_another) == 2
            )
        return DELIVERED

    done_by_another: list[Callback] = []
    with ThreadPoolExecutor(1) as pool:
        Consumer(
            Rehearsed(runtime, call),
            job_id="job",
            database=runtime.database,
            wakeups=runtime.wakeups,
            pool=pool,
            threads=1,
            stopping=lambda: False,
            after_commit=lambda: None,
        ).run([])

    late = [facts(runtime.database, each.request_id, "LateResultDiscarded") for each in done_by_another]
    assert len(called) == 1
    assert sorted(map(len, late)) == [0, 1]
    assert all(row.settled_at for row in rows(runtime.database, Callbacks))


# Places that cannot be written to


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = mount("-t", "tmpfs", "-o", "size=8m,mode=700", "chargeapp-test", str(disk))
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def mount(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["mount", *words], capture_output=True, text=True)


def test_a_read_only_file_system_refuses_and_then_accepts_again(small_disk: Path) -> None:
    with new_runtime(small_disk) as runtime:
        (before,) = accept(runtime.database, now=just_now())
        settings = runtime.verify().settings
    # Nothing can be made read-only that somebody has open; the kernel does it by itself when a disk fails.
    assert mount("-o", "remount,ro", str(small_disk)).returncode == 0
    runtime = Runtime(settings)
    client = open_api(runtime)
    with capture_logs() as lines:
        refused = client.post(API, json=BODY)
        health = client.get("/health")

    assert (refused.status_code, refused.json["status"]) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert "Nothing was accepted" in refused.json["message"]
    assert (health.status_code, health.json["status"]) == (503, "DOWN")
    assert "Read-only file system" in str([line for line in lines if line.get("action") == "unavailable"])
    assert mount("-o", "remount,rw", str(small_disk)).returncode == 0
    after = client.post(API, json=BODY).json["requestId"]
    assert [each.id for each in rows(runtime.database, SessionRequest)] == [before, after]
    runtime.database.close()


def chargeapp(*words: str, data_dir: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "CHARGEAPP_DATA_DIR": str(data_dir)}
    command = [sys.executable, "-m", "chargeapp", *words]
    return subprocess.run(command, env=environment, cwd=data_dir.parent, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", [["db", "upgrade"], ["up", "--no-demo"], ["relay", "--once"]], ids=" ".join)
def test_a_command_on_a_read_only_file_system_says_so_in_one_line(small_disk: Path, command: list[str]) -> None:
    with new_runtime(small_disk):
        pass
    assert mount("-o", "remount,ro", str(small_disk)).returncode == 0

    ended = chargeapp(*command, data_dir=small_disk)

    told = ended.stderr.strip().splitlines()
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert told[-1].startswith("chargeapp: ")
    assert str(small_disk) in told[-1]
    assert "Read-only file system" in told[-1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_of_somebody_else_is_named(tmp_path: Path) -> None:
    place = tmp_path / "var"
    place.mkdir(mode=0o500)

    ended = chargeapp("db", "upgrade", data_dir=place)

    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert str(place) in ended.stderr
    assert "Permission denied" in ended.stderr
