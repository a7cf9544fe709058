"""A worker of one stage on a real Redis: runs our jobs, and nothing else that somebody may put there."""

import json
import logging
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from support.builders import (
    TOKEN,
    Callbacks,
    Requests,
    accept,
    change,
    claim,
    decide,
    eventually,
    facts,
    just_now,
    new_runtime,
    only_row,
    rows,
    the_request,
)
from support.redis_server import RedisServer

import jobs.consumer
import jobs.worker
from chargeapp.clock import utcnow
from chargeapp.errors import DatabaseUnavailable
from chargeapp.pipeline import AUTHORIZATION, CALLBACKS, DELIVERY_EVENTS, STAGES, Stage
from chargeapp.runtime import Runtime
from chargeapp.storage import heartbeats
from chargeapp.storage.models import Heartbeat
from jobs.heart import Heart
from jobs.worker import StageWorker, run_worker


@pytest.fixture
def runtime(tmp_path: Path, server: RedisServer) -> Iterator[Runtime]:
    server.client.flushall()
    with new_runtime(tmp_path, redis_url=server.url, queue_consumer_threads=4) as runtime:
        yield runtime


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker takes over the signals; and it lingers for no longer than a test needs."""
    monkeypatch.setattr(jobs.consumer, "LINGER_SECONDS", 0.1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Lines of the log that tell of an error, ours and the libraries'."""
    with capture_logs() as ours:
        yield lambda: [
            *(str(line) for line in ours if line["log_level"] == "error"),
            *(record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR),
        ]


class CallerHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.arrived.set()  # type: ignore[attr-defined]
        self.server.answer.wait(20)  # type: ignore[attr-defined]
        self.send_response(self.server.statuses.pop(0))  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def caller() -> Iterator[Any]:
    """Answers with `statuses` in turn, once `answer` is set."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), CallerHandler)
    server.daemon_threads = False
    server.arrived, server.answer, server.statuses = threading.Event(), threading.Event(), [204]  # type: ignore[attr-defined]
    server.answer.set()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.answer.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def work(runtime: Runtime, stage: Stage) -> StageWorker:
    """Everything that is in the queue."""
    worker = StageWorker(runtime, stage)
    worker.work(burst=True, logging_level=None)
    worker._jobs._pool.shutdown()
    worker.connection.close()
    return worker


def due_request(runtime: Runtime) -> str:
    (request_id,) = accept(runtime.database, now=just_now(), vault=runtime.vault)
    return request_id


def due_callback(runtime: Runtime, caller: Any) -> str:
    port = caller.server_address[1]
    (request_id,) = accept(
        runtime.database,
        now=just_now(),
        vault=runtime.vault,
        callback_url=f"http://127.0.0.1:{port}/hook",
        destination=f"127.0.0.1:{port}",
    )
    decide(runtime.database, now=just_now())
    return request_id


def slip_in(server: RedisServer, queue: str, data: bytes | str, **fields: Any) -> None:
    """A job as somebody with access to Redis may write it."""
    server.client.hset(
        "rq:job:poison",
        mapping={
            "created_at": "2026-01-02T03:04:05.000000Z",
            "data": data if isinstance(data, bytes) else zlib.compress(data.encode()),
            "origin": queue,
            "status": "queued",
            "timeout": 180,
            **fields,
        },
    )
    server.client.rpush(f"rq:queue:{queue}", "poison")


def call(name: str, *args: Any, **kwargs: Any) -> str:
    return json.dumps([name, None, list(args), kwargs])


def test_the_authorization_worker_decides(runtime: Runtime) -> None:
    request_id = due_request(runtime)
    runtime.relay.publish_due(AUTHORIZATION)

    work(runtime, AUTHORIZATION)

    assert the_request(runtime.database, request_id).decision == "not_allowed"
    assert only_row(runtime.database, Requests).settled_at is not None


def test_without_a_relay_a_worker_publishes_its_own_next_rows(runtime: Runtime, server: RedisServer) -> None:
    due_request(runtime)
    runtime.relay.publish_due(AUTHORIZATION)

    work(runtime, AUTHORIZATION)

    assert server.client.llen("rq:queue:callbacks") == 1


def test_each_stage_does_its_part_until_the_request_is_delivered(runtime: Runtime, caller: Any) -> None:
    port = caller.server_address[1]
    (request_id,) = accept(
        runtime.database, now=just_now(), vault=runtime.vault, callback_url=f"http://127.0.0.1:{port}/hook"
    )
    runtime.relay.publish_due(AUTHORIZATION)

    for stage in STAGES:
        work(runtime, stage)

    assert the_request(runtime.database, request_id).state == "delivered"


def test_a_worker_takes_no_jobs_of_another_queue(runtime: Runtime, server: RedisServer) -> None:
    due_request(runtime)
    runtime.relay.publish_due(AUTHORIZATION)

    work(runtime, CALLBACKS)

    assert server.client.llen("rq:queue:authorization") == 1


@pytest.mark.parametrize("name", [AUTHORIZATION.job, "os.system", "jobs.callbacks.deliver2"])
def test_a_job_of_another_name_is_not_run_though_its_message_is_good(
    runtime: Runtime, server: RedisServer, caller: Any, errors: Callable[[], list[str]], name: str
) -> None:
    due_callback(runtime, caller)
    claim(runtime.database, Callbacks, utcnow())
    slip_in(server, "callbacks", call(name, {"rows": [[1, 1]]}))

    work(runtime, CALLBACKS)

    assert only_row(runtime.database, Callbacks).taken_at is None
    assert len(errors()) == 1


POISON = {
    "bad JSON": "{not json",
    "no compressed data": b"\x00\x01\x02",
    "deeply nested JSON": "[" * 100_000,
    "pickle bytes": zlib.compress(pickle.dumps(("os.system", None, ("touch {witness}",), {}))),
    "another function": call("os.system", "touch {witness}"),
    "an instance": json.dumps([AUTHORIZATION.job, {"self": 1}, [{"rows": [[1, 1]]}], {}]),
    "extra keywords": call(AUTHORIZATION.job, {"rows": [[1, 1]]}, connection="x"),
    "two arguments": call(AUTHORIZATION.job, {"rows": [[1, 1]]}, 2),
    "no arguments": call(AUTHORIZATION.job),
    "a strange message": call(AUTHORIZATION.job, {"rows": [[1, 1]], "sql": "DROP TABLE events"}),
    "too short": json.dumps([AUTHORIZATION.job]),
}


@pytest.mark.parametrize("name", POISON)
def test_a_poison_message_is_not_run_and_the_next_job_is(
    runtime: Runtime, server: RedisServer, tmp_path: Path, name: str, errors: Callable[[], list[str]]
) -> None:
    witness = tmp_path / "witness"
    data = POISON[name]
    request_id = due_request(runtime)
    slip_in(server, "authorization", data.replace("{witness}", str(witness)) if isinstance(data, str) else data)
    runtime.relay.publish_due(AUTHORIZATION)

    work(runtime, AUTHORIZATION)

    assert len(errors()) == 1, errors()
    assert TOKEN not in errors()[0]
    assert not witness.exists()
    assert the_request(runtime.database, request_id).state == "decided"
    assert server.client.llen("rq:queue:authorization") == 0


@pytest.mark.parametrize("field", ["success_callback_name", "failure_callback_name", "stopped_callback_name"])
def test_callbacks_named_in_a_job_are_not_called(
    runtime: Runtime, server: RedisServer, tmp_path: Path, field: str
) -> None:
    witness = tmp_path / "witness"
    script = tmp_path / "evil_module.py"
    script.write_text(f"open({str(witness)!r}, 'w').close()\ndef run(*args): pass\n")
    due_request(runtime)
    runtime.relay.publish_due(AUTHORIZATION)
    (job_id,) = server.client.lrange("rq:queue:authorization", 0, -1)
    server.client.hset(b"rq:job:" + job_id, field, "evil_module.run")
    sys.path.insert(0, str(tmp_path))
    try:
        work(runtime, AUTHORIZATION)
    finally:
        sys.path.remove(str(tmp_path))

    assert not witness.exists()
    assert only_row(runtime.database, Requests).settled_at is not None


def test_webhooks_named_in_a_job_are_not_called(runtime: Runtime, server: RedisServer, caller: Any) -> None:
    due_request(runtime)
    runtime.relay.publish_due(AUTHORIZATION)
    (job_id,) = server.client.lrange("rq:queue:authorization", 0, -1)
    url = f"http://127.0.0.1:{caller.server_address[1]}/"
    server.client.hset(b"rq:job:" + job_id, "webhooks", json.dumps([{"url": url, "statuses": ["finished"]}]))

    work(runtime, AUTHORIZATION)

    assert not caller.arrived.wait(0.2)
    assert only_row(runtime.database, Requests).settled_at is not None


def test_a_failed_callback_returns_as_a_retry_of_rq_and_the_relay_brings_it_back(
    runtime: Runtime, server: RedisServer, caller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.consumer, "LINGER_SECONDS", 1.0)
    monkeypatch.setattr(random, "uniform", lambda *_: 1.9)  # longer than the job lingers
    caller.statuses[:] = [500, 204]
    request_id = due_callback(runtime, caller)
    runtime.relay.publish_due(CALLBACKS)

    work(runtime, CALLBACKS)

    ((job_id, at),) = server.client.zrange("rq:scheduled:callbacks", 0, -1, withscores=True)
    row = only_row(runtime.database, Callbacks)
    assert row.job_id == job_id.decode()
    # RQ counts whole seconds; a job that is early waits for its row.
    assert row.due_at.timestamp() - 1 <= at <= row.due_at.timestamp() + 2

    eventually(lambda: bring_back(runtime, server), deadline_seconds=5)
    work(runtime, CALLBACKS)

    outcomes = [fact.details["outcome"] for fact in facts(runtime.database, request_id, "CallbackAttempted")]
    assert outcomes == ["retry", "delivered"]


def bring_back(runtime: Runtime, server: RedisServer) -> bool:
    runtime.transport.enqueue_scheduled()
    return bool(server.client.llen("rq:queue:callbacks"))


def test_a_dead_redis_ends_no_job_that_is_at_work(tmp_path: Path, caller: Any) -> None:
    with RedisServer() as server, new_runtime(tmp_path, redis_url=server.url) as runtime:
        due_callback(runtime, caller)
        with runtime.database.writing() as session:
            tickets = jobs.consumer.outbox.claim_due(session, Callbacks, job_id="job", limit=9, now=utcnow())
        worker = StageWorker(runtime, CALLBACKS)
        server.stop()

        retry = worker.consume("job", {"rows": [[each.row_id, each.seq] for each in tickets]})

        assert retry is None
        assert only_row(runtime.database, Callbacks).settled_at is not None
        worker._jobs._pool.shutdown()
        worker.connection.close()


def start(runtime: Runtime, queue: str) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "CHARGEAPP_CONFIG": os.devnull,
        "CHARGEAPP_DATA_DIR": str(runtime.settings.chargeapp_data_dir),
        "REDIS_URL": str(runtime.settings.redis_url),
        "CALLBACK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "LOG_FORMAT": "json",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "chargeapp", "worker", queue], env=environment, stderr=subprocess.PIPE, text=True
    )


def workers(runtime: Runtime) -> list[Heartbeat]:
    with runtime.database.reading() as session:
        return heartbeats.since(session, "worker ", just_now() - heartbeats.FORGOTTEN_AFTER)


def test_sigterm_in_the_middle_of_a_job_finishes_it(runtime: Runtime, caller: Any) -> None:
    caller.answer.clear()
    request_id = due_callback(runtime, caller)
    runtime.relay.publish_due(CALLBACKS)
    process = start(runtime, "callbacks")
    assert caller.arrived.wait(20)
    assert [each.process.split(" ")[:2] for each in workers(runtime)] == [["worker", "callbacks"]]

    process.terminate()
    time.sleep(0.2)
    assert process.poll() is None
    caller.answer.set()
    _, errors = process.communicate(timeout=20)

    assert process.returncode == 0, errors
    assert [fact.details["outcome"] for fact in facts(runtime.database, request_id, "CallbackAttempted")] == [
        "delivered"
    ]
    assert only_row(runtime.database, Callbacks).settled_at is not None
    assert workers(runtime) == []


def test_a_worker_waits_for_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer() as server, new_runtime(tmp_path, redis_url=server.url) as runtime:
        due_request(runtime)
        server.stop()
        monkeypatch.setattr(jobs.worker, "time", SimpleNamespace(sleep=lambda _: server.start()))
        worked = []
        monkeypatch.setattr(StageWorker, "work", lambda self, **_: worked.append(self))

        run_worker(runtime, AUTHORIZATION)

        assert [each.stage for each in worked] == [AUTHORIZATION]
        assert workers(runtime) == []


def test_a_heart_goes_on_beating_and_leaves_in_the_end(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.05)
    with Heart(runtime, DELIVERY_EVENTS):
        (first,) = eventually(lambda: workers(runtime))
        eventually(lambda: workers(runtime)[0].at > first.at)

    assert workers(runtime) == []


def test_a_worker_forgets_those_of_its_kind_that_were_killed_on_its_machine(runtime: Runtime) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    here, gone, alive = socket.gethostname(), process.pid, os.getppid()
    others = {f"worker callbacks {here} {gone}", f"worker delivery-events elsewhere {gone}"}
    others |= {f"worker delivery-events {here} {alive}"}
    for name in (*others, f"worker delivery-events {here} {gone}"):
        change(runtime.database, lambda session, name=name: heartbeats.beat(session, name, just_now()))

    with Heart(runtime, DELIVERY_EVENTS):
        own = f"worker delivery-events {here} {os.getpid()}"
        eventually(lambda: own in {each.process for each in workers(runtime)})

        assert {each.process for each in workers(runtime)} == {own, *others}


def test_a_heart_survives_a_locked_database(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.05)
    beats = []

    def refuse(*_: object, **__: object) -> None:
        beats.append(1)
        raise DatabaseUnavailable

    monkeypatch.setattr(heartbeats, "beat", refuse)
    with Heart(runtime, DELIVERY_EVENTS):
        eventually(lambda: len(beats) > 2)


def test_job_names_on_the_map_exist_in_words_only(runtime: Runtime) -> None:
    # Nothing is imported by these names: they only have to match.
    assert [stage.job for stage in STAGES] == [
        "jobs.authorization.authorize",
        "jobs.callbacks.deliver",
        "jobs.delivery_events.record",
    ]
    with runtime.database.reading() as session:
        tables = set(session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")))
    assert {stage.outbox.__tablename__ for stage in STAGES} <= tables
    assert len(rows(runtime.database, Requests)) == 0
