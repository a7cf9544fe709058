"""The statements on requests that every request passes through, built once."""

from collections.abc import Collection, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import Select, bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from chargeapp.domain.authorization import Answer
from chargeapp.domain.charging_session import State
from chargeapp.storage.models import SessionRequest
from chargeapp.storage.prepared import Prepared

TABLE: Any = SessionRequest.__table__
COLUMN = TABLE.c
IDS = COLUMN.id.in_(bindparam("ids", expanding=True))


def _locked(rows: Select[Any]) -> Select[Any]:
    # In one order for all, so that two writers never wait for each other in a circle. Others may go on adding events.
    return rows.order_by(COLUMN.id).with_for_update(key_share=True)


INSERT = Prepared(insert(TABLE))
# Counts no further than it matters: a short queue is counted quickly.
COUNT_UNDECIDED_UP_TO = Prepared(
    select(func.count().label("number")).select_from(
        select(COLUMN.id).where(COLUMN.decided_at.is_(None)).limit(bindparam("most")).subquery()
    )
)
TO_TELL_OF = Prepared(
    select(
        COLUMN.id,
        COLUMN.caller,
        COLUMN.station_id,
        COLUMN.token_sealed,
        COLUMN.callback_url,
        COLUMN.destination,
        COLUMN.decision,
        COLUMN.reason,
        COLUMN.decided_at,
        COLUMN.expires_at,
    ).where(IDS)
)
UNDECIDED = Prepared(_locked(select(COLUMN.id, COLUMN.destination).where(IDS, COLUMN.decided_at.is_(None))))
TO_MOVE_ON = Prepared(_locked(select(COLUMN.id, COLUMN.destination, COLUMN.expires_at, COLUMN.ended_at).where(IDS)))
TO_AUTHORIZE = Prepared(
    _locked(
        select(COLUMN.id, COLUMN.station_id, COLUMN.token_sealed, COLUMN.token_hash, COLUMN.decide_by).where(
            IDS, COLUMN.decided_at.is_(None)
        )
    )
)
BEGIN_AUTHORIZING = Prepared(update(TABLE).where(IDS).values(state=State.AUTHORIZING))
DECIDE = Prepared(
    update(TABLE)
    .where(COLUMN.id == bindparam("request"))
    .values(
        state=State.DECIDED,
        decision=bindparam("decided"),
        reason=bindparam("why"),
        source=bindparam("by"),
        decided_at=bindparam("now", type_=COLUMN.decided_at.type),
    )
)
COUNT_ATTEMPT = Prepared(
    update(TABLE)
    .where(COLUMN.id == bindparam("request"))
    .values(callback_attempts=COLUMN.callback_attempts + 1, last_error=bindparam("error"))
)
MOVE_ON = Prepared(
    update(TABLE)
    .where(COLUMN.id == bindparam("request"))
    .values(state=bindparam("to"), ended_at=bindparam("ended", type_=COLUMN.ended_at.type))
)


def store(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    INSERT.change_each(session, rows)


def count_undecided(session: Session, most: int) -> int:
    """How many wait for a decision; counts up to `most`."""
    (found,) = COUNT_UNDECIDED_UP_TO.rows(session, {"most": most})
    return int(found.number)


def by_id(session: Session, request_id: str) -> SessionRequest | None:
    # PostgreSQL refuses to look for what it cannot store.
    return None if "\0" in request_id else session.get(SessionRequest, request_id)


def to_tell_of(session: Session, ids: Collection[str]) -> dict[str, Any]:
    """What goes into their callbacks."""
    return {row.id: row for row in TO_TELL_OF.rows(session, {"ids": list(ids)})}


def to_move_on(session: Session, ids: Collection[str]) -> dict[str, Any]:
    """Nobody else moves them on until this transaction has ended."""
    return {row.id: row for row in TO_MOVE_ON.rows(session, {"ids": list(ids)})}


def undecided(session: Session, ids: Collection[str]) -> dict[str, Any]:
    return {row.id: row for row in UNDECIDED.rows(session, {"ids": list(ids)})}


def begin_authorizing(session: Session, ids: Collection[str]) -> dict[str, Any]:
    """What is to be asked about those that are undecided."""
    found = {row.id: row for row in TO_AUTHORIZE.rows(session, {"ids": list(ids)})}
    if found:
        BEGIN_AUTHORIZING.change(session, {"ids": list(found)})
    return found


def decide(session: Session, answers: dict[str, Answer], now: datetime) -> None:
    rows = [
        {"request": id_, "decided": answer.decision, "why": answer.reason, "by": answer.source, "now": now}
        for id_, answer in answers.items()
    ]
    DECIDE.change_each(session, rows)


def count_attempts(session: Session, errors: Sequence[tuple[str, str | None]]) -> None:
    """One attempt for each (request id, what went wrong)."""
    ordered = sorted(errors, key=itemgetter(0))
    COUNT_ATTEMPT.change_each(session, [{"request": id_, "error": error} for id_, error in ordered])


def move_on(session: Session, states: Sequence[tuple[str, str, datetime]]) -> None:
    """To (request id, state, since when ended)."""
    MOVE_ON.change_each(session, [{"request": id_, "to": state, "ended": ended_at} for id_, state, ended_at in states])
