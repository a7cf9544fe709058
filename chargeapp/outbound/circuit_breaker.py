"""Stops asking a service that keeps failing, and lets one question through after a while to see."""

import threading
import time

import pybreaker

FAILURES = 5
OPEN_SECONDS = 30


class ServiceFailedError(Exception):
    """Only counted, never seen by anybody."""


class CircuitBreaker:
    """pybreaker keeps the state. Its lock is held while a result is counted, never during the call itself."""

    def __init__(self, failures: int = FAILURES, open_seconds: float = OPEN_SECONDS) -> None:
        self._open_for = open_seconds
        # pybreaker would go by the wall clock, and stay open for an hour more when that is set back by one.
        self._open_until = 0.0
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures, reset_timeout=open_seconds, throw_new_error_on_trip=False
        )
        self._lock = threading.Lock()
        # The thread whose call is the probe; results of other calls say nothing about the service as it is now.
        self._prober: int | None = None

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`"""
        return str(self._breaker.current_state)

    def admits(self) -> bool:
        """Whether to make a call now; every admitted call must be followed by `record`."""
        if self.state == pybreaker.STATE_CLOSED:
            return True
        with self._lock:
            if self._prober is not None or time.monotonic() < self._open_until:
                return False
            self._prober = threading.get_ident()
            return True

    def record(self, *, succeeded: bool) -> None:
        def outcome() -> None:
            if not succeeded:
                raise ServiceFailedError

        with self._lock:
            probe = self._prober == threading.get_ident()
            if self.state != pybreaker.STATE_CLOSED and not probe:
                return  # It began before the circuit opened.
            try:
                if probe:
                    self._breaker.half_open()
                self._breaker.call(outcome)
            except (ServiceFailedError, pybreaker.CircuitBreakerError):
                pass
            finally:
                self._prober = None if probe else self._prober
                if self.state == pybreaker.STATE_OPEN:
                    self._open_until = time.monotonic() + self._open_for
