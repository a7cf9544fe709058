"""Callers' webhook secrets, sealed, and which of them sign at a given time."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from chargeapp.storage.models import WebhookSecret

# What they are sealed for: no driver token, whoever copies one into the other's column.
WEBHOOK_SECRETS = "webhook secrets"
# Signs for all callers that have none of their own, and for requests without a caller.
EVERYBODY = ""


def signing(session: Session, caller: str, now: datetime) -> Sequence[WebhookSecret]:
    """Those in force for a caller, the newest first; empty where only the configured one is."""
    return own(session, caller, now) or own(session, EVERYBODY, now)


def own(session: Session, caller: str, now: datetime) -> Sequence[WebhookSecret]:
    """Of this caller itself, the newest first."""
    statement = select(WebhookSecret).where(WebhookSecret.caller == caller, _unretired(now))
    return session.scalars(statement.order_by(WebhookSecret.id.desc())).all()


def in_force(session: Session, now: datetime) -> Sequence[WebhookSecret]:
    """Of all callers, by name."""
    statement = select(WebhookSecret).where(_unretired(now))
    return session.scalars(statement.order_by(WebhookSecret.caller, WebhookSecret.id.desc())).all()


def _unretired(now: datetime) -> ColumnElement[bool]:
    return or_(WebhookSecret.retires_at.is_(None), WebhookSecret.retires_at > now)
