"""One thread serves all callers of a web process."""

import contextlib
import fcntl
import json
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest
from deployment import STATION, Deployment

BODY = json.dumps(
    {"stationId": STATION, "driverToken": "driver-token-of-web-process", "callbackUrl": "http://127.0.0.1:9/"}
).encode()
HEAD = (
    b"POST /api/v1/charging-session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)
# Less than a process that is told to end waits for those it serves.
SOON_SECONDS = 10


@pytest.fixture
def deployment(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(data_dir(), WEB_WORKERS="1", WEB_THREADS="2") as deployment:
        yield deployment


@pytest.fixture
def web(deployment: Deployment) -> subprocess.Popen[bytes]:
    process = deployment.start("web")
    deployment.until(lambda: answers(deployment), "the API does not answer")
    return process


def answers(deployment: Deployment) -> bool:
    try:
        with connected(deployment) as caller:
            caller.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            return b" 200 " in caller.recv(65_536)
    except OSError:
        return False


def connected(deployment: Deployment) -> socket.socket:
    return socket.create_connection(("127.0.0.1", deployment.port), timeout=SOON_SECONDS)


def test_bodies_that_come_slowly_keep_nobody_waiting(deployment: Deployment, web: subprocess.Popen[bytes]) -> None:
    with ExitStack() as opened:
        slow = [opened.enter_context(connected(deployment)) for _ in range(20)]
        for caller in slow:
            caller.sendall(HEAD + BODY[:10])

        assert deployment.submit("driver-token-of-others", "http://127.0.0.1:9/").startswith("req-")

        for caller in slow:
            caller.sendall(BODY[10:])
            assert b" 200 OK" in caller.recv(65_536)


def test_a_body_without_end_keeps_nobody_waiting(deployment: Deployment, web: subprocess.Popen[bytes]) -> None:
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            with connected(deployment) as caller, contextlib.suppress(OSError):
                caller.sendall(HEAD.replace(b"%d" % len(BODY), b"1000000000000"))
                while not ended.is_set():
                    caller.sendall(b"x" * 1_000_000)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(10):
            with connected(deployment) as other:
                other.sendall(HEAD + BODY)
                assert b" 200 OK" in other.recv(65_536)
    finally:
        ended.set()
        sender.join()


def test_who_only_keeps_a_connection_does_not_delay_the_end(
    deployment: Deployment, web: subprocess.Popen[bytes]
) -> None:
    with connected(deployment) as known, connected(deployment) as silent:
        known.sendall(HEAD + BODY)
        assert b" 200 OK" in known.recv(65_536)

        web.send_signal(signal.SIGTERM)

        assert web.wait(SOON_SECONDS) == 0
        whole(known)
        assert whole(silent) == b""
    assert "Traceback" not in deployment.output()


def test_callers_who_keep_connections_and_post_while_the_process_ends_are_answered(
    deployment: Deployment, web: subprocess.Popen[bytes]
) -> None:
    with ExitStack() as opened:
        callers = [opened.enter_context(connected(deployment)) for _ in range(60)]
        deployment.until(lambda: all(answers_live(each) for each in callers), "not all are known")

        web.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.sendall(HEAD + BODY)

        assert [whole(caller).partition(b"\r\n")[0] for caller in callers] == [b"HTTP/1.1 200 OK"] * 60
    assert web.wait(SOON_SECONDS) == 0
    assert "Traceback" not in deployment.output()


@pytest.mark.only_on("sqlite", reason="holds the lock beside the file")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_request_on_its_way_is_answered_before_the_end(
    deployment: Deployment, web: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    """However its parent is told to end."""
    with connected(deployment) as caller:
        with (deployment.data_dir / "chargeapp.db.lock").open() as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            caller.sendall(HEAD + BODY)
            deployment.until(lambda: waits_for(gate), "nobody waits for the lock")
            web.send_signal(number)
            deployment.until(lambda: not answers(deployment), "new callers are still let in")
        answer = whole(caller)

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert web.wait(SOON_SECONDS) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert "Traceback" not in deployment.output()


def answers_live(caller: socket.socket) -> bool:
    caller.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    received = b""
    while b'"UP"' not in received:
        received += (piece := caller.recv(65_536))
        if not piece:
            return False
    return True


def whole(caller: socket.socket) -> bytes:
    """What comes until the other side closes."""
    pieces = []
    while piece := caller.recv(65_536):
        pieces.append(piece)
    return b"".join(pieces)


def waits_for(file: IO[str]) -> bool:
    """Whether somebody queues for the lock of this file."""
    inode = Path(file.name).stat().st_ino
    return any("->" in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines())
