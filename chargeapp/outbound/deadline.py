"""One deadline over a whole call: a socket's own timeout starts again with every byte, this one does not."""

import math
import os
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self


class Deadline:
    """As a context manager, shuts the guarded socket down when `seconds` have passed since it was made."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds
        self.passed = False
        self._guarded: socket.socket | None = None
        self._watchdog = _watchdog

    def __enter__(self) -> Self:
        self._watchdog.watch(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.forget(self)

    def remaining(self) -> float:
        """Seconds left, more than 0; raises TimeoutError once there are none."""
        left = self.at - time.monotonic()
        if left <= 0 or self.passed:
            self.passed = True
            raise TimeoutError
        return left

    def guard(self, handle: socket.socket) -> None:
        """Have `handle` shut down at the deadline; it must stay open until `release`."""
        with self._watchdog.lock:
            self._guarded = handle
        self.remaining()  # the watchdog may have come and gone before there was a handle

    def release(self) -> None:
        """Once this returns the handle is no longer touched, and may be closed or serve another call."""
        with self._watchdog.lock:
            self._guarded = None

    def cut(self) -> None:
        """Called by the watchdog, under its lock."""
        self.passed = True
        if self._guarded is not None:
            # Not connected yet, or already gone: nobody is waiting for bytes.
            with suppress(OSError):
                self._guarded.shutdown(socket.SHUT_RDWR)


class Watchdog:
    """One thread that sleeps until the nearest deadline; started by the first call of its process.

    There are as many deadlines as calls in flight, so it looks through them all: a heap would keep ended calls
    until their deadlines.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._sooner = threading.Condition(self.lock)
        self._deadlines: set[Deadline] = set()
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    def watch(self, deadline: Deadline) -> None:
        with self.lock:
            self._deadlines.add(deadline)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="http-deadlines", daemon=True)
                self._thread.start()
            elif deadline.at < self._wakes_at:
                self._sooner.notify()

    def forget(self, deadline: Deadline) -> None:
        with self.lock:
            self._deadlines.discard(deadline)

    def _run(self) -> None:
        with self.lock:
            while True:
                now = time.monotonic()
                for deadline in [each for each in self._deadlines if each.at <= now]:
                    deadline.cut()
                    self._deadlines.discard(deadline)
                self._wakes_at = min((each.at for each in self._deadlines), default=math.inf)
                self._sooner.wait(None if self._wakes_at == math.inf else self._wakes_at - now)


def _start_afresh() -> None:
    """A forked child has the parent's lock, perhaps locked, and not its thread."""
    global _watchdog  # noqa: PLW0603 - one per process is the point
    _watchdog = Watchdog()


_watchdog = Watchdog()
os.register_at_fork(after_in_child=_start_afresh)
