"""Making, listing and revoking API keys. They are never deleted: once there was one, nobody gets in without."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.security.api_keys import Scope, new_key, take_apart
from chargeapp.storage.models import ApiKey


class KeyState(StrEnum):
    USABLE = "usable"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True)
class NewKey:
    """Several keys may belong to one caller. `callback_hosts` in canonical form; none means any."""

    name: str
    caller: str
    scopes: Collection[Scope]
    expires_at: datetime | None = None
    callback_hosts: Collection[str] = ()


def create_key(session: Session, new: NewKey, now: datetime) -> str:
    """The whole key; it cannot be had again."""
    key = new_key()
    parts = take_apart(key)
    assert parts is not None
    session.add(
        ApiKey(
            id=parts.id,
            name=new.name,
            caller=new.caller,
            secret_hash=parts.secret_hash,
            scopes=" ".join(scope for scope in Scope if scope in new.scopes),
            callback_hosts=" ".join(dict.fromkeys(new.callback_hosts)),
            created_at=now,
            expires_at=new.expires_at,
        )
    )
    return key


def list_keys(session: Session) -> list[ApiKey]:
    """The oldest first."""
    return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)))


def revoke_key(session: Session, key_id: str, now: datetime) -> ApiKey | None:
    """The key, which nobody gets in with any more; None if there is none with this id."""
    key = session.get(ApiKey, key_id)
    if key is not None and key.revoked_at is None:
        key.revoked_at = now
    return key


def state_of(key: ApiKey, now: datetime) -> KeyState:
    if key.revoked_at is not None:
        return KeyState.REVOKED
    return KeyState.EXPIRED if key.expires_at is not None and key.expires_at <= now else KeyState.USABLE
