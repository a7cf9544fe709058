"""The statements of an outbox, built once for each table."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Table, and_, bindparam, func, insert, or_, select, update

from chargeapp.storage.models import OutboxRow
from chargeapp.storage.prepared import Prepared


@dataclass(frozen=True)
class Statements:
    insert: Prepared
    newest: Prepared
    to_claim: Prepared
    to_take: Prepared
    to_take_elsewhere: Prepared
    claim: Prepared
    any_due: Prepared
    any_to_take: Prepared
    any_to_take_elsewhere: Prepared
    untaken: Prepared
    take: Prepared
    own: Prepared
    settle: Prepared
    postpone: Prepared
    renew: Prepared
    release: Prepared
    release_lost: Prepared
    jobs_in_queue: Prepared
    next_retry: Prepared
    bury: Prepared


@cache
def statements(outbox: type[OutboxRow]) -> Statements:
    table = outbox.__table__
    assert isinstance(table, Table)
    row = table.c
    ids = row.id.in_(bindparam("ids", expanding=True))
    open_ = and_(row.settled_at.is_(None), row.dead_at.is_(None))
    untaken = and_(open_, row.taken_at.is_(None))
    now, lease = bindparam("now", type_=row.due_at.type), bindparam("lease", type_=row.due_at.type)
    until = bindparam("until", type_=row.due_at.type)
    free = or_(row.lease_until.is_(None), row.lease_until <= now)
    unbegun = or_(free, row.taken_at.is_(None))
    elsewhere = row.destination.not_in(bindparam("not_to", expanding=True))
    due = and_(open_, row.due_at <= bindparam("due_before", type_=row.due_at.type))
    # Without the number, a late job would change a row that another one is at work on.
    held = and_(row.id == bindparam("row"), row.enqueue_seq == bindparam("seq"), open_)

    whole = (row.id, row.enqueue_seq, row.request_id, row.type, row.payload, row.attempts)

    def longest_due(*conditions: Any) -> Prepared:
        found = select(*whole).where(due, *conditions).order_by(row.due_at).limit(bindparam("limit"))
        # Left out on SQLite, where there is one writer at a time.
        return Prepared(found.with_for_update(skip_locked=True))

    # A row that somebody has locked just now is not lost.
    of_lost_jobs = and_(row.job_id.in_(bindparam("jobs", expanding=True)), untaken)
    lost = select(row.id).where(of_lost_jobs).with_for_update(skip_locked=True).cte("lost")

    return Statements(
        insert=Prepared(insert(table)),
        newest=Prepared(select(func.max(row.id).label("id"))),
        to_claim=longest_due(free),
        to_take=longest_due(unbegun),
        to_take_elsewhere=longest_due(unbegun, elsewhere),
        # An UPDATE that also chooses the rows and returns them takes half as long again on SQLite, and twice as long
        # where there are none.
        claim=Prepared(
            update(table)
            .where(ids)
            .values(
                enqueue_seq=row.enqueue_seq + 1,
                lease_until=lease,
                job_id=bindparam("job"),
                taken_at=bindparam("taken", type_=row.taken_at.type),
            )
        ),
        any_due=Prepared(select(row.id).where(due, free).limit(1)),
        any_to_take=Prepared(select(row.id).where(due, unbegun).limit(1)),
        any_to_take_elsewhere=Prepared(select(row.id).where(due, unbegun, elsewhere).limit(1)),
        # A job that comes back for one retry leaves those alone whose pause is not over.
        untaken=Prepared(select(*whole).where(ids, untaken, row.due_at <= now).order_by(row.id).with_for_update()),
        take=Prepared(update(table).where(ids).values(taken_at=now, lease_until=lease)),
        own=Prepared(select(*whole).where(ids, open_).order_by(row.id).with_for_update()),
        settle=Prepared(update(table).where(ids).values(settled_at=now, lease_until=None)),
        postpone=Prepared(
            update(table)
            .where(row.id == bindparam("row"))
            .values(
                attempts=bindparam("attempts"),
                due_at=until,
                lease_until=lease,
                taken_at=None,
                last_error=bindparam("error"),
            )
        ),
        renew=Prepared(update(table).where(held).values(lease_until=lease)),
        release=Prepared(update(table).where(held).values(lease_until=None, taken_at=None, job_id=None, due_at=until)),
        release_lost=Prepared(
            update(table)
            .where(row.id.in_(select(lost.c.id)))
            .values(lease_until=None, job_id=None)
            .returning(row.request_id)
        ),
        jobs_in_queue=Prepared(
            select(row.job_id).distinct().where(untaken, row.job_id.is_not(None), row.lease_until <= lease)
        ),
        next_retry=Prepared(
            select(row.due_at).where(row.job_id == bindparam("job"), untaken).order_by(row.due_at).limit(1)
        ),
        bury=Prepared(
            update(table)
            .where(held)
            .values(dead_at=now, lease_until=None, last_error=bindparam("error"))
            .returning(row.request_id)
        ),
    )
