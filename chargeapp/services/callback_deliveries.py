"""Recording what came of each callback attempt, and the event that says how the round ended."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from chargeapp.clock import epoch_millis
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.charging_session import Event, Reason
from chargeapp.domain.retry_policy import RetryPolicy
from chargeapp.storage import outbox, tallies, timeline
from chargeapp.storage.models import AuthorizationDecisionCallbackOutbox, CallbackDeliveryOutbox, SessionRequest
from chargeapp.storage.outbox import RETRY_GRACE_SECONDS, Draft, Ticket


@dataclass(frozen=True)
class Callback:
    """One decision to be told to one caller."""

    ticket: Ticket
    request_id: str
    url: str
    destination: str
    caller: str
    station_id: str
    token_sealed: bytes
    decision: str
    reason: str | None
    decided_at: datetime
    expires_at: datetime
    round: int

    def body(self, driver_token: str) -> dict[str, Any]:
        """The same on every attempt."""
        return {
            "station_id": self.station_id,
            "driver_token": driver_token,
            "status": self.decision,
            "timestamp": epoch_millis(self.decided_at),
            "request_id": self.request_id,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Attempt:
    """One HTTP call, begun `at`, and what came of it."""

    callback: Callback
    reply: Reply
    at: datetime


def take_callbacks(session: Session, tickets: Collection[Ticket], now: datetime) -> list[Callback]:
    """Callbacks of rows that were just taken; an expired decision is recorded, never sent."""
    if not tickets:
        return []
    table = AuthorizationDecisionCallbackOutbox
    found = session.execute(
        select(table.id, table.payload, SessionRequest)
        .join(SessionRequest, SessionRequest.id == table.request_id)
        .where(table.id.in_([ticket.row_id for ticket in tickets]))
        .execution_options(populate_existing=True)
    ).all()
    by_row = {row.id: row for row in found}
    current, expired = [], []
    for ticket in tickets:
        row = by_row[ticket.row_id]
        (current if row.SessionRequest.expires_at > now else expired).append((ticket, row))
    outbox.settle(session, table, [ticket for ticket, _ in expired], now)
    drafts = [
        _failed(row.SessionRequest.id, row.payload, Reason.EXPIRED, final=True, error=None, now=now)
        for _, row in expired
    ]
    outbox.put(session, CallbackDeliveryOutbox, drafts, now)
    return [_callback(ticket, row.payload, row.SessionRequest) for ticket, row in current]


def record_attempts(session: Session, attempts: Sequence[Attempt], policy: RetryPolicy, now: datetime) -> None:
    """Settles what was delivered or is given up for this round; the rest becomes due again after its pause."""
    table = AuthorizationDecisionCallbackOutbox
    rows = outbox.own_rows(session, table, [each.callback.ticket for each in attempts])
    own = [each for each in attempts if each.callback.ticket.row_id in rows]
    facts = [_attempted(each, rows[each.callback.ticket.row_id].attempts + 1) for each in own]
    facts += [
        timeline.Fact(each.callback.request_id, Event.LATE_RESULT_DISCARDED, {"outcome": each.reply.outcome})
        for each in attempts
        if each.callback.ticket.row_id not in rows
    ]
    settled: list[Ticket] = []
    drafts: list[Draft] = []
    counter = tallies.Counter()
    for each in own:
        row = rows[each.callback.ticket.row_id]
        row.attempts += 1
        row.last_error = each.reply.error
        counter.time("callback", each.reply.millis)
        counter.count("callbacks_succeeded" if each.reply.outcome is Outcome.DELIVERED else "callbacks_failed")
        again_at = (
            policy.next_attempt_at(row.attempts, now, each.callback.expires_at, each.reply.retry_after_seconds)
            if each.reply.outcome is Outcome.RETRY
            else None
        )
        if again_at is not None:
            row.due_at = again_at
            row.lease_until = again_at + timedelta(seconds=RETRY_GRACE_SECONDS)
            row.taken_at = None
            continue
        settled.append(each.callback.ticket)
        drafts.append(_concluded(each, row.payload, now))
    session.flush()
    outbox.settle(session, table, settled, now)
    outbox.put(session, CallbackDeliveryOutbox, drafts, now)
    _count_attempts(session, own)
    timeline.append(session, facts, now)
    counter.write(session, now)


def _count_attempts(session: Session, own: Sequence[Attempt]) -> None:
    if own:
        table = SessionRequest.__table__
        session.connection().execute(
            update(table)  # type: ignore[arg-type]
            .where(table.c.id == bindparam("request_id"))
            .values(callback_attempts=table.c.callback_attempts + 1, last_error=bindparam("_error")),
            [{"request_id": each.callback.request_id, "_error": each.reply.error} for each in own],
        )


def _concluded(attempt: Attempt, payload: dict[str, Any], now: datetime) -> Draft:
    request_id = attempt.callback.request_id
    if attempt.reply.outcome is Outcome.DELIVERED:
        details = {**payload, "http_status": attempt.reply.http_status}
        return Draft(request_id, Event.CALLBACK_DELIVERY_SUCCEEDED, details, now)
    final = attempt.reply.outcome is Outcome.FINAL
    return _failed(request_id, payload, attempt.reply.reason or Reason.UNDELIVERABLE, final=final, error=attempt.reply.error, now=now)


def _failed(
    request_id: str, payload: dict[str, Any], reason: str, *, final: bool, error: str | None, now: datetime
) -> Draft:
    details = {**payload, "reason": reason, "final": final, "error": error}
    return Draft(request_id, Event.CALLBACK_DELIVERY_FAILED, details, now)


def _attempted(each: Attempt, attempt: int) -> timeline.Fact:
    details = {
        "round": each.callback.round,
        "attempt": attempt,
        "outcome": each.reply.outcome,
        "http_status": each.reply.http_status,
        "error": each.reply.error,
        "millis": each.reply.millis,
    }
    return timeline.Fact(each.callback.request_id, Event.CALLBACK_ATTEMPTED, details, at=each.at)


def _callback(ticket: Ticket, payload: dict[str, Any], request: SessionRequest) -> Callback:
    assert request.decision is not None and request.decided_at is not None
    return Callback(
        ticket=ticket,
        request_id=request.id,
        url=request.callback_url,
        destination=request.destination,
        caller=request.caller,
        station_id=request.station_id,
        token_sealed=request.token_sealed or b"",
        decision=request.decision,
        reason=request.reason,
        decided_at=request.decided_at,
        expires_at=request.expires_at,
        round=int(payload.get("round", 1)),
    )
