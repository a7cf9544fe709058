"""One mechanism for all three outboxes: put, claim, take, postpone, settle, bury."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, insert, or_, select, update
from sqlalchemy.orm import Session

from chargeapp.storage.models import OutboxRow

LEASE_SECONDS = 60.0
# A planned retry is late by this much before the relay concludes that the queue lost it.
RETRY_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Ticket:
    """One row and the number under which it was enqueued; worthless once the row has a higher one."""

    row_id: int
    seq: int


@dataclass(frozen=True)
class Draft:
    """A row to be."""

    request_id: str
    type: str
    payload: dict[str, Any]
    due_at: datetime
    destination: str = ""


def put(session: Session, outbox: type[OutboxRow], drafts: Sequence[Draft], now: datetime) -> None:
    if not drafts:
        return
    rows = [
        {
            "request_id": draft.request_id,
            "type": draft.type,
            "payload": draft.payload,
            "destination": draft.destination,
            "created_at": now,
            "due_at": draft.due_at,
            "attempts": 0,
            "enqueue_seq": 0,
        }
        for draft in drafts
    ]
    session.execute(insert(outbox.__table__), rows)  # type: ignore[arg-type]


def claim_due(
    session: Session,
    outbox: type[OutboxRow],
    *,
    job_id: str,
    limit: int,
    now: datetime,
    due_before: datetime | None = None,
    taken: bool = False,
    not_to: Collection[str] = (),
) -> list[Ticket]:
    """Take up to `limit` due rows, the longest due first; nobody else sees them until the lease ends.

    `taken` means that the claimer is a job, which begins with the rows at once: it also gets rows that wait for
    another job, whose tickets thereby lapse. Rows due later than `due_before` and rows whose destination is in
    `not_to` are left alone.
    """
    free = or_(outbox.lease_until.is_(None), outbox.lease_until <= now)
    due = (
        select(outbox.id)
        .where(
            outbox.settled_at.is_(None),
            outbox.dead_at.is_(None),
            outbox.due_at <= (due_before or now),
            or_(free, outbox.taken_at.is_(None)) if taken else free,
        )
        .order_by(outbox.due_at)
        .limit(limit)
    )
    if not_to:
        due = due.where(outbox.destination.not_in(not_to))
    if session.get_bind().dialect.name == "postgresql":
        due = due.with_for_update(skip_locked=True)
    claimed = session.execute(
        update(outbox)
        .where(outbox.id.in_(due))
        .values(
            enqueue_seq=outbox.enqueue_seq + 1,
            lease_until=now + timedelta(seconds=LEASE_SECONDS),
            job_id=job_id,
            taken_at=now if taken else None,
        )
        .returning(outbox.id, outbox.enqueue_seq, outbox.due_at)
        .execution_options(synchronize_session=False)
    ).all()
    return [Ticket(row.id, row.enqueue_seq) for row in sorted(claimed, key=lambda each: (each.due_at, each.id))]


def any_due(session: Session, outbox: type[OutboxRow], now: datetime) -> bool:
    """A look without a lock, so that an idle relay never disturbs a writer."""
    return (
        session.execute(
            select(outbox.id)
            .where(
                outbox.settled_at.is_(None),
                outbox.dead_at.is_(None),
                outbox.due_at <= now,
                or_(outbox.lease_until.is_(None), outbox.lease_until <= now),
            )
            .limit(1)
        ).first()
        is not None
    )


def take(session: Session, outbox: type[OutboxRow], tickets: Iterable[Ticket], now: datetime) -> list[Ticket]:
    """Begin with the rows that are still the job's own; of two jobs with the same tickets only the first gets them."""
    wanted = {ticket.row_id: ticket.seq for ticket in tickets}
    own = session.execute(
        _lockable(session, select(outbox.id, outbox.enqueue_seq))
        .where(
            outbox.id.in_(wanted),
            outbox.taken_at.is_(None),
            outbox.settled_at.is_(None),
            outbox.dead_at.is_(None),
        )
        .order_by(outbox.id)
    ).all()
    tickets = [Ticket(row.id, row.enqueue_seq) for row in own if wanted[row.id] == row.enqueue_seq]
    if tickets:
        _update(
            session, outbox, tickets, taken_at=now, lease_until=now + timedelta(seconds=LEASE_SECONDS)
        )
    return tickets


def own_rows(session: Session, outbox: type[OutboxRow], tickets: Iterable[Ticket]) -> dict[int, OutboxRow]:
    """The rows among `tickets` that no later claim has taken over, ready to be changed."""
    wanted = {ticket.row_id: ticket.seq for ticket in tickets}
    rows = session.scalars(
        _lockable(session, select(outbox)).where(
            outbox.id.in_(wanted), outbox.settled_at.is_(None), outbox.dead_at.is_(None)
        )
    )
    return {row.id: row for row in rows if row.enqueue_seq == wanted[row.id]}


def settle(session: Session, outbox: type[OutboxRow], tickets: Collection[Ticket], now: datetime) -> None:
    """Only the job calls this, in the transaction that writes its result and the next outbox row."""
    _update(session, outbox, tickets, settled_at=now, lease_until=None)


def renew(session: Session, outbox: type[OutboxRow], tickets: Collection[Ticket], now: datetime) -> None:
    """Keep rows leased while their job is still at work on them."""
    _update(session, outbox, tickets, lease_until=now + timedelta(seconds=LEASE_SECONDS))


def release(session: Session, outbox: type[OutboxRow], tickets: Collection[Ticket], due_at: datetime) -> None:
    """Give rows back unchanged; whoever comes first may claim them from `due_at` on."""
    _update(session, outbox, tickets, lease_until=None, taken_at=None, job_id=None, due_at=due_at)


def release_lost(session: Session, outbox: type[OutboxRow], job_ids: Collection[str]) -> int:
    """Make the rows of jobs that vanished from the queue claimable again; a row already begun with is left alone."""
    result = session.execute(
        update(outbox)
        .where(
            outbox.job_id.in_(job_ids),
            outbox.taken_at.is_(None),
            outbox.settled_at.is_(None),
            outbox.dead_at.is_(None),
        )
        .values(lease_until=None, job_id=None)
        .execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", result).rowcount


def jobs_in_queue(session: Session, outbox: type[OutboxRow], claimed_before: datetime) -> set[str]:
    """Ids of the jobs that should be waiting in the queue, unless they were claimed a moment ago."""
    found = session.scalars(
        select(outbox.job_id)
        .distinct()
        .where(
            outbox.settled_at.is_(None),
            outbox.dead_at.is_(None),
            outbox.taken_at.is_(None),
            outbox.job_id.is_not(None),
            outbox.lease_until <= claimed_before + timedelta(seconds=LEASE_SECONDS),
        )
    )
    return {job_id for job_id in found if job_id}


def next_retry_at(session: Session, outbox: type[OutboxRow], job_id: str) -> datetime | None:
    """When the earliest row that this job has to try again becomes due."""
    return session.scalars(
        select(outbox.due_at)
        .where(
            outbox.job_id == job_id,
            outbox.taken_at.is_(None),
            outbox.settled_at.is_(None),
            outbox.dead_at.is_(None),
        )
        .order_by(outbox.due_at)
        .limit(1)
    ).first()


def bury(session: Session, outbox: type[OutboxRow], ticket: Ticket, error: str, now: datetime) -> None:
    """Keep a row that cannot be processed for investigation; nothing takes it again until it is replayed."""
    _update(session, outbox, [ticket], dead_at=now, lease_until=None, last_error=error)


def _update(session: Session, outbox: type[OutboxRow], tickets: Collection[Ticket], **values: Any) -> None:
    if tickets:
        session.execute(
            update(outbox)
            .where(outbox.id.in_([ticket.row_id for ticket in tickets]))
            .values(**values)
            .execution_options(synchronize_session=False)
        )


def _lockable(session: Session, statement: Any) -> Any:
    return statement.with_for_update() if session.get_bind().dialect.name == "postgresql" else statement
