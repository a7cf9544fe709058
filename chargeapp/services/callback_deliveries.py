"""Recording what came of each callback attempt, and the event that says how the round ended."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from chargeapp.clock import epoch_millis
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.charging_session import Event, Reason
from chargeapp.domain.retry_policy import RetryPolicy
from chargeapp.storage import outbox, requests, tallies, timeline
from chargeapp.storage.models import AuthorizationDecisionCallbackOutbox, CallbackDeliveryOutbox
from chargeapp.storage.outbox import Draft, OwnRow, Ticket


@dataclass(frozen=True)
class Callback:
    """One decision to be told to one caller."""

    ticket: Ticket
    request_id: str
    caller: str
    url: str
    destination: str
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


def take_callbacks(session: Session, rows: Collection[OwnRow], now: datetime) -> list[Callback]:
    """Callbacks of rows that were just taken; an expired decision is recorded, never sent."""
    if not rows:
        return []
    found = requests.to_tell_of(session, {row.request_id for row in rows})
    expired = [row for row in rows if found[row.request_id].expires_at <= now]
    outbox.settle(session, AuthorizationDecisionCallbackOutbox, [row.row_id for row in expired], now)
    drafts = [_failed(row, Reason.EXPIRED, final=True, error=None, now=now) for row in expired]
    outbox.put(session, CallbackDeliveryOutbox, drafts, now)
    return [_callback(row, request) for row in rows if (request := found[row.request_id]).expires_at > now]


def record_attempts(session: Session, attempts: Sequence[Attempt], policy: RetryPolicy, now: datetime) -> None:
    """Settles what was delivered or is given up for this round; the rest becomes due again after its pause."""
    if not attempts:
        return
    rows = outbox.own_rows(session, AuthorizationDecisionCallbackOutbox, [each.callback.ticket for each in attempts])
    own = [(each, rows[each.callback.ticket.row_id]) for each in attempts if each.callback.ticket.row_id in rows]
    expired = [row for each, row in own if each.reply.outcome is Outcome.EXPIRED]
    own = [(each, row) for each, row in own if each.reply.outcome is not Outcome.EXPIRED]
    late = [each for each in attempts if each.callback.ticket.row_id not in rows]
    settled = [row.row_id for row in expired]
    drafts = [_failed(row, Reason.EXPIRED, final=True, error=None, now=now) for row in expired]
    counter = tallies.Counter()
    for each, row in own:
        counter.time("callback", each.reply.millis)
        counter.count("callbacks_succeeded" if each.reply.outcome is Outcome.DELIVERED else "callbacks_failed")
        again_at = _next_attempt_at(each, row, policy, now)
        if again_at is not None:
            outbox.postpone(session, AuthorizationDecisionCallbackOutbox, row, again_at, each.reply.error)
        else:
            settled.append(row.row_id)
            drafts.append(_concluded(row, each.reply, now))
    outbox.settle(session, AuthorizationDecisionCallbackOutbox, settled, now)
    outbox.put(session, CallbackDeliveryOutbox, drafts, now)
    requests.count_attempts(session, [(row.request_id, each.reply.error) for each, row in own])
    facts = [_attempted(each, row.attempts + 1) for each, row in own]
    facts += [
        timeline.Fact(each.callback.request_id, Event.LATE_RESULT_DISCARDED, {"outcome": each.reply.outcome})
        for each in late
    ]
    timeline.append(session, facts, now)
    counter.write(session, now)


def _next_attempt_at(each: Attempt, row: OwnRow, policy: RetryPolicy, now: datetime) -> datetime | None:
    if each.reply.outcome is not Outcome.RETRY:
        return None
    return policy.next_attempt_at(row.attempts + 1, now, each.callback.expires_at, each.reply.retry_after_seconds)


def _concluded(row: OwnRow, reply: Reply, now: datetime) -> Draft:
    if reply.outcome is Outcome.DELIVERED:
        details = {**row.payload, "http_status": reply.http_status}
        return Draft(row.request_id, Event.CALLBACK_DELIVERY_SUCCEEDED, details, now)
    final = reply.outcome is Outcome.FINAL
    draft = _failed(row, reply.reason or Reason.UNDELIVERABLE, final=final, error=reply.error, now=now)
    if reply.retry_after_seconds is not None:
        draft.payload["retry_after_seconds"] = reply.retry_after_seconds
    return draft


def _failed(row: OwnRow, reason: str, *, final: bool, error: str | None, now: datetime) -> Draft:
    details = {**row.payload, "reason": reason, "final": final, "error": error}
    return Draft(row.request_id, Event.CALLBACK_DELIVERY_FAILED, details, now)


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


def _callback(row: OwnRow, request: Row[Any]) -> Callback:
    return Callback(
        ticket=row.ticket,
        request_id=request.id,
        caller=request.caller,
        url=request.callback_url,
        destination=request.destination,
        station_id=request.station_id,
        token_sealed=request.token_sealed or b"",
        decision=request.decision,
        reason=request.reason,
        decided_at=request.decided_at,
        expires_at=request.expires_at,
        round=int(row.payload.get("round", 1)),
    )
