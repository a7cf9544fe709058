"""Somebody else writes into our Redis: real worker and relay processes run nothing of it, and go on working."""

import json
import os
import pickle
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from support.builders import accept, eventually, just_now, new_runtime, the_request
from support.redis_server import RedisServer

from chargeapp.pipeline import AUTHORIZATION
from chargeapp.runtime import Runtime

HASH = "rq:job:{}"
QUEUE = "rq:queue:authorization"
BOMB = zlib.compress(b"[" + b" " * 300_000_000)
PROCESS_SECONDS = 30.0
MEMORY_BYTES = 400 * 1024 * 1024


class Evil:
    """Unpickled, it leaves a trace."""

    def __init__(self, witness: Path) -> None:
        self._command = f"touch {witness}/unpickled"

    def __reduce__(self) -> Any:
        return os.system, (self._command,)


@dataclass
class Place:
    """Our processes and what an attacker leaves traces in."""

    server: RedisServer
    runtime: Runtime
    witness: Path
    environment: dict[str, str]
    listener: socket.socket

    @property
    def client(self) -> redis.Redis:
        return self.server.client

    @property
    def canary_url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/"

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.witness.parent / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "chargeapp", *words], env=self.environment, stdout=log, stderr=log
            )

    def log(self, process: str) -> str:
        return (self.witness.parent / f"{process}.log").read_text(errors="replace")

    def traces(self) -> list[str]:
        found = [path.name for path in self.witness.iterdir()]
        self.listener.setblocking(False)
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return found
        return [*found, "connection"]

    def slip_in(self, fields: dict[str, Any], job_id: bytes | str = "foreign") -> None:
        """A job in the queue."""
        key = HASH.format(job_id) if isinstance(job_id, str) else b"rq:job:" + job_id
        self.client.hset(key, mapping=fields)
        self.client.rpush(QUEUE, job_id)

    def queue_is_empty(self) -> None:
        """A job that waits for more rows leaves those behind it waiting for a second."""
        eventually(lambda: not self.client.llen(QUEUE), self.log("worker")[-3000:], PROCESS_SECONDS)

    def honest_request_is_decided(self) -> None:
        (request_id,) = accept(self.runtime.database, now=just_now(), vault=self.runtime.vault)
        self.runtime.wakeups.ring(AUTHORIZATION.queue)
        eventually(
            lambda: the_request(self.runtime.database, request_id).decision == "not_allowed",
            f"not decided; {self.log('worker')[-3000:]}",
            PROCESS_SECONDS,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("hostile")
    witness = directory / "witness"
    witness.mkdir()
    evil = directory / "evil"
    evil.mkdir()
    (evil / "evil_module.py").write_text(
        f"open({str(witness / 'imported')!r}, 'w').close()\n"
        f"def run(*args, **kwargs): open({str(witness / 'called')!r}, 'w').close()\n"
    )
    with (
        RedisServer() as server,
        new_runtime(directory, redis_url=server.url) as runtime,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        environment = {
            **os.environ,
            "CHARGEAPP_DATA_DIR": str(directory),
            "CHARGEAPP_CONFIG": os.devnull,
            "REDIS_URL": server.url,
            "LOG_FORMAT": "json",
            "PYTHONPATH": str(evil),
        }
        yield Place(server, runtime, witness, environment, listener)


@pytest.fixture(scope="module")
def worker(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    with running(place, "worker", "authorization") as process:
        yield process


@pytest.fixture(scope="module")
def relay(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    with running(place, "relay") as process:
        yield process


class running:  # noqa: N801 - reads as a statement
    def __init__(self, place: Place, *words: str) -> None:
        self._process = place.start(*words)

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(PROCESS_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def packed(*data: Any) -> bytes:
    return zlib.compress(json.dumps(data).encode())


def ours(**more: Any) -> dict[str, Any]:
    """A job that could be ours, for a row that is not there, with something more to it."""
    message = {"rows": [[999_999, 1]]}
    return {"data": packed(AUTHORIZATION.job, None, [message], {}), "origin": "authorization", **more}


def foreign(name: str = "evil_module.run", **more: Any) -> dict[str, Any]:
    return {"data": packed(name, None, [], {}), "origin": "authorization", **more}


def pickled(place: Place) -> bytes:
    return pickle.dumps(Evil(place.witness))


def hook(place: Place) -> str:
    return json.dumps([{"url": place.canary_url, "statuses": ["finished", "failed", "stopped"]}])


JOBS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "a foreign function": lambda place: foreign(),
    "a function of the standard library": lambda place: foreign("os.system"),
    "our function on an instance": lambda place: {
        "data": packed(AUTHORIZATION.job, "evil_module", [{"rows": [[1, 1]]}], {})
    },
    "a success callback": lambda place: ours(success_callback_name="evil_module.run"),
    "a failure callback": lambda place: foreign(failure_callback_name="evil_module.run"),
    "a stopped callback": lambda place: foreign(stopped_callback_name="evil_module.run"),
    "webhooks after success": lambda place: ours(webhooks=hook(place)),
    "webhooks after failure": lambda place: foreign(webhooks=hook(place)),
    "pickled data": lambda place: {"data": zlib.compress(pickled(place))},
    "pickled data, not compressed": lambda place: {"data": pickled(place)},
    "a pickled meta field": lambda place: ours(meta=pickled(place)),
    "a pickled result": lambda place: ours(result=pickled(place)),
    "a pickled traceback": lambda place: ours(exc_info=pickled(place)),
    "dependencies": lambda place: ours(dependency_ids='["dependent"]', allow_dependency_failures=1),
    "dependencies that are no JSON": lambda place: ours(dependency_ids="{", dependency_id=b"\xff"),
    "repetitions": lambda place: ours(repeats_left=1_000_000, repeat_intervals="[0]"),
    "retries without end": lambda place: foreign(retries_left=1_000_000, retry_intervals="[0]"),
    "a group": lambda place: ours(group_id="evil"),
    "a rate limit": lambda place: ours(rate_limit_key="evil", rate_limit_concurrency=1),
    "a time limit of nothing": lambda place: ours(timeout=1, ttl=1, result_ttl=-1, failure_ttl=-1),
    "a strange status": lambda place: ours(status="evil"),
    "strange numbers": lambda place: ours(timeout="x", ttl="x", result_ttl="1e99", retries_left="x", repeats_left="x"),
    "strange times": lambda place: ours(created_at="x", enqueued_at="\0", started_at="9" * 1000),
    "bytes that are no text": lambda place: {**ours(), "origin": b"\xff", "worker_name": b"\xff", "group_id": b"\xff"},
    "a strange count of retries": lambda place: ours(number_of_retries="x"),
    "no data": lambda place: {"status": "queued"},
    "nested beyond measure": lambda place: {"data": zlib.compress(b"[" * 60_000)},
    "300 MB in 300 KB": lambda place: {"data": BOMB},
    "a traceback of 300 MB in 300 KB": lambda place: ours(exc_info=BOMB),
    "32 MB of data": lambda place: {"data": os.urandom(32_000_000)},
    "32 MB in another field": lambda place: ours(description=os.urandom(32_000_000)),
}


@pytest.mark.parametrize("name", JOBS)
def test_nothing_foreign_is_run_and_the_worker_lives(
    place: Place, worker: subprocess.Popen[bytes], relay: subprocess.Popen[bytes], name: str
) -> None:
    # A job that depends on the hostile one, in case it is one of ours.
    place.client.hset(HASH.format("dependent"), mapping=foreign(status="deferred"))
    place.client.sadd(HASH.format("foreign") + ":dependents", "dependent")

    place.slip_in(JOBS[name](place))

    place.queue_is_empty()
    place.honest_request_is_decided()
    assert place.traces() == []
    assert (worker.poll(), relay.poll()) == (None, None), place.log("worker")[-3000:]
    assert memory_of(worker.pid) < MEMORY_BYTES
    place.client.delete(HASH.format("foreign"), HASH.format("foreign") + ":dependents")


@pytest.mark.parametrize("job_id", [b"\xff\xfe", b"", b"with space", b"a:b", b"../../etc", b"\0", b"x" * 100_000])
def test_an_id_that_is_none_is_refused(
    place: Place, worker: subprocess.Popen[bytes], relay: subprocess.Popen[bytes], job_id: bytes
) -> None:
    place.slip_in(foreign(), job_id)

    place.queue_is_empty()
    place.honest_request_is_decided()
    assert place.traces() == []
    assert worker.poll() is None, place.log("worker")[-3000:]


def test_commands_over_pubsub_are_not_heard(
    place: Place, worker: subprocess.Popen[bytes], relay: subprocess.Popen[bytes]
) -> None:
    place.honest_request_is_decided()
    names = [key.decode().removeprefix("rq:worker:") for key in place.client.smembers("rq:workers")]

    heard = [
        place.client.publish(f"rq:pubsub:{name}", message)
        for name in names
        for message in ('{"command": "shutdown"}', "{", pickled(place))
    ]

    place.honest_request_is_decided()
    assert names
    assert set(heard) == {0}
    assert worker.poll() is None


def test_the_relay_moves_only_our_own_scheduled_jobs_and_lives(
    place: Place, worker: subprocess.Popen[bytes], relay: subprocess.Popen[bytes]
) -> None:
    own = b"authorization-" + b"0" * 32
    hostile = {
        b"foreign": foreign(),
        b"\xff": foreign(),
        b"callbacks-" + b"0" * 32: foreign(),
        b"authorization-" + b"1" * 31: foreign(),
        b"pickled": {"data": pickled(place), "meta": pickled(place)},
        b"broken": ours(timeout="x", created_at="x", status="x", rate_limit_key="k", rate_limit_concurrency=1),
        b"authorization-" + b"2" * 32: {"data": pickled(place), "meta": pickled(place), "timeout": "x"},
        own: ours(),
    }
    for job_id, fields in hostile.items():
        place.client.hset(b"rq:job:" + job_id, mapping=fields)

    place.client.zadd("rq:scheduled:authorization", dict.fromkeys(hostile, 1.0))

    eventually(lambda: not place.client.exists("rq:scheduled:authorization"), place.log("relay")[-2000:])
    eventually(lambda: not place.client.exists(b"rq:job:" + own), "our own job was not run")
    place.honest_request_is_decided()
    assert place.traces() == []
    assert (worker.poll(), relay.poll()) == (None, None)
    assert place.log("relay").count("message_refused") >= 6


def test_a_worker_starts_and_cleans_up_beside_hostile_remains(place: Place, relay: subprocess.Popen[bytes]) -> None:
    """What RQ looks at when it starts: it would fetch these jobs, call what they name and fail on the unreadable."""
    client, bad = place.client, {**foreign(failure_callback_name="evil_module.run", status="started")}
    bad |= {"webhooks": hook(place), "meta": pickled(place), "retries_left": 5}
    for job_id in ("abandoned", "stuck", "ready", "grouped", "limited"):
        client.hset(HASH.format(job_id), mapping=bad)
    client.zadd("rq:wip:authorization", {"abandoned:1": 1.0, b"\xff:\xff": 1.0, "no execution": 1.0})
    client.rpush("rq:queue:authorization:intermediate", "stuck", b"\xff", "with space")
    client.set("rq:queue:authorization:intermediate:first_seen:stuck", 1.0)
    client.zadd("rq:ready:authorization", {"ready": 1.0, b"\xff": 1.0})
    client.zadd("rq:deferred:authorization", {"ready": 1.0, b"\xff": 1.0})
    client.zadd("rq:failed:authorization", {"abandoned": 1.0, b"\xff": 1.0})
    client.sadd("rq:groups", "evil", b"\xff")
    client.sadd("rq:group:evil", "grouped", b"\xff")
    client.sadd("rq:workers:authorization", "rq:worker:gone", b"\xff")
    client.delete("rq:clean_registries:authorization", "rq:clean_groups")

    with running(place, "worker", "authorization") as second:
        eventually(lambda: not client.exists("rq:queue:authorization:intermediate"), place.log("worker")[-2000:])
        place.honest_request_is_decided()

        assert second.poll() is None, place.log("worker")[-3000:]
    assert place.traces() == []
    hostile_ones = {b"abandoned:1", b"\xff:\xff", b"no execution"}
    assert not hostile_ones & set(client.zrange("rq:wip:authorization", 0, -1))
    assert 0 < client.ttl(HASH.format("abandoned")) <= 3600
    assert 0 < client.ttl(HASH.format("stuck")) <= 3600


def test_the_attacks_work_on_a_plain_worker_of_rq(place: Place) -> None:
    """Otherwise the tests above would prove nothing."""
    place.client.flushall()  # what the test before left behind ends such a worker at its start
    code = "import redis, rq, sys; rq.SimpleWorker(['plain'], connection=redis.Redis.from_url(sys.argv[1])).work(True)"
    place.client.hset(
        HASH.format("plain"),
        mapping={"data": zlib.compress(pickle.dumps(("evil_module.run", None, (), {}))), "meta": pickled(place)},
    )
    place.client.rpush("rq:queue:plain", "plain")

    subprocess.run([sys.executable, "-W", "ignore", "-c", code, place.server.url], env=place.environment, timeout=60)

    assert sorted(place.traces()) == ["called", "imported", "unpickled"]
    for trace in place.witness.iterdir():
        trace.unlink()


def memory_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
