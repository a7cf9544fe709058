"""A worker's sign of life."""

import contextlib
import os
import socket
import threading

from sqlalchemy.orm import Session

from chargeapp.clock import utcnow
from chargeapp.errors import DatabaseUnavailable
from chargeapp.pipeline import Stage
from chargeapp.runtime import Runtime
from chargeapp.storage import heartbeats


class Heart:
    """Says every few seconds that this worker lives, and how its circuit breaker stands."""

    def __init__(self, runtime: Runtime, stage: Stage) -> None:
        self._runtime = runtime
        self._kind = f"worker {stage.queue} {socket.gethostname()}"
        self._process = f"{self._kind} {os.getpid()}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(DatabaseUnavailable), self._runtime.database.writing() as session:
            heartbeats.leave(session, self._process)

    def _beat(self) -> None:
        with contextlib.suppress(DatabaseUnavailable), self._runtime.database.writing(durable=False) as session:
            self._forget_the_dead(session)
        while True:
            with contextlib.suppress(DatabaseUnavailable), self._runtime.database.writing(durable=False) as session:
                heartbeats.beat(session, self._process, utcnow(), self._runtime.circuit_state())
            if self._stop.wait(heartbeats.BEAT_SECONDS):
                return

    def _forget_the_dead(self, session: Session) -> None:
        """Else those of its kind that were killed on this machine would count as alive for some seconds more.

        One that lives where its number cannot be seen, in another container, is back with its next beat.
        """
        for each in heartbeats.since(session, f"{self._kind} ", utcnow() - heartbeats.FORGOTTEN_AFTER):
            kind, _, number = each.process.rpartition(" ")
            if kind == self._kind and not _is_there(int(number)):
                heartbeats.leave(session, each.process)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
