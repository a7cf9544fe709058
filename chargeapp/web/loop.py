"""One thread of a web process reads, understands and answers all that callers ask for; what takes time runs beside it.

With a thread for each request, callers who send half of theirs take all threads, and Python's lock moves from core to
core (see the changelog for the figures). Only connections, and what is in here, give way to each other: nothing is
patched.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import gevent
from gevent.event import Event

Given = ParamSpec("Given")
Result = TypeVar("Result")
# Of a whole body; it has at most a few KiB.
BODY_SECONDS = 30.0

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class BodyTooSlowError(Exception):
    """A body has not arrived in time."""


class Signal(Protocol):
    """An event, which one waits for and another thread gives."""

    def set(self) -> None: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Loop:
    """Until it is entered, and in other threads, everything runs where it is called: so with any other server."""

    def __init__(self) -> None:
        self._entered_by: int | None = None
        self._events: Any = None

    def enter(self) -> None:
        """Called by the thread that serves, after the last fork."""
        self._entered_by = threading.get_ident()
        self._events = gevent.get_hub().loop
        # Whoever waits only for another thread would find the loop at its end.
        self._kept = self._events.async_()
        self._kept.start(lambda: None)

    @property
    def is_here(self) -> bool:
        return self._entered_by == threading.get_ident()

    def signal(self) -> Signal:
        """For the caller to wait for, while others are served."""
        return cast(Signal, Event()) if self.is_here else threading.Event()

    def start(self, function: Callable[[], None]) -> None:
        """Does not wait for it."""
        if self.is_here:
            gevent.spawn(function)
        else:
            threading.Thread(target=function, daemon=True).start()

    def give_way(self) -> None:
        """To those that could go on."""
        if self.is_here:
            gevent.sleep(0)

    def call(self, function: Callable[[], None]) -> None:
        """By another thread, for what only the loop's own may do."""
        self._events.run_callback_threadsafe(function)


class Beside:
    """Threads for what may wait or take long."""

    def __init__(self, loop: Loop, threads: int) -> None:
        self._loop = loop
        self._threads = ThreadPoolExecutor(threads, "beside")

    def run(self, function: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        if not self._loop.is_here:
            return function(*given, **named)
        done = self._loop.signal()
        future = self._threads.submit(function, *given, **named)
        future.add_done_callback(lambda _: self._loop.call(done.set))
        done.wait()
        return future.result()


class Served:
    """An application as the loop serves it, with bodies already read: POSTs to `path` within it, all else beside it."""

    def __init__(self, application: Application, loop: Loop, beside: Beside, path: str, body_bytes: int) -> None:
        """`body_bytes` are read of a body at most."""
        self._application = application
        self._loop = loop
        self._beside = beside
        self._path = path
        self._body_bytes = body_bytes

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if not self._loop.is_here:
            return self._application(environ, start_response)
        with gevent.Timeout(BODY_SECONDS, BodyTooSlowError):
            environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read(self._body_bytes))
        if environ["REQUEST_METHOD"] == "POST" and environ["PATH_INFO"].rstrip("/") == self._path:
            return self._application(environ, start_response)
        return self._beside.run(self._application, environ, start_response)
