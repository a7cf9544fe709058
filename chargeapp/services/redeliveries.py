"""Sending the callbacks of ended requests again."""

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Command, Event
from chargeapp.errors import RequestRefused
from chargeapp.storage import outbox, timeline
from chargeapp.storage.models import AuthorizationDecisionCallbackOutbox, CallbackDeliveryOutbox, SessionRequest
from chargeapp.storage.turns import RETENTION, take_turn


class Obstacle(StrEnum):
    """What stands against sending a callback again now."""

    UNDER_WAY = "The callback of this request is still on its way."
    REMOVED = "This request was removed a moment ago."
    ERASED = "The driver token of this request was erased, so its callback cannot be sent again."


class RedeliveryRefused(RequestRefused):
    """The callback cannot be sent again now."""


def redeliver(session: Session, request: SessionRequest, ttl_seconds: int, now: datetime) -> None:
    """Gives the request another `ttl_seconds`; raises RedeliveryRefused while its callback is still on its way."""
    if reason := redeliver_all(session, [request], ttl_seconds, now)[request.id]:
        raise RedeliveryRefused(reason)


def redeliver_all(
    session: Session, requests: Collection[SessionRequest], ttl_seconds: int, now: datetime
) -> dict[str, Obstacle | None]:
    """The same for many; says of each, by its id, why it was left alone."""
    take_turn(session, RETENTION)
    requests = {request.id: request for request in requests}.values()
    found: dict[str, Obstacle | None] = {request.id: Obstacle.REMOVED for request in requests}
    found |= obstacles(session, _anew(session, requests))
    wanted = [request for request in requests if found[request.id] is None]
    for request in wanted:
        request.expires_at = now + timedelta(seconds=ttl_seconds)
    drafts = [
        outbox.Draft(
            request.id,
            Command.SEND_AUTHORIZATION_DECISION_CALLBACK,
            {"request_id": request.id, "round": 1, "redelivery": True},
            now,
            destination=request.destination,
        )
        for request in wanted
    ]
    outbox.put(session, AuthorizationDecisionCallbackOutbox, drafts, now)
    timeline.append(session, [timeline.Fact(request.id, Event.REDELIVERY_REQUESTED) for request in wanted], now)
    return found


def why_not(session: Session, request: SessionRequest) -> Obstacle | None:
    """What stands against sending the callback again now; None if nothing does."""
    return obstacles(session, [request])[request.id]


def obstacles(session: Session, requests: Collection[SessionRequest]) -> dict[str, Obstacle | None]:
    """Of each by its id."""
    in_flight = _in_flight(session, [request.id for request in requests])
    return {
        request.id: Obstacle.UNDER_WAY
        if request.ended_at is None or request.id in in_flight
        else Obstacle.ERASED
        if request.token_sealed is None
        else None
        for request in requests
    }


def _anew(session: Session, requests: Collection[SessionRequest]) -> list[SessionRequest]:
    """The same objects, as they are by now; without those that were removed."""
    ids = [request.id for request in requests]
    statement = select(SessionRequest).where(SessionRequest.id.in_(ids))
    return list(session.scalars(statement, execution_options={"populate_existing": True}))


def _in_flight(session: Session, request_ids: Collection[str]) -> set[str]:
    return {
        request_id
        for table in (AuthorizationDecisionCallbackOutbox, CallbackDeliveryOutbox)
        for request_id in session.scalars(
            select(table.request_id).where(
                table.request_id.in_(request_ids), table.settled_at.is_(None), table.dead_at.is_(None)
            )
        )
    }
