"""One mechanism for all three outboxes: put, claim, take, postpone, settle, bury."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from chargeapp.storage import news
from chargeapp.storage.models import OutboxRow
from chargeapp.storage.outbox_statements import statements

LEASE_SECONDS = 60.0
# A planned retry is late by this much before the relay concludes that the queue lost it.
RETRY_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """One row and the number under which it was enqueued; worthless once the row has a higher one."""

    row_id: int
    seq: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A row to be."""

    request_id: str
    type: str
    payload: dict[str, Any]
    due_at: datetime
    destination: str = ""


@dataclass(frozen=True, slots=True)
class OwnRow:
    """What a job has to know of a row that is still its own."""

    ticket: Ticket
    request_id: str
    type: str
    payload: dict[str, Any]
    attempts: int

    @property
    def row_id(self) -> int:
        return self.ticket.row_id


def put(session: Session, outbox: type[OutboxRow], drafts: Sequence[Draft], now: datetime) -> None:
    statements(outbox).insert.change_each(
        session,
        [
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
        ],
    )


def newest(session: Session, outbox: type[OutboxRow]) -> int:
    """The number of the row added last; 0 if there is none."""
    (found,) = statements(outbox).newest.rows(session, {})
    return int(found.id or 0)


def claim_due(
    session: Session,
    outbox: type[OutboxRow],
    *,
    job_id: str,
    limit: int,
    now: datetime,
    due_before: datetime | None = None,
) -> list[Ticket]:
    """Take up to `limit` due rows, the longest due first; nobody else sees them until the lease ends.

    Rows due later than `due_before` are left alone.
    """
    look = {"now": now, "due_before": due_before or now, "limit": limit}
    found = statements(outbox).to_claim.rows(session, look)
    claimed = _claim(session, outbox, found, job_id=job_id, now=now, taken=False)
    return [row.ticket for row in claimed]


def claim_and_take(
    session: Session,
    outbox: type[OutboxRow],
    *,
    job_id: str,
    limit: int,
    now: datetime,
    not_to: Collection[str] = (),
) -> list[OwnRow]:
    """As a job that begins with the rows at once: it also gets rows that wait for another job, whose tickets lapse.

    Those whose destination is in `not_to` are left alone.
    """
    look: dict[str, Any] = {"now": now, "due_before": now, "limit": limit}
    if not_to:
        found = statements(outbox).to_take_elsewhere.rows(session, look | {"not_to": list(not_to)})
    else:
        found = statements(outbox).to_take.rows(session, look)
    return _claim(session, outbox, found, job_id=job_id, now=now, taken=True)


def any_due(session: Session, outbox: type[OutboxRow], due_before: datetime, now: datetime) -> bool:
    """A look without a lock, so that an idle relay never disturbs a writer."""
    look = {"now": now, "due_before": due_before}
    return bool(statements(outbox).any_due.rows(session, look))


def any_to_take(session: Session, outbox: type[OutboxRow], now: datetime, not_to: Collection[str] = ()) -> bool:
    """The same look for a job, which may take rows that wait for another."""
    look: dict[str, Any] = {"now": now, "due_before": now}
    if not_to:
        return bool(statements(outbox).any_to_take_elsewhere.rows(session, {**look, "not_to": list(not_to)}))
    return bool(statements(outbox).any_to_take.rows(session, look))


def take(session: Session, outbox: type[OutboxRow], tickets: Iterable[Ticket], now: datetime) -> list[OwnRow]:
    """Begin with due rows that are still the job's own; of two jobs with the same tickets only the first gets them."""
    wanted = {ticket.row_id: ticket.seq for ticket in tickets}
    found = statements(outbox).untaken.rows(session, {"ids": list(wanted), "now": now})
    own = [_own(row) for row in found if wanted[row.id] == row.enqueue_seq]
    if own:
        held = {"ids": [row.row_id for row in own], "now": now, "lease": _lease_end(now)}
        statements(outbox).take.change(session, held)
    return own


def own_rows(session: Session, outbox: type[OutboxRow], tickets: Iterable[Ticket]) -> dict[int, OwnRow]:
    """The rows among `tickets` that no later claim has taken over, by their number."""
    wanted = {ticket.row_id: ticket.seq for ticket in tickets}
    if not wanted:
        return {}
    found = statements(outbox).own.rows(session, {"ids": list(wanted)})
    return {row.id: _own(row) for row in found if row.enqueue_seq == wanted[row.id]}


def settle(session: Session, outbox: type[OutboxRow], row_ids: Collection[int], now: datetime) -> None:
    """Only the job calls this, in the transaction that writes its result and the next outbox row."""
    if row_ids:
        statements(outbox).settle.change(session, {"ids": list(row_ids), "now": now})


def postpone(session: Session, outbox: type[OutboxRow], row: OwnRow, until: datetime, error: str | None) -> None:
    """Count an attempt and plan the next one; the relay steps in if nobody has begun with it a while later."""
    statements(outbox).postpone.change(
        session,
        {
            "row": row.row_id,
            "attempts": row.attempts + 1,
            "until": until,
            "lease": until + timedelta(seconds=RETRY_GRACE_SECONDS),
            "error": error,
        },
    )


def renew(session: Session, outbox: type[OutboxRow], tickets: Collection[Ticket], now: datetime) -> None:
    """Keep rows leased while their job is still at work on them."""
    lease = _lease_end(now)
    statements(outbox).renew.change_each(session, [{**held, "lease": lease} for held in _held(tickets)])


def release(session: Session, outbox: type[OutboxRow], tickets: Collection[Ticket], due_at: datetime) -> None:
    """Give rows back unchanged; whoever comes first may claim them from `due_at` on."""
    statements(outbox).release.change_each(session, [{**held, "until": due_at} for held in _held(tickets)])


def give_back(session: Session, outbox: type[OutboxRow], job_id: str) -> None:
    """After a publication that failed, perhaps in part; what a worker has begun with all the same is left to it."""
    statements(outbox).release_lost.rows(session, {"jobs": [job_id]})


def release_lost(session: Session, outbox: type[OutboxRow], job_ids: Collection[str]) -> int:
    """Make the rows of jobs that vanished from the queue claimable again; a row already begun with is left alone."""
    found = statements(outbox).release_lost.rows(session, {"jobs": list(job_ids)})
    told = {"outbox": outbox.__tablename__}
    news.note(session, [news.News(row.request_id, "RowRecovered", told) for row in found])
    return len(found)


def jobs_in_queue(session: Session, outbox: type[OutboxRow], claimed_before: datetime) -> set[str]:
    """Ids of the jobs that should be waiting in the queue, unless they were claimed a moment ago."""
    lease = _lease_end(claimed_before)
    return {row.job_id for row in statements(outbox).jobs_in_queue.rows(session, {"lease": lease})}


def next_retry_at(session: Session, outbox: type[OutboxRow], job_id: str) -> datetime | None:
    """When the earliest row that this job has to try again becomes due."""
    return next((row.due_at for row in statements(outbox).next_retry.rows(session, {"job": job_id})), None)


def bury(session: Session, outbox: type[OutboxRow], ticket: Ticket, error: str, now: datetime) -> str | None:
    """Keep a row that cannot be processed for investigation; nothing takes it again until it is replayed.

    Returns the id of its request, None if the row has another owner by now.
    """
    held = {"row": ticket.row_id, "seq": ticket.seq, "now": now, "error": error}
    return next((row.request_id for row in statements(outbox).bury.rows(session, held)), None)


def _claim(
    session: Session, outbox: type[OutboxRow], found: Sequence[Any], *, job_id: str, now: datetime, taken: bool
) -> list[OwnRow]:
    if found:
        ids = [row.id for row in found]
        claim = {"ids": ids, "job": job_id, "lease": _lease_end(now), "taken": now if taken else None}
        statements(outbox).claim.change(session, claim)
    return [_own(row._replace(enqueue_seq=row.enqueue_seq + 1)) for row in found]


def _lease_end(now: datetime) -> datetime:
    return now + timedelta(seconds=LEASE_SECONDS)


def _own(row: Any) -> OwnRow:
    return OwnRow(Ticket(row.id, row.enqueue_seq), row.request_id, row.type, row.payload, row.attempts)


def _held(tickets: Iterable[Ticket]) -> list[dict[str, int]]:
    return [{"row": ticket.row_id, "seq": ticket.seq} for ticket in tickets]
