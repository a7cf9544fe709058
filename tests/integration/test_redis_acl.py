"""Relay and workers on a Redis where they may do what docs/redis-acl.md says, and nothing else."""

import re
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis
from cli_support import start
from support.builders import accept, eventually, just_now, new_runtime, the_request

from chargeapp.app import create_app
from chargeapp.runtime import Runtime
from chargeapp.transport.embedded_redis import find_redis_server

PAGE = Path(__file__).parents[2] / "docs" / "redis-acl.md"
PASSWORD = "CHANGE-ME"
SECONDS = 40.0
OBSERVER = "user observer on >observer ~* &* +@all"


class Redis:
    """A real one with the users of the page, and one more who looks on."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "redis.sock"
        self.url = f"unix://chargeapp:{PASSWORD}@{self.socket}"
        self.api_url = f"unix://chargeapp-api:{PASSWORD}-TOO@{self.socket}"
        lines = re.findall(r"^user .*$", PAGE.read_text(), re.MULTILINE)
        config = directory / "redis.conf"
        config.write_text("\n".join(["port 0", f"unixsocket {self.socket}", 'save ""', *lines, OBSERVER, ""]))
        self.process = subprocess.Popen([find_redis_server(), config], cwd=directory, stdout=subprocess.DEVNULL)
        self.observer = redis.Redis.from_url(f"unix://observer:observer@{self.socket}")
        self.user = redis.Redis.from_url(self.url)
        eventually(self._answers, "Redis does not start")

    def _answers(self) -> bool:
        try:
            return bool(self.observer.ping())
        except redis.ConnectionError:
            return False

    def close(self) -> None:
        self.observer.close()
        self.user.close()
        self.process.kill()
        self.process.wait()

    def denied(self) -> list[str]:
        log: Any = self.observer.acl_log()
        return [f"{each['reason']} {each['object']}" for each in log]


class Handler(BaseHTTPRequestHandler):
    """Fails the first time, so that a job comes back as a retry."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls += 1  # type: ignore[attr-defined]
        self.send_response(500 if self.server.calls == 1 else 204)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        started = Redis(Path(directory))
        yield started
        started.close()


@pytest.fixture
def runtime(tmp_path: Path, server: Redis) -> Iterator[Runtime]:
    with new_runtime(tmp_path, redis_url=server.url) as built:
        yield built


@contextmanager
def processes(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings = {
        "CHARGEAPP_DATA_DIR": str(runtime.settings.chargeapp_data_dir),
        "REDIS_URL": runtime.redis_url,
        "CALLBACK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "CALLBACK_RETRY_DELAY_MILLIS": "1500",
        "WEBHOOK_SECRET": runtime.secrets.webhook_secret,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    workers = [("worker", queue) for queue in ("authorization", "callbacks", "delivery-events")]
    running = [start(*words, stderr=subprocess.DEVNULL) for words in (("relay",), *workers)]
    try:
        yield
        assert [each.poll() for each in running] == [None] * len(running)
    finally:
        for each in running:
            each.terminate()
        for each in running:
            each.wait(SECONDS)


def test_a_request_goes_all_its_way_with_a_retry_and_nothing_is_denied(
    runtime: Runtime, server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as caller:
        caller.calls = 0  # type: ignore[attr-defined]
        thread = Thread(target=caller.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        # Remains of a killed worker, so that cleaning up has something to do.
        server.observer.zadd("rq:wip:callbacks", {"callbacks-" + "0" * 32 + ":1": 1.0})
        server.observer.rpush("rq:queue:callbacks:intermediate", "callbacks-" + "0" * 32)
        # And a job that fails.
        server.observer.hset("rq:job:foreign", mapping={"data": b"?"})
        server.observer.hset("rq:job:other", mapping={"data": zlib.compress(b'["x", null, [], {}]')})
        server.observer.rpush("rq:queue:authorization", "foreign", "other")
        with processes(runtime, monkeypatch):
            (request_id,) = accept(
                runtime.database,
                now=just_now(),
                vault=runtime.vault,
                callback_url=f"http://127.0.0.1:{caller.server_port}/",
                destination=f"127.0.0.1:{caller.server_port}",
            )
            eventually(
                lambda: the_request(runtime.database, request_id).state == "delivered",
                f"not delivered; denied: {server.denied()}",
                SECONDS,
            )
        caller.shutdown()
        thread.join()

    assert caller.calls == 2  # type: ignore[attr-defined]
    assert server.denied() == []


def test_the_api_counts_for_rate_limits_with_a_user_of_its_own(tmp_path: Path, server: Redis) -> None:
    server.observer.acl_log_reset()
    with (
        redis.Redis.from_url(server.api_url) as own,
        new_runtime(tmp_path, redis_url=server.api_url, rate_limit="2/minute") as runtime,
    ):
        client = create_app(runtime.settings).test_client()

        codes = [client.get("/api/v1/charging-session").status_code for _ in range(3)]
        health = client.get("/health", environ_base={"REMOTE_ADDR": "127.0.0.2"}).get_json()

        assert (codes, health["components"]["redis"]["status"]) == ([200, 200, 429], "UP")
        assert [key for key in server.observer.scan_iter() if key.startswith(b"LIMITS")]
        assert server.denied() == []
        with pytest.raises(redis.exceptions.NoPermissionError):
            own.rpush("rq:queue:callbacks", "x")


@pytest.mark.parametrize(
    "command",
    [
        "CONFIG GET dir",
        "FLUSHALL",
        "KEYS *",
        "PUBLISH rq:pubsub:x shutdown",
        "EVAL return 0",
        "ACL LIST",
        "CLIENT LIST",
        "SHUTDOWN",
        "MONITOR",
        "GET somebody:elses",
        "HSET somebody:elses field value",
        "SAVE",
        "REPLICAOF localhost 1",
        "SLOWLOG GET",
        "SUBSCRIBE rq:pubsub:x",
    ],
)
def test_the_user_may_do_nothing_else(server: Redis, command: str) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        server.user.execute_command(*command.split())


def test_nobody_gets_in_without_the_password(server: Redis) -> None:
    for url in (f"unix://{server.socket}", f"unix://chargeapp:wrong@{server.socket}"):
        with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()
