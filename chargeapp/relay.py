"""Moves due outbox rows into their queues, finds lost ones again, and decides what nobody decided in time.

Safe to run as often as you like, beside any number of others: a row is claimed by one of them.
"""

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from chargeapp import failpoints
from chargeapp.clock import utcnow
from chargeapp.errors import TemporaryFailure
from chargeapp.event_feed import EventFeed
from chargeapp.logs import get_logger
from chargeapp.pipeline import STAGES, Stage
from chargeapp.services.authorization_decisions import decide_overdue
from chargeapp.services.clock_changes import follow_clock_back
from chargeapp.services.delivery_events import expire_overdue
from chargeapp.services.retention import Forgotten, Retention, forget, sum_up_old_minutes
from chargeapp.storage import heartbeats, outbox
from chargeapp.storage.database import Database
from chargeapp.storage.stations import stations_of
from chargeapp.storage.wakeups import Bell, Wakeups
from chargeapp.transport.broker import BrokerRefuses, BrokerUnavailable, Transport

log = get_logger()

TICK_SECONDS = 0.25
CHECKPOINT_SECONDS = 1.0
AFTER_FAILED_CHECKPOINT_SECONDS = 60.0
RECOVERY_SECONDS = 5.0
FORGET_SECONDS = 60.0
# One transaction of the relay changes no more than this, so that nobody waits for it.
ROWS_A_BITE = 500
BITES = 20
# A job that goes on taking rows of a queue gets this much of a head start on them.
PATIENCE = timedelta(seconds=0.5)
# The job itself records a decision in time; the relay steps in only when it clearly did not.
DECISION_GRACE = timedelta(seconds=2)
JUST_CLAIMED = timedelta(seconds=2)


@dataclass
class Pass:
    """What one pass of the relay did."""

    published: dict[str, int] = field(default_factory=dict)
    recovered: int = 0
    decided_by_deadline: int = 0
    expired: int = 0


class Relay:
    def __init__(
        self,
        database: Database,
        transport: Transport,
        wakeups: Wakeups,
        expiry_grace_seconds: float,
        retention: Retention,
        *,
        feed: EventFeed | None = None,
    ) -> None:
        """With a `feed` it publishes delivery events, too."""
        self._database = database
        self._transport = transport
        self._wakeups = wakeups
        self._expiry_grace = timedelta(seconds=expiry_grace_seconds)
        self._retention = retention
        self._feed = feed

    def once(self) -> Pass:
        """Everything there is to do now, as cron calls it."""
        done = Pass()
        # What needs no broker comes first: it has to be done even while the broker is away.
        self.watch_deadlines(done)
        self.forget()
        self._checkpoint()
        self.recover(done)
        self._transport.enqueue_scheduled()
        for stage in STAGES:
            done.published[stage.queue] = self.publish_due(stage)
        if self._feed:
            self._feed.look()
        return done

    def run(self, stopping: Callable[[], bool]) -> None:
        """Until `stopping`: at once when rung, else a look every quarter of a second."""
        checkpoint_at = recover_at = forget_at = 0.0
        hindered_by: TemporaryFailure | None = None
        with self._wakeups.listen("relay") as bell:
            while not stopping():
                try:
                    if time.monotonic() >= checkpoint_at:
                        checkpoint_at = time.monotonic() + self._checkpoint()
                    if time.monotonic() >= recover_at:
                        recover_at = time.monotonic() + RECOVERY_SECONDS
                        self._maintain()
                    if time.monotonic() >= forget_at:
                        forget_at = time.monotonic() + FORGET_SECONDS
                        self.forget()
                    self._transport.enqueue_scheduled()
                    published = sum(self.publish_due(stage, patient=True) for stage in STAGES)
                    if self._feed:
                        published += self._feed.look()
                except TemporaryFailure as error:
                    if not is_as_before(error, hindered_by):
                        log.warning("Relay cannot work just now", action="relay_hindered", error=str(error))
                    hindered_by = error.with_traceback(None)
                    self._wait(bell, 1.0, stopping)
                else:
                    # A pass with nothing to publish needed no broker.
                    if hindered_by and (published or not isinstance(hindered_by, BrokerUnavailable)):
                        log.info("Relay works again", action="relay_back")
                        hindered_by = None
                    self._wait(bell, TICK_SECONDS, stopping)

    def publish_due(self, stage: Stage, *, patient: bool = False) -> int:
        """Publish due rows while the queue is short; with `patient`, leave fresh ones to a job that is taking them."""
        published = 0
        while True:
            head_start = PATIENCE if patient and self._wakeups.attended(stage.queue) else timedelta()
            with self._database.reading() as session:
                now = utcnow()
                if not outbox.any_due(session, stage.outbox, now - head_start, now):
                    return published
            if not (room := self._transport.room(stage)):
                return published
            job_id = new_job_id(stage)
            with self._database.writing(durable=False) as session:
                tickets = outbox.claim_due(
                    session, stage.outbox, job_id=job_id, limit=room, now=now, due_before=now - head_start
                )
                stations = stations_of(session, stage.outbox, tickets) if self._transport.keyed else {}
                rows = outbox.own_rows(session, stage.outbox, tickets) if log.is_enabled_for(logging.DEBUG) else {}
            if not tickets:
                return published
            failpoints.reach("relay.claimed")
            try:
                self._transport.publish(stage, tickets, job_id, stations)
            except TemporaryFailure:
                with self._database.writing(durable=False) as session:
                    outbox.give_back(session, stage.outbox, job_id)
                raise
            failpoints.reach("relay.published")
            published += len(tickets)
            for row in rows.values():
                log.debug(
                    "Row published", action="row_published", request_id=row.request_id, queue=stage.queue, job_id=job_id
                )

    def recover(self, done: Pass) -> None:
        """Make rows claimable again whose job the broker has lost."""
        failpoints.reach("relay.recovery")
        for stage in STAGES:
            with self._database.reading() as session:
                expected = outbox.jobs_in_queue(session, stage.outbox, utcnow() - JUST_CLAIMED)
            if not expected or not (lost := self._transport.lost(stage, expected)):
                continue
            with self._database.writing() as session:
                rows = outbox.release_lost(session, stage.outbox, lost)
            done.recovered += rows
            log.warning("Rows of lost jobs are due again", action="rows_recovered", queue=stage.queue, rows=rows)

    def watch_deadlines(self, done: Pass) -> None:
        """No silence: decide what nobody decided in time, end what nobody ended. Needs no broker."""
        while True:
            with self._database.writing() as session:
                # Not before: PostgreSQL's time is known once it was reached.
                now = utcnow()
                set_back = follow_clock_back(session, "relay", now)
                decided = decide_overdue(session, now, now - DECISION_GRACE, ROWS_A_BITE)
                expired = expire_overdue(session, now, now - self._expiry_grace, ROWS_A_BITE)
                heartbeats.beat(session, "relay", now)
                heartbeats.forget_old(session, now)
            if set_back:
                log.warning("Clock was set back", action="clock_set_back", seconds=set_back.total_seconds())
            done.decided_by_deadline += decided
            done.expired += expired
            if max(decided, expired) < ROWS_A_BITE:
                break
        if done.decided_by_deadline:
            log.warning("Decided by the deadline", action="decided_by_deadline", requests=done.decided_by_deadline)
        if done.expired:
            log.warning("Expired without an end", action="expired_overdue", requests=done.expired)

    def _maintain(self) -> None:
        done = Pass()
        self.watch_deadlines(done)
        self.recover(done)

    def _checkpoint(self) -> float:
        """Seconds until the next one. If it fails, everything else is done all the same."""
        try:
            self._database.checkpoint()
        except TemporaryFailure as error:
            log.warning("Cannot move the log into the database", action="checkpoint_failed", error=str(error))
            return AFTER_FAILED_CHECKPOINT_SECONDS
        return CHECKPOINT_SECONDS

    def forget(self) -> Forgotten:
        """What retention demands, bite by bite."""
        total = Forgotten()
        for _ in range(BITES):
            now = utcnow()
            with self._database.writing() as session:
                bite = forget(session, self._retention, now, ROWS_A_BITE)
                if not bite and not sum_up_old_minutes(session, now):
                    return total
            total += bite
        return total

    @staticmethod
    def _wait(bell: Bell, seconds: float, stopping: Callable[[], bool]) -> None:
        if not stopping():
            bell.wait(seconds)


def is_as_before(error: TemporaryFailure, last: TemporaryFailure | None) -> bool:
    """Told already: the same kind of trouble; of rights that are missing, the same ones."""
    return type(error) is type(last) and (not isinstance(error, BrokerRefuses) or str(error) == str(last))


def new_job_id(stage: Stage) -> str:
    """Never used twice: RQ keeps failed jobs for a while and refuses their id."""
    return f"{stage.queue}-{uuid.uuid4().hex}"
