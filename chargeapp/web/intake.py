"""Requests that arrive together share one transaction: one thread commits for all that wait meanwhile.

Nobody is answered before the commit. A lone request is committed at once, but for the first one after a crowd.
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

PATIENCE_SECONDS = 5.0
# After a transaction of so many requests the next one waits for as many, but not for long: their callers, just
# answered, are about to post again. One by one they would cost several times as much.
CROWD = 4
GATHER_SECONDS = 0.004


class CallerChanged(TemporaryFailure):
    """What lets the caller in has changed just now; nothing was stored."""


class Waiting:
    def __init__(self, new: NewRequest, seen: Seen) -> None:
        self.new = new
        self.seen = seen
        self.answer: Acknowledgement | Exception | None = None
        self.leads = False
        self.called = threading.Event()


class Intake:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._limit = QueueLimit(runtime.settings.queue_max_size)
        self._lock = threading.Lock()
        self._waiting: list[Waiting] = []
        self._committing = False
        self._together = 0
        self._as_many_again = threading.Event()

    def store(self, new: NewRequest, seen: Seen) -> Acknowledgement:
        """Returns once the request is on disk; raises what refused it, with nothing stored.

        CallerChanged if what was `seen` of the caller's key is not true in the transaction that stores the request.
        """
        mine = Waiting(new, seen)
        with self._lock:
            self._waiting.append(mine)
            if len(self._waiting) >= self._together:
                self._as_many_again.set()
            mine.leads = not self._committing
            self._committing = True
        if not mine.leads:
            self._follow(mine)
        if mine.leads:
            self._commit()
        if isinstance(mine.answer, Acknowledgement):
            return mine.answer
        assert mine.answer is not None
        raise mine.answer

    def _follow(self, mine: Waiting) -> None:
        """Until it is answered, or is to lead the next transaction."""
        if mine.called.wait(PATIENCE_SECONDS):
            return
        with self._lock:
            if mine in self._waiting and not mine.leads:
                self._waiting.remove(mine)
                raise DatabaseUnavailable("The database has been busy for too long; nothing was stored")
        # Somebody commits it just now: whether that succeeds is the answer, however long it takes.
        mine.called.wait()

    def _commit(self) -> None:
        together: list[Waiting] = []
        database, wakeups, heard = self._runtime.database, self._runtime.wakeups, False
        answers: list[Acknowledgement | Exception]
        if self._together >= CROWD:
            self._as_many_again.wait(GATHER_SECONDS)
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
        with self._lock:
            for each, answer in zip(together, answers, strict=True):
                each.answer = answer
            next_ = self._waiting[:1]
            self._committing = bool(next_)
            for each in next_:
                each.leads = True
        for each in (*together, *next_):
            each.called.set()
        if not heard:
            wakeups.ring(AUTHORIZATION.queue)

    def _answers(self, session: Session, together: list[Waiting]) -> list[Acknowledgement | Exception]:
        connection = session.connection()
        holds = {seen: seen.holds(connection) for seen in {each.seen for each in together}}
        wanted = [each.new for each in together if holds[each.seen]]
        stored = iter(request_charging_sessions(session, wanted, limit=self._limit, now=utcnow()))
        return [next(stored) if holds[each.seen] else CallerChanged() for each in together]

    def _all_waiting(self) -> list[Waiting]:
        with self._lock:
            together, self._waiting = self._waiting, []
            self._together = len(together)
            self._as_many_again.clear()
        return together
