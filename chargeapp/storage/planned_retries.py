"""Rows that a job has to try again later, where the broker cannot bring the job back for them."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chargeapp.storage.models import OutboxRow


def leave_to_relay(session: Session, outbox: type[OutboxRow], job_ids: Collection[str], now: datetime) -> None:
    """Let the relay publish them at the time that was planned, without the grace that a broker's delay would need."""
    planned = select(outbox.id).where(
        outbox.job_id.in_(job_ids),
        outbox.settled_at.is_(None),
        outbox.dead_at.is_(None),
        outbox.taken_at.is_(None),
        outbox.due_at > now,
    )
    chosen = planned.with_for_update(skip_locked=True).cte("planned")
    session.execute(
        update(outbox).where(outbox.id.in_(select(chosen.c.id))).values(lease_until=None, job_id=None),
        execution_options={"synchronize_session": False},
    )
