"""Sending the callbacks of ended requests again."""

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, case, exists, func, or_, select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Command, Event, State
from chargeapp.errors import RequestRefused
from chargeapp.storage import outbox, timeline
from chargeapp.storage.models import AuthorizationDecisionCallbackOutbox, CallbackDeliveryOutbox, SessionRequest
from chargeapp.storage.turns import RETENTION, take_turn


class Obstacle(StrEnum):
    """What stands against sending a callback again now."""

    UNDER_WAY = "The callback of this request is still on its way."
    DELIVERED = "The callback of this request was delivered meanwhile."
    ERASED = "The driver token of this request was erased, so its callback cannot be sent again."
    MISSING = "There is no request with this id."


class RedeliveryRefused(RequestRefused):
    """The callback cannot be sent again now."""


def redeliver(session: Session, request: SessionRequest, ttl_seconds: int, now: datetime) -> None:
    """Gives the request another `ttl_seconds`; raises RedeliveryRefused while its callback is still on its way."""
    if reason := redeliver_all(session, [request.id], ttl_seconds, now)[request.id]:
        raise RedeliveryRefused(reason)


def redeliver_all(
    session: Session, request_ids: Collection[str], ttl_seconds: int, now: datetime, *, undelivered_only: bool = False
) -> dict[str, Obstacle | None]:
    """The same for many; says of each, by its id, why it was left alone."""
    take_turn(session, RETENTION)
    found = obstacles(session, request_ids, undelivered_only=undelivered_only)
    free = SessionRequest.id.in_([request_id for request_id, obstacle in found.items() if obstacle is None])
    # What was read before the turn may have changed.
    statement = select(SessionRequest).where(free).execution_options(populate_existing=True)
    requests = list(session.scalars(statement))
    for request in requests:
        request.expires_at = now + timedelta(seconds=ttl_seconds)
    drafts = [
        outbox.Draft(
            request.id,
            Command.SEND_AUTHORIZATION_DECISION_CALLBACK,
            {"request_id": request.id, "round": 1, "redelivery": True},
            now,
            destination=request.destination,
        )
        for request in requests
    ]
    outbox.put(session, AuthorizationDecisionCallbackOutbox, drafts, now)
    timeline.append(session, [timeline.Fact(request.id, Event.REDELIVERY_REQUESTED) for request in requests], now)
    return found


def why_not(session: Session, request: SessionRequest) -> Obstacle | None:
    """What stands against sending the callback again now; None if nothing does."""
    return obstacles(session, [request.id])[request.id]


def obstacles(
    session: Session, request_ids: Collection[str], *, undelivered_only: bool = False
) -> dict[str, Obstacle | None]:
    """Of each by its id."""
    statement = select(SessionRequest.id, _first_obstacle(undelivered_only)).where(SessionRequest.id.in_(request_ids))
    known = {request_id: _obstacle(name) for request_id, name in session.execute(statement)}
    return {request_id: known.get(request_id, Obstacle.MISSING) for request_id in request_ids}


def count_obstacles(
    session: Session, where: Iterable[ColumnElement[bool]], *, undelivered_only: bool = False
) -> Counter[Obstacle | None]:
    """Of all requests that there are; None stands for those that can be sent again."""
    each = select(_first_obstacle(undelivered_only)).where(*where).subquery()
    counted = session.execute(select(each.c.obstacle, func.count()).group_by(each.c.obstacle))
    return Counter({_obstacle(name): count for name, count in counted})


def _first_obstacle(undelivered_only: bool) -> ColumnElement[str | None]:
    delivered = [(SessionRequest.state == State.DELIVERED, Obstacle.DELIVERED.name)] if undelivered_only else []
    return case(
        (or_(SessionRequest.ended_at.is_(None), *_in_flight()), Obstacle.UNDER_WAY.name),
        *delivered,
        (SessionRequest.token_sealed.is_(None), Obstacle.ERASED.name),
    ).label("obstacle")


def _obstacle(name: str | None) -> Obstacle | None:
    return None if name is None else Obstacle[name]


def _in_flight() -> list[ColumnElement[bool]]:
    return [
        exists().where(table.request_id == SessionRequest.id, table.settled_at.is_(None), table.dead_at.is_(None))
        for table in (AuthorizationDecisionCallbackOutbox, CallbackDeliveryOutbox)
    ]
