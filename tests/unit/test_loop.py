"""What the loop serves itself, and what runs beside it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, TypeVar

import gevent
import pytest

from chargeapp.web import loop as web_loop
from chargeapp.web.loop import Beside, BodyTooSlowError, Loop, Served

Result = TypeVar("Result")
InLoop = Callable[[Callable[[], Result]], Result]
PATH = "/requests"


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def in_loop(loop: Loop) -> Iterator[InLoop[Any]]:
    """Runs something in the thread of the loop."""
    with ThreadPoolExecutor(1, "loop") as thread:
        thread.submit(loop.enter).result()
        yield lambda function: thread.submit(function).result(10)
        thread.submit(lambda: gevent.get_hub().destroy()).result()


def served_by(loop: Loop) -> Served:
    """Answers with the name of the thread it runs in, and what was sent."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return [threading.current_thread().name.partition("_")[0].encode(), environ["wsgi.input"].read()]

    return Served(application, loop, Beside(loop, 1), PATH, body_bytes=5)


def request(method: str, path: str, body: Any) -> dict[str, Any]:
    return {"REQUEST_METHOD": method, "PATH_INFO": path, "wsgi.input": body}


@pytest.mark.parametrize(
    ("method", "path", "where"),
    [
        ("POST", PATH, b"loop"),
        ("POST", f"{PATH}/", b"loop"),
        ("POST", f"{PATH}/1/redelivery", b"beside"),
        ("GET", PATH, b"beside"),
        ("GET", "/", b"beside"),
    ],
)
def test_requests_are_stored_within_the_loop_and_all_else_is_answered_beside_it(
    loop: Loop, in_loop: InLoop[list[bytes]], method: str, path: str, where: bytes
) -> None:
    answer = in_loop(lambda: served_by(loop)(request(method, path, BytesIO(b"body")), None))

    assert answer == [where, b"body"]


def test_no_more_of_a_body_is_read_than_is_needed_to_refuse_it(loop: Loop, in_loop: InLoop[list[bytes]]) -> None:
    answer = in_loop(lambda: served_by(loop)(request("POST", PATH, BytesIO(b"123456789")), None))

    assert answer[1] == b"12345"


def test_a_body_that_does_not_arrive_is_given_up(
    loop: Loop, in_loop: InLoop[list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drip:
        def read(self, size: int) -> bytes:
            gevent.sleep(60)
            return b""

    monkeypatch.setattr(web_loop, "BODY_SECONDS", 0.01)

    with pytest.raises(BodyTooSlowError):
        in_loop(lambda: served_by(loop)(request("POST", PATH, Drip()), None))


def test_others_are_served_while_something_runs_beside(loop: Loop, in_loop: InLoop[None]) -> None:
    beside, go_on = Beside(loop, 1), threading.Event()

    def serve() -> None:
        waiting = gevent.spawn(beside.run, go_on.wait, 5)
        gevent.spawn(go_on.set)
        assert waiting.get(timeout=5)

    in_loop(serve)


def test_what_fails_beside_the_loop_fails_for_who_waits_for_it(loop: Loop, in_loop: InLoop[None]) -> None:
    def fail() -> None:
        raise KeyError("beside")

    with pytest.raises(KeyError, match="beside"):
        in_loop(lambda: Beside(loop, 1).run(fail))


def test_where_no_loop_was_entered_everything_runs_where_it_is_called(loop: Loop) -> None:
    here = threading.current_thread().name.encode()

    for environ in (request("POST", PATH, BytesIO(b"body")), request("GET", "/", BytesIO(b"body"))):
        assert list(served_by(loop)(environ, None)) == [here, b"body"]
