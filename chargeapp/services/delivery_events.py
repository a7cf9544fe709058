"""Ending a request, or starting another round of callbacks while it has not expired."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Command, Event, Reason, State
from chargeapp.domain.retry_policy import RetryPolicy
from chargeapp.storage import outbox, tallies, timeline
from chargeapp.storage.models import (
    AuthorizationDecisionCallbackOutbox,
    CallbackDeliveryOutbox,
    OutboxRow,
    SessionRequest,
)
from chargeapp.storage.outbox import Draft, Ticket


def record_delivery_events(session: Session, tickets: Collection[Ticket], policy: RetryPolicy, now: datetime) -> None:
    """Writes each event, moves its request on and settles its row."""
    rows = outbox.own_rows(session, CallbackDeliveryOutbox, tickets)
    found = session.scalars(
        select(SessionRequest).where(SessionRequest.id.in_([row.request_id for row in rows.values()]))
    )
    requests = {request.id: request for request in found}
    facts: list[timeline.Fact] = []
    rounds: list[Draft] = []
    counter = tallies.Counter()
    for row in rows.values():
        request = requests[row.request_id]
        was_terminal = request.ended_at is not None
        next_round = _move_on(request, row, policy, now)
        if next_round:
            rounds.append(next_round)
        terminal = not was_terminal and request.ended_at is not None
        if terminal:
            counter.count(f"requests_{request.state}")
        facts.append(timeline.Fact(request.id, row.type, _details(row.payload), terminal=terminal))
    session.flush()
    outbox.put(session, AuthorizationDecisionCallbackOutbox, rounds, now)
    timeline.append(session, facts, now)
    counter.write(session, now)
    outbox.settle(session, CallbackDeliveryOutbox, [t for t in tickets if t.row_id in rows], now)


def expire_overdue(session: Session, now: datetime, overdue_since: datetime, limit: int = 500) -> int:
    """No silence: a decided request past its time, with nobody left who works on it, is told to have expired."""
    outstanding = select(CallbackDeliveryOutbox.id).where(
        CallbackDeliveryOutbox.request_id == SessionRequest.id, CallbackDeliveryOutbox.settled_at.is_(None)
    )
    overdue = session.scalars(
        select(SessionRequest.id)
        .where(
            SessionRequest.ended_at.is_(None),
            SessionRequest.expires_at <= overdue_since,
            SessionRequest.decided_at.is_not(None),
            ~outstanding.exists(),
        )
        .limit(limit)
    ).all()
    if not overdue:
        return 0
    abandoned = session.scalars(
        select(AuthorizationDecisionCallbackOutbox).where(
            AuthorizationDecisionCallbackOutbox.request_id.in_(overdue),
            AuthorizationDecisionCallbackOutbox.settled_at.is_(None),
        )
    )
    for row in abandoned:
        row.settled_at, row.lease_until = now, None
    details = {"reason": Reason.EXPIRED, "final": True, "error": None}
    drafts = [
        Draft(id_, Event.CALLBACK_DELIVERY_FAILED, {"request_id": id_, **details}, now) for id_ in overdue
    ]
    outbox.put(session, CallbackDeliveryOutbox, drafts, now)
    return len(overdue)


def _move_on(request: SessionRequest, row: OutboxRow, policy: RetryPolicy, now: datetime) -> Draft | None:
    """Changes the request's state; returns the command of the next round where there is to be one."""
    payload = row.payload
    if row.type == Event.CALLBACK_DELIVERY_SUCCEEDED:
        _end(request, State.DELIVERED, now)
        return None
    if payload.get("reason") == Reason.EXPIRED:
        _end(request, State.EXPIRED, now)
        return None
    rounds = int(payload.get("round", 1))
    next_at = None if payload.get("final") else policy.next_round_at(rounds, now, request.expires_at)
    if next_at is None:
        _end(request, State.FAILED, now)
        return None
    return Draft(
        request.id,
        Command.SEND_AUTHORIZATION_DECISION_CALLBACK,
        {**{key: payload[key] for key in ("request_id", "redelivery") if key in payload}, "round": rounds + 1},
        next_at,
        destination=request.destination,
    )


def _end(request: SessionRequest, state: State, now: datetime) -> None:
    # A redelivery that fails does not undo how the request ended; one that succeeds is good news.
    if request.ended_at is None or state is State.DELIVERED:
        request.state = state
    request.ended_at = request.ended_at or now


def _details(payload: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key != "request_id" and value is not None}
