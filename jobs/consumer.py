"""Works on rows side by side: begins with those of its job, then goes on with whatever else of its stage is due.

One transaction records the results that came in meanwhile and claims the next rows. Calls run in threads, so a slow
one holds up nobody; one destination gets at most three quarters of them.
"""

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Generic

from rq.timeouts import BaseTimeoutException
from sqlalchemy.orm import Session

from chargeapp import failpoints
from chargeapp.clock import utcnow
from chargeapp.errors import DatabaseUnavailable, TemporaryFailure
from chargeapp.logs import get_logger
from chargeapp.storage import outbox
from chargeapp.storage.database import Database, is_database_trouble
from chargeapp.storage.outbox import OwnRow, Ticket
from chargeapp.storage.wakeups import Bell, Wakeups
from jobs.work import Result, Task, Work

log = get_logger()

# After this long without a row the job ends; the next row starts another. Longer than the first retry's pause.
LINGER_SECONDS = 1.5
# After this long it ends as soon as nothing is under way, so that RQ can do its housekeeping; a while later it takes
# no more in any case. Ending means to wait for the slowest call, so it is rare.
LONG_SECONDS = 120.0
LONGEST_SECONDS = 300.0
# A call that hangs when its process has to stop is left to its lease.
STOP_SECONDS = 15.0
LOOK_SECONDS = 0.1
RENEW_SECONDS = 20.0
HINDERED_PAUSE = timedelta(seconds=1)


class Consumer(Generic[Task, Result]):
    """For one run of one job."""

    def __init__(
        self,
        work: Work[Task, Result],
        *,
        job_id: str,
        database: Database,
        wakeups: Wakeups,
        pool: ThreadPoolExecutor,
        threads: int,
        stopping: Callable[[], bool],
        after_commit: Callable[[], None],
    ) -> None:
        self._work = work
        self._outbox = work.stage.outbox
        self._job_id = job_id
        self._database = database
        self._wakeups = wakeups
        self._pool = pool
        self._threads = threads
        self._share = max(1, threads * 3 // 4)
        self._stopping = stopping
        self._after_commit = after_commit
        self._waiting: deque[Task] = deque()
        self._lease_ends: dict[Ticket, float] = {}
        self._running: dict[Ticket, Task] = {}
        self._busy: Counter[str] = Counter()
        self._finished: queue.SimpleQueue[tuple[Task, Result | Exception]] = queue.SimpleQueue()
        self._tickets: Sequence[Ticket] = ()
        self._given_back: list[Ticket] = []
        self._results: list[Result] = []
        self._failures: list[tuple[Ticket, Exception]] = []
        self._careful = False
        self._more_due = False

    def run(self, tickets: Sequence[Ticket]) -> datetime | None:
        """Returns when the earliest retry among this job's rows is due, None if there is none."""
        began = last_row = renewed = time.monotonic()
        with self._wakeups.listen(self._work.stage.queue) as bell:
            self._tickets = tickets
            self._transact(claim=self._room())
            while True:
                self._start(bell)
                now = time.monotonic()
                closing = self._stopping() or now - began > LONGEST_SECONDS
                if self._open_rows():
                    last_row = last_row if self._stopping() else now
                elif closing or now - last_row > LINGER_SECONDS or now - began > LONG_SECONDS:
                    break
                if now - last_row > STOP_SECONDS:
                    break
                if now - renewed > RENEW_SECONDS:
                    renewed = now
                    self._renew()
                rung = bell.wait(0 if self._more_due and not closing else LOOK_SECONDS)
                if rung and not closing and self._work.gather_seconds:
                    time.sleep(self._work.gather_seconds)
                self._collect()
                # Threads need not wait for the transaction.
                self._start(bell)
                room = 0 if closing else self._room()
                if self._to_write() or (room and (rung or self._more_due or self._any_due())):
                    self._transact(claim=room)
        self._let_others_commit()
        return self._next_retry()

    def _open_rows(self) -> bool:
        return bool(self._running or self._waiting) or self._to_write()

    def _to_write(self) -> bool:
        return bool(self._results or self._failures or self._tickets or self._given_back)

    def _room(self) -> int:
        """Those that wait for a destination that has its share do not count: they must not hold up others."""
        waiting = sum(not self._has_its_share(self._work.destination(task)) for task in self._waiting)
        return max(0, 2 * self._threads - len(self._running) - waiting)

    def _transact(self, claim: int) -> None:
        """Record what came in, begin with the job's own rows, claim up to `claim` more: all or nothing."""
        results, tickets = self._results, self._tickets
        lease_ends = time.monotonic() + outbox.LEASE_SECONDS
        try:
            # Without a result nothing was promised to anybody: lost with the power, it is done again as a whole.
            with self._database.writing(durable=bool(results)) as session:
                if results:
                    # Now that it is this process's turn: whatever came in while it waited for that comes along.
                    self._collect()
                now = utcnow()
                self._record(session, results, now)
                self._give_up(session, now)
                outbox.release(session, self._outbox, self._given_back, now)
                own = outbox.take(session, self._outbox, tickets, now) if tickets else []
                if claim:
                    own += self._claim(session, claim, now)
                tasks = self._take(session, own, now)
                heard = bool(results) and self._ring_early()
        except TemporaryFailure as error:
            # Results stay here until they can be recorded: their calls must not be made twice.
            log.warning("Database is busy, trying again", action="job_hindered", error=str(error))
            time.sleep(LOOK_SECONDS)
            self._more_due = True
            return
        except BaseTimeoutException:
            raise
        except Exception:
            if self._careful:
                raise
            log.exception("A row cannot be processed, going on one by one", action="rows_one_by_one")
            self._careful = True
            return
        if results:
            failpoints.reach("job.committed")
        if own:
            failpoints.reach("job.claimed")
        self._results, self._failures, self._tickets, self._given_back = [], [], (), []
        self._more_due = bool(claim) and len(own) >= claim
        self._waiting.extend(tasks)
        self._lease_ends |= dict.fromkeys(map(self._work.ticket, tasks), lease_ends)
        if (results and not heard) or len(tasks) < len(own):
            self._tell_next_stage()

    def _ring_early(self) -> bool:
        next_stage = self._work.next_stage
        return bool(next_stage and self._database.takes_turns and self._wakeups.ring_early(next_stage.queue))

    def _tell_next_stage(self) -> None:
        """Whatever goes wrong here, the calls under way must still be recorded; the relay finds the rows anyway."""
        try:
            self._after_commit()
        except BaseTimeoutException:
            raise
        except Exception:
            log.exception("The next stage was not told", action="hand_over_failed")

    def _claim(self, session: Session, limit: int, now: datetime) -> list[OwnRow]:
        return outbox.claim_and_take(
            session, self._outbox, job_id=self._job_id, limit=limit, now=now, not_to=self._crowded()
        )

    def _crowded(self) -> list[str]:
        """Destinations that hold so many rows here already that more of them had better wait in the database."""
        held = self._busy + Counter(map(self._work.destination, self._waiting))
        return [name for name, rows in held.items() if name and rows >= self._share + self._threads]

    def _take(self, session: Session, rows: list[OwnRow], now: datetime) -> list[Task]:
        if not self._careful:
            return list(self._work.take(session, rows, now))
        tasks: list[Task] = []
        for row in rows:
            try:
                with session.begin_nested():
                    tasks += self._work.take(session, [row], now)
            except (BaseTimeoutException, TemporaryFailure):
                raise
            except Exception as error:
                if is_database_trouble(error):
                    raise
                self._bury(session, row.ticket, error, now)
        return tasks

    def _record(self, session: Session, results: Sequence[Result], now: datetime) -> None:
        if not self._careful:
            self._work.record(session, results, now)
            return
        for result in results:
            try:
                with session.begin_nested():
                    self._work.record(session, [result], now)
            except (BaseTimeoutException, TemporaryFailure):
                raise
            except Exception as error:
                if is_database_trouble(error):
                    raise
                self._bury(session, self._work.result_ticket(result), error, now)

    def _give_up(self, session: Session, now: datetime) -> None:
        """Calls that raised: what may work later is tried again, everything else becomes a dead letter."""
        for ticket, error in self._failures:
            if isinstance(error, TemporaryFailure | OSError | MemoryError):
                outbox.release(session, self._outbox, [ticket], now + HINDERED_PAUSE)
            else:
                self._bury(session, ticket, error, now)

    def _bury(self, session: Session, ticket: Ticket, error: Exception, now: datetime) -> None:
        request_id = outbox.bury(session, self._outbox, ticket, type(error).__name__, now)
        if request_id is None:
            return  # Somebody else has it by now.
        log.error(
            "Row buried",
            action="row_buried",
            request_id=request_id,
            outbox=self._outbox.__tablename__,
            row=ticket.row_id,
            exc_info=error,
        )

    def _start(self, bell: Bell) -> None:
        """Hand waiting tasks to threads, leaving out those of a destination that has its share already."""
        if self._stopping():
            # A call begun now might end too late to be recorded, and so be made twice.
            self._given_back += map(self._work.ticket, self._waiting)
            self._waiting.clear()
            self._lease_ends.clear()
        for _ in range(len(self._waiting)):
            if len(self._running) >= self._threads:
                return
            task = self._waiting.popleft()
            destination, ticket = self._work.destination(task), self._work.ticket(task)
            if time.monotonic() > self._lease_ends[ticket]:
                # This process was held up for so long that somebody else may have made the call.
                self._given_back.append(ticket)
                del self._lease_ends[ticket]
                continue
            if self._has_its_share(destination):
                self._waiting.append(task)
                continue
            self._busy[destination] += 1
            self._running[ticket] = task
            del self._lease_ends[ticket]
            self._pool.submit(self._perform, task, bell)

    def _has_its_share(self, destination: str) -> bool:
        return bool(destination) and self._busy[destination] >= self._share

    def _perform(self, task: Task, bell: Bell) -> None:
        outcome: Result | Exception
        try:
            outcome = self._work.perform(task)
        except Exception as error:
            outcome = error
        self._finished.put((task, outcome))
        bell.ring()

    def _collect(self) -> None:
        while not self._finished.empty():
            task, outcome = self._finished.get()
            ticket = self._work.ticket(task)
            del self._running[ticket]
            destination = self._work.destination(task)
            self._busy[destination] -= 1
            if not self._busy[destination]:
                del self._busy[destination]
            if isinstance(outcome, Exception):
                self._failures.append((ticket, outcome))
                tell_failure(self._work.request_id(task), outcome)
            else:
                self._results.append(outcome)

    def _any_due(self) -> bool:
        try:
            with self._database.reading() as session:
                return outbox.any_to_take(session, self._outbox, utcnow(), self._crowded())
        except DatabaseUnavailable:
            return False

    def _renew(self) -> None:
        now = time.monotonic()
        # A lease that has ended is not had again: the row may have a new owner.
        waiting = [ticket for ticket, ends in self._lease_ends.items() if ends > now]
        try:
            with self._database.writing(durable=False) as session:
                unrecorded = map(self._work.result_ticket, self._results)
                outbox.renew(session, self._outbox, [*self._running, *unrecorded, *waiting], utcnow())
        except DatabaseUnavailable as error:
            log.warning("Leases are not renewed", action="job_hindered", error=str(error))
        else:
            self._lease_ends |= dict.fromkeys(waiting, now + outbox.LEASE_SECONDS)

    def _let_others_commit(self) -> None:
        """Who rang early and was not heard any more: whoever looks for rows after this job finds theirs."""
        if self._database.takes_turns:
            with suppress(DatabaseUnavailable), self._database.writing(durable=False):
                pass

    def _next_retry(self) -> datetime | None:
        try:
            with self._database.reading() as session:
                return outbox.next_retry_at(session, self._outbox, self._job_id)
        except DatabaseUnavailable:
            return None  # The relay finds its rows again.


def tell_failure(request_id: str, error: Exception) -> None:
    if isinstance(error, TemporaryFailure):
        # The database is away; it counts as no attempt.
        log.warning("Call not made, trying again soon", action="call_hindered", request_id=request_id, error=str(error))
    else:
        log.error("Call failed unexpectedly", action="call_failed", request_id=request_id, exc_info=error)
