"""Sending the callback of an ended request again."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Command, Event
from chargeapp.errors import RequestRefused
from chargeapp.storage import outbox, timeline
from chargeapp.storage.models import AuthorizationDecisionCallbackOutbox, CallbackDeliveryOutbox, SessionRequest


class RedeliveryRefused(RequestRefused):
    """The callback cannot be sent again now."""


def redeliver(session: Session, request: SessionRequest, ttl_seconds: int, now: datetime) -> None:
    """Gives the request another `ttl_seconds`; raises RedeliveryRefused while its callback is still on its way."""
    if reason := why_not(session, request):
        raise RedeliveryRefused(reason)
    request.expires_at = now + timedelta(seconds=ttl_seconds)
    payload = {"request_id": request.id, "round": 1, "redelivery": True}
    draft = outbox.Draft(
        request.id, Command.SEND_AUTHORIZATION_DECISION_CALLBACK, payload, now, destination=request.destination
    )
    outbox.put(session, AuthorizationDecisionCallbackOutbox, [draft], now)
    timeline.append(session, [timeline.Fact(request.id, Event.REDELIVERY_REQUESTED)], now)


def why_not(session: Session, request: SessionRequest) -> str | None:
    """What stands against sending the callback again now; None if nothing does."""
    if request.ended_at is None or _in_flight(session, request.id):
        return "The callback of this request is still on its way."
    if request.token_sealed is None:
        return "The driver token of this request was erased, so its callback cannot be sent again."
    return None


def _in_flight(session: Session, request_id: str) -> bool:
    return any(
        session.scalars(
            select(table.id).where(table.request_id == request_id, table.settled_at.is_(None), table.dead_at.is_(None))
        ).first()
        is not None
        for table in (AuthorizationDecisionCallbackOutbox, CallbackDeliveryOutbox)
    )
