"""Read-only figures for health, metrics, console and command line: from the database, so true over all processes."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Decision, State
from chargeapp.pipeline import STAGES
from chargeapp.storage import heartbeats
from chargeapp.storage.models import EventRecord, SessionRequest, Tally
from chargeapp.storage.tallies import DURATION_BOUNDS, percentile

# A relay that cron runs every minute has this much to say that it works.
RELAY_LATE = timedelta(seconds=90)
WORKER_LATE = timedelta(seconds=30)
RECENT = timedelta(hours=1)


@dataclass(frozen=True)
class Duration:
    """Of one kind of call: how many there were, their mean, and a bound that 95 of 100 stayed below."""

    count: int
    mean_millis: float
    p95_millis: float


@dataclass(frozen=True)
class Figures:
    totals: dict[str, int]
    decisions: dict[str, int]
    ended: dict[str, int]
    callbacks_succeeded: int
    callbacks_failed: int
    authorization_errors: int
    authorization: Duration
    callback: Duration
    queue_size: int
    backlog: dict[str, int]
    dead_letters: dict[str, int]
    oldest_waiting_seconds: float


def figures(session: Session, now: datetime) -> Figures:
    sums = {
        row.name: (int(row.times), int(row.millis))
        for row in session.execute(
            select(Tally.name, func.sum(Tally.count).label("times"), func.sum(Tally.millis).label("millis")).group_by(
                Tally.name
            )
        )
    }
    recent = {
        row.name: int(row.times)
        for row in session.execute(
            select(Tally.name, func.sum(Tally.count).label("times"))
            .where(Tally.minute >= now - RECENT, Tally.name.like("%\\_le\\_%", escape="\\"))
            .group_by(Tally.name)
        )
    }

    def total(name: str) -> int:
        times, _ = sums.get(name, (0, 0))
        return times

    def duration(name: str) -> Duration:
        count, millis = sums.get(name, (0, 0))
        return Duration(count, millis / count if count else 0.0, _p95(name, recent))

    oldest = session.scalar(select(func.min(SessionRequest.accepted_at)).where(SessionRequest.decided_at.is_(None)))
    return Figures(
        totals={"requests": total("requests")},
        decisions={decision.value: total(f"decisions_{decision}") for decision in Decision},
        ended={state.value: total(f"requests_{state}") for state in State if state.terminal},
        callbacks_succeeded=total("callbacks_succeeded"),
        callbacks_failed=total("callbacks_failed"),
        authorization_errors=total("authorization_errors"),
        authorization=duration("authorization"),
        callback=duration("callback"),
        queue_size=queue_size(session),
        backlog={stage.queue: _count(session, stage.outbox, dead=False) for stage in STAGES},
        dead_letters={stage.queue: _count(session, stage.outbox, dead=True) for stage in STAGES},
        oldest_waiting_seconds=max(0.0, (now - oldest).total_seconds()) if oldest else 0.0,
    )


def queue_size(session: Session) -> int:
    """Requests that nobody has decided yet."""
    return session.scalar(select(func.count()).where(SessionRequest.decided_at.is_(None))) or 0


@dataclass(frozen=True)
class Processes:
    relay_age_seconds: float | None
    workers: dict[str, int]
    circuit_breaker: str

    @property
    def relay_alive(self) -> bool:
        return self.relay_age_seconds is not None and self.relay_age_seconds < RELAY_LATE.total_seconds()


def processes(session: Session, now: datetime) -> Processes:
    beaten = heartbeats.last(session, "relay")
    workers = dict.fromkeys((stage.queue for stage in STAGES), 0)
    breaker = "closed"
    for each in heartbeats.since(session, "worker ", now - WORKER_LATE):
        queue = each.process.split(" ")[1]
        workers[queue] = workers.get(queue, 0) + 1
        if each.note and each.note != "closed":
            breaker = each.note
    return Processes((now - beaten).total_seconds() if beaten else None, workers, breaker)


def counts_since(session: Session, moment: datetime) -> dict[str, int]:
    """What was accepted, decided, called and ended since then, by the minute; not further back than tallies go."""
    wanted = ["requests", "callbacks_succeeded", "callbacks_failed"]
    wanted += [f"decisions_{decision}" for decision in Decision]
    wanted += [f"requests_{state}" for state in State if state.terminal]
    found = session.execute(
        select(Tally.name, func.sum(Tally.count).label("times"))
        .where(Tally.name.in_(wanted), Tally.minute >= moment)
        .group_by(Tally.name)
    )
    return dict.fromkeys(wanted, 0) | {row.name: int(row.times) for row in found}


def timeline(session: Session, request_id: str) -> list[dict[str, Any]]:
    """One request's facts in the order they were written."""
    facts = session.scalars(select(EventRecord).where(EventRecord.request_id == request_id).order_by(EventRecord.id))
    return [{"type": fact.type, "at": fact.at.isoformat(), **fact.details} for fact in facts]


def ways_through_queues(session: Session, request_id: str) -> list[dict[str, Any]]:
    """When each row of a request was put into its queue, begun with and settled, and by which job."""
    found = []
    for stage in STAGES:
        rows = session.scalars(select(stage.outbox).where(stage.outbox.request_id == request_id))
        found += [
            {
                "queue": stage.queue,
                "put_at": row.created_at,
                "due_at": row.due_at,
                "begun_at": row.taken_at,
                "settled_at": row.settled_at,
                "dead_at": row.dead_at,
                "job": row.job_id,
            }
            for row in rows
        ]
    return sorted(found, key=lambda row: row["put_at"])


def summary(each: SessionRequest) -> dict[str, Any]:
    """One request as callers and operators may see it: the driver token masked."""
    return {
        "requestId": each.id,
        "stationId": each.station_id,
        "driverToken": each.token_masked,
        "callbackUrl": each.callback_url,
        "state": each.state,
        "decision": each.decision,
        "reason": each.reason,
        "source": each.source,
        "attempts": each.callback_attempts,
        "lastError": each.last_error,
        "acceptedAt": each.accepted_at.isoformat(),
        "decidedAt": each.decided_at.isoformat() if each.decided_at else None,
        "expiresAt": each.expires_at.isoformat(),
        "endedAt": each.ended_at.isoformat() if each.ended_at else None,
    }


def latest_requests(session: Session, limit: int) -> list[SessionRequest]:
    """Newest first."""
    return list(session.scalars(select(SessionRequest).order_by(SessionRequest.id.desc()).limit(limit)))


@dataclass(frozen=True)
class Backlog:
    """What one queue's outbox has to do."""

    queue: str
    waiting: int
    oldest_due_at: datetime | None
    dead: int


def backlogs(session: Session, now: datetime) -> list[Backlog]:
    """In the order of the stages. A row that waits for its retry is not due yet, and so never the oldest."""
    return [
        Backlog(
            stage.queue,
            _count(session, stage.outbox, dead=False),
            session.scalar(
                select(func.min(stage.outbox.due_at)).where(
                    stage.outbox.settled_at.is_(None), stage.outbox.dead_at.is_(None), stage.outbox.due_at <= now
                )
            ),
            _count(session, stage.outbox, dead=True),
        )
        for stage in STAGES
    ]


def _count(session: Session, outbox: Any, *, dead: bool) -> int:
    condition = outbox.dead_at.is_not(None) if dead else outbox.dead_at.is_(None)
    return session.scalar(select(func.count()).select_from(outbox).where(outbox.settled_at.is_(None), condition)) or 0


def _p95(name: str, recent: dict[str, int]) -> float:
    return min(percentile(recent, name, 0.95) or 0.0, float(DURATION_BOUNDS[-1]))
