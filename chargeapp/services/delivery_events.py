"""Ending a request, or starting another round of callbacks while it has not expired."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Command, Event, Reason, State
from chargeapp.domain.retry_policy import RetryPolicy
from chargeapp.storage import outbox, requests, tallies, timeline
from chargeapp.storage.models import AuthorizationDecisionCallbackOutbox, CallbackDeliveryOutbox, SessionRequest
from chargeapp.storage.outbox import Draft, OwnRow
from chargeapp.storage.turns import DEADLINES, take_turn


def record_delivery_events(
    session: Session, rows: Collection[OwnRow], policy: RetryPolicy, now: datetime
) -> dict[str, State | None]:
    """Writes each event, moves its request on and settles its row; returns how each ended, None for another round."""
    if not rows:
        return {}
    found = requests.to_move_on(session, {row.request_id for row in rows})
    facts: list[timeline.Fact] = []
    rounds: list[Draft] = []
    moved: list[tuple[str, str, datetime]] = []
    counter = tallies.Counter()
    states: dict[str, State | None] = {}
    for row in rows:
        request = found[row.request_id]
        state = states[request.id] = _next_state(row, policy, request.expires_at, now)
        first_end = state is not None and request.ended_at is None
        if state is None:
            rounds.append(_next_round(row, request, policy, now))
        elif first_end or state is State.DELIVERED:
            # A redelivery that fails does not undo how the request ended; one that succeeds is good news.
            moved.append((request.id, state, request.ended_at or now))
        if first_end:
            counter.count(f"requests_{state}")
        facts.append(timeline.Fact(request.id, row.type, _details(row.payload), terminal=first_end))
    requests.move_on(session, moved)
    outbox.put(session, AuthorizationDecisionCallbackOutbox, rounds, now)
    timeline.append(session, facts, now)
    counter.write(session, now)
    outbox.settle(session, CallbackDeliveryOutbox, [row.row_id for row in rows], now)
    return states


def expire_overdue(session: Session, now: datetime, overdue_since: datetime, limit: int = 500) -> int:
    """No silence: a decided request past its time, with nobody left who works on it, is told to have expired."""
    outstanding = select(CallbackDeliveryOutbox.id).where(
        CallbackDeliveryOutbox.request_id == SessionRequest.id,
        CallbackDeliveryOutbox.settled_at.is_(None),
    )
    unended = select(SessionRequest.id).where(
        SessionRequest.ended_at.is_(None),
        SessionRequest.expires_at <= overdue_since,
        SessionRequest.decided_at.is_not(None),
        ~outstanding.exists(),
    )
    take_turn(session, DEADLINES)
    found = session.scalars(unended.limit(limit)).all()
    if not found:
        return 0
    abandoned = session.scalars(
        select(AuthorizationDecisionCallbackOutbox)
        .where(
            AuthorizationDecisionCallbackOutbox.request_id.in_(found),
            AuthorizationDecisionCallbackOutbox.settled_at.is_(None),
            AuthorizationDecisionCallbackOutbox.dead_at.is_(None),
        )
        .order_by(AuthorizationDecisionCallbackOutbox.id)
        .with_for_update()
    ).all()
    # A job may have told of some of them until their rows were locked.
    overdue = set(session.scalars(unended.where(SessionRequest.id.in_(found))))
    for row in abandoned:
        if row.request_id in overdue:
            row.settled_at, row.lease_until = now, None
    details = {"reason": Reason.EXPIRED, "final": True, "error": None}
    drafts = [
        Draft(id_, Event.CALLBACK_DELIVERY_FAILED, {"request_id": id_, **details}, now) for id_ in sorted(overdue)
    ]
    outbox.put(session, CallbackDeliveryOutbox, drafts, now)
    return len(overdue)


def _next_state(row: OwnRow, policy: RetryPolicy, expires_at: datetime, now: datetime) -> State | None:
    """How the request ends; None if there is to be another round."""
    if row.type == Event.CALLBACK_DELIVERY_SUCCEEDED:
        return State.DELIVERED
    if row.payload.get("reason") == Reason.EXPIRED:
        return State.EXPIRED
    if (
        row.payload.get("final")
        or policy.next_round_at(_round(row), now, expires_at, row.payload.get("retry_after_seconds")) is None
    ):
        return State.FAILED
    return None


def _next_round(row: OwnRow, request: Row[Any], policy: RetryPolicy, now: datetime) -> Draft:
    kept: dict[str, Any] = {key: row.payload[key] for key in ("request_id", "redelivery") if key in row.payload}
    return Draft(
        request.id,
        Command.SEND_AUTHORIZATION_DECISION_CALLBACK,
        {**kept, "round": _round(row) + 1},
        policy.next_round_at(_round(row), now, request.expires_at, row.payload.get("retry_after_seconds")) or now,
        destination=request.destination,
    )


def _round(row: OwnRow) -> int:
    return int(row.payload.get("round", 1))


def _details(payload: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key != "request_id" and value is not None}
