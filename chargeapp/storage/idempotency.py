"""Callers' idempotency keys, and what was answered."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from chargeapp.storage.dialects import upsert
from chargeapp.storage.models import IdempotencyKey
from chargeapp.storage.turns import take_turn

REMEMBERED = timedelta(hours=24)


def take_turns(session: Session, keys: Iterable[tuple[str, str]]) -> None:
    """Nobody else answers to these keys of callers until the transaction has ended."""
    # In one order for all, so that two writers never wait for each other in a circle.
    for caller, key in sorted(set(keys)):
        take_turn(session, f"idempotency key {caller} {key}")


def recall(session: Session, caller: str, key: str, now: datetime) -> IdempotencyKey | None:
    """What was answered; to be asked by whoever has the turn."""
    found = session.get(IdempotencyKey, (caller, key), populate_existing=True)
    return found if found is not None and found.created_at > now - REMEMBERED else None


def remember(session: Session, caller: str, key: str, *, body_hash: str, request_id: str, now: datetime) -> None:
    replaced = ("body_hash", "request_id", "created_at")
    upsert(session, IdempotencyKey, ("caller", "key"), replaced=replaced).change(
        session,
        {"caller": caller, "key": key, "body_hash": body_hash, "request_id": request_id, "created_at": now},
    )
