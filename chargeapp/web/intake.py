"""Requests that arrive together share one transaction: one thread commits for all that wait meanwhile.

Nobody is answered before the commit, and a lone request is committed at once.
"""

import threading
from dataclasses import dataclass

from chargeapp import failpoints
from chargeapp.clock import utcnow
from chargeapp.errors import DatabaseUnavailable
from chargeapp.pipeline import AUTHORIZATION
from chargeapp.runtime import Runtime
from chargeapp.services.session_requests import Acknowledgement, NewRequest, request_charging_sessions

PATIENCE_SECONDS = 5.0


@dataclass(eq=False)
class Waiting:
    new: NewRequest
    answer: Acknowledgement | Exception | None = None


class Intake:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._changed = threading.Condition()
        self._waiting: list[Waiting] = []
        self._committing = False

    def store(self, new: NewRequest) -> Acknowledgement:
        """Returns once the request is on disk; raises what refused it, with nothing stored."""
        mine = Waiting(new)
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: mine.answer is not None or not self._committing, PATIENCE_SECONDS)
            if mine.answer is None and self._committing and mine in self._waiting:
                self._waiting.remove(mine)
                raise DatabaseUnavailable("The database has been busy for too long; nothing was stored")
            # Somebody commits it just now: whether that succeeds is the answer, however long it takes.
            self._changed.wait_for(lambda: mine.answer is not None or not self._committing)
            self._committing = self._committing or mine.answer is None
        if mine.answer is None:
            self._commit()
        if isinstance(mine.answer, Acknowledgement):
            return mine.answer
        assert mine.answer is not None
        raise mine.answer

    def _commit(self) -> None:
        together: list[Waiting] = []
        answers: list[Acknowledgement | Exception]
        try:
            with self._runtime.database.writing() as session:
                # Only now that it is this process's turn: whoever came while it waited for that comes along.
                together = self._all_waiting()
                answers = [
                    *request_charging_sessions(
                        session,
                        [each.new for each in together],
                        queue_max_size=self._runtime.settings.queue_max_size,
                        now=utcnow(),
                    )
                ]
                failpoints.reach("api.before_commit")
            failpoints.reach("api.after_commit")
        except Exception as error:
            together = together or self._all_waiting()
            answers = [error] * len(together)
        with self._changed:
            for each, answer in zip(together, answers, strict=True):
                each.answer = answer
            self._committing = False
            self._changed.notify_all()
        self._runtime.wakeups.ring(AUTHORIZATION.queue)

    def _all_waiting(self) -> list[Waiting]:
        with self._changed:
            together, self._waiting = self._waiting, []
        return together
