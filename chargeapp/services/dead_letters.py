"""Commands and events that could not be processed: kept, listed, and put on their way again."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chargeapp.pipeline import STAGES
from chargeapp.storage import news
from chargeapp.storage.models import OutboxRow


@dataclass(frozen=True)
class DeadLetter:
    queue: str
    row_id: int
    request_id: str
    type: str
    attempts: int
    dead_at: datetime
    error: str | None


def list_dead_letters(session: Session, limit: int = 100) -> list[DeadLetter]:
    found = [
        DeadLetter(stage.queue, row.id, row.request_id, row.type, row.attempts, row.dead_at, row.last_error)
        for stage in STAGES
        for row in session.scalars(
            select(stage.outbox)
            .where(stage.outbox.dead_at.is_not(None), stage.outbox.settled_at.is_(None))
            .order_by(stage.outbox.dead_at.desc())
            .limit(limit)
        )
        if row.dead_at is not None
    ]
    return sorted(found, key=lambda each: each.dead_at, reverse=True)[:limit]


def count_dead_letters(session: Session) -> dict[str, int]:
    """By queue."""
    return {
        stage.queue: session.scalar(
            select(func.count()).where(stage.outbox.dead_at.is_not(None), stage.outbox.settled_at.is_(None))
        )
        or 0
        for stage in STAGES
    }


def replay(session: Session, queue: str, row_id: int, now: datetime) -> bool:
    """Make a dead letter due again; False if there is none of that number."""
    outbox = next(stage.outbox for stage in STAGES if stage.queue == queue)
    row: OutboxRow | None = session.get(outbox, row_id)
    if row is None or row.dead_at is None or row.settled_at is not None:
        return False
    news.note(session, [news.News(row.request_id, "DeadLetterReplayed", {"queue": queue, "row": row_id})])
    row.dead_at, row.lease_until, row.taken_at, row.job_id, row.due_at = None, None, None, None, now
    return True
