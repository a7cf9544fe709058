"""Requests that arrive together share one transaction: one thread commits for all that wait meanwhile.

Nobody is answered before the commit. A lone request is committed at once.
"""

import threading

from sqlalchemy.orm import Session

from chargeapp import failpoints
from chargeapp.clock import utcnow
from chargeapp.errors import DatabaseUnavailable, TemporaryFailure
from chargeapp.pipeline import AUTHORIZATION
from chargeapp.runtime import Runtime
from chargeapp.services.queue_limit import QueueLimit
from chargeapp.services.session_requests import Acknowledgement, NewRequest, request_charging_sessions
from chargeapp.storage.api_keys import Seen
from chargeapp.web.loop import Beside, Loop, Signal

PATIENCE_SECONDS = 5.0


class CallerChanged(TemporaryFailure):
    """What lets the caller in has changed just now; nothing was stored."""


class Waiting:
    def __init__(self, new: NewRequest, seen: Seen, answered: Signal) -> None:
        self.new = new
        self.seen = seen
        self.answer: Acknowledgement | Exception | None = None
        self.answered = answered


class Intake:
    def __init__(self, runtime: Runtime, loop: Loop) -> None:
        self._runtime = runtime
        self._loop = loop
        self._limit = QueueLimit(runtime.settings.queue_max_size)
        self._writer = Beside(loop, 1)
        self._bell = Beside(loop, 1)
        self._lock = threading.Lock()
        self._waiting: list[Waiting] = []
        self._committing = False

    def store(self, new: NewRequest, seen: Seen) -> Acknowledgement:
        """Returns once the request is on disk; raises what refused it, with nothing stored.

        CallerChanged if what was `seen` of the caller's key is not true in the transaction that stores the request.
        """
        mine = Waiting(new, seen, self._loop.signal())
        with self._lock:
            self._waiting.append(mine)
            begins, self._committing = not self._committing, True
        if begins:
            self._loop.start(self._commit_all)
        if not mine.answered.wait(PATIENCE_SECONDS):
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    raise DatabaseUnavailable("The database has been busy for too long; nothing was stored")
            # It is committed just now: whether that succeeds is the answer, however long it takes.
            mine.answered.wait()
        if isinstance(mine.answer, Acknowledgement):
            return mine.answer
        assert mine.answer is not None
        raise mine.answer

    def _commit_all(self) -> None:
        while True:
            # Those who were just answered first: they are about to post again, and then come along.
            self._loop.give_way()
            try:
                together, heard = self._writer.run(self._commit)
            except Exception as error:
                # There was no thread to be had.
                together, heard = self._all_waiting(), True
                for each in together:
                    each.answer = error
            for each in together:
                each.answered.set()
            if not heard:
                self._loop.start(self._ring)
            with self._lock:
                self._committing = bool(self._waiting)
                if not self._committing:
                    return

    def _ring(self) -> None:
        self._bell.run(self._runtime.wakeups.ring, AUTHORIZATION.queue)

    def _commit(self) -> tuple[list[Waiting], bool]:
        """Returns those that have an answer now, and whether a job heard of it."""
        together: list[Waiting] = []
        database, wakeups, heard = self._runtime.database, self._runtime.wakeups, False
        answers: list[Acknowledgement | Exception]
        try:
            with database.writing() as session:
                # Only now that it is this process's turn: whoever came while it waited for that comes along.
                together = self._all_waiting()
                answers = self._answers(session, together)
                failpoints.reach("api.before_commit")
                heard = database.takes_turns and wakeups.ring_early(AUTHORIZATION.queue)
            failpoints.reach("api.after_commit")
        except Exception as error:
            together = together or self._all_waiting()
            answers = [error] * len(together)
        for each, answer in zip(together, answers, strict=True):
            each.answer = answer
        return together, heard

    def _answers(self, session: Session, together: list[Waiting]) -> list[Acknowledgement | Exception]:
        connection = session.connection()
        holds = {seen: seen.holds(connection) for seen in {each.seen for each in together}}
        wanted = [each.new for each in together if holds[each.seen]]
        stored = iter(request_charging_sessions(session, wanted, limit=self._limit, now=utcnow()))
        return [next(stored) if holds[each.seen] else CallerChanged() for each in together]

    def _all_waiting(self) -> list[Waiting]:
        with self._lock:
            together, self._waiting = self._waiting, []
        return together
