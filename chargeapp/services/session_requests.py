"""Accepting charging session requests: stored, queued and acknowledged in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Command, Event, State, new_request_id
from chargeapp.errors import RequestRefused, TemporaryFailure
from chargeapp.services.queue_limit import QueueLimit
from chargeapp.storage import idempotency, outbox, requests, tallies, timeline
from chargeapp.storage.models import ChargingSessionRequestOutbox


class QueueFull(TemporaryFailure):
    """Too many requests are waiting for a decision; try again in a few seconds."""


class IdempotencyKeyReused(RequestRefused):
    """This Idempotency-Key was already used with another body."""


@dataclass(frozen=True)
class NewRequest:
    """What the caller asked, validated; the driver token only sealed, hashed and masked."""

    caller: str
    station_id: str
    token_sealed: bytes
    token_hash: str
    token_masked: str
    callback_url: str
    destination: str
    ttl_seconds: int
    decide_within_seconds: float
    idempotency_key: str | None = None
    body_hash: str = ""


@dataclass(frozen=True)
class Acknowledgement:
    request_id: str
    accepted_at: datetime
    replayed: bool = False


Refusal = QueueFull | IdempotencyKeyReused


def request_charging_sessions(
    session: Session, wanted: Sequence[NewRequest], *, limit: QueueLimit, now: datetime
) -> list[Acknowledgement | Refusal]:
    """An answer for each, in their order; nothing is stored of those refused."""
    keys = [(new.caller, new.idempotency_key) for new in wanted if new.idempotency_key is not None]
    idempotency.take_turns(session, keys)
    free = limit.free(session, len(wanted))
    answers: list[Acknowledgement | Refusal] = []
    accepted: dict[str, NewRequest] = {}
    for new in wanted:
        earlier = _earlier_answer(session, new, now) if new.idempotency_key is not None else None
        if earlier is not None:
            answers.append(earlier)
        elif len(accepted) >= free:
            answers.append(QueueFull())
        else:
            request_id = new_request_id(now)
            accepted[request_id] = new
            answers.append(Acknowledgement(request_id, now))
            if new.idempotency_key is not None:
                # At once, so that the same key later in this very list finds it.
                idempotency.remember(
                    session,
                    new.caller,
                    new.idempotency_key,
                    body_hash=new.body_hash,
                    request_id=request_id,
                    now=now,
                )
    if accepted:
        _store(session, accepted, now)
    return answers


def _earlier_answer(session: Session, new: NewRequest, now: datetime) -> Acknowledgement | Refusal | None:
    earlier = idempotency.recall(session, new.caller, new.idempotency_key or "", now)
    if earlier is None:
        return None
    if earlier.body_hash != new.body_hash:
        return IdempotencyKeyReused("This Idempotency-Key was already used with another body.")
    return Acknowledgement(earlier.request_id, earlier.created_at, replayed=True)


def _store(session: Session, accepted: dict[str, NewRequest], now: datetime) -> None:
    requests.store(session, [_row(request_id, new, now) for request_id, new in accepted.items()])
    drafts = [
        outbox.Draft(request_id, Command.START_CHARGING_SESSION_REQUEST, {"request_id": request_id}, now)
        for request_id in accepted
    ]
    outbox.put(session, ChargingSessionRequestOutbox, drafts, now)
    timeline.append(session, [timeline.Fact(request_id, Event.REQUEST_ACCEPTED) for request_id in accepted], now)
    counter = tallies.Counter()
    counter.count("requests", len(accepted))
    counter.write(session, now)


def _row(request_id: str, new: NewRequest, now: datetime) -> dict[str, object]:
    return {
        "id": request_id,
        "caller": new.caller,
        "station_id": new.station_id,
        "token_sealed": new.token_sealed,
        "token_hash": new.token_hash,
        "token_masked": new.token_masked,
        "callback_url": new.callback_url,
        "destination": new.destination,
        "state": State.ACCEPTED,
        "accepted_at": now,
        "decide_by": now + timedelta(seconds=new.decide_within_seconds),
        "expires_at": now + timedelta(seconds=new.ttl_seconds),
        "callback_attempts": 0,
    }
