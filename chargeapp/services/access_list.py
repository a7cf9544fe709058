"""Keeping the built-in access list."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from chargeapp.storage.dialects import upsert
from chargeapp.storage.models import AccessListEntry

ANY = "*"


@dataclass(frozen=True)
class Entry:
    """`token_hash` and `station_id` may be `*`."""

    token_hash: str
    token_masked: str
    station_id: str
    blocked: bool = False
    valid_from: datetime | None = None
    valid_until: datetime | None = None


def put_entries(session: Session, entries: Sequence[Entry], now: datetime) -> None:
    """An entry for the same driver and station replaces the one before."""
    changed = ("token_masked", "blocked", "valid_from", "valid_until")
    upsert(session, AccessListEntry, ("token_hash", "station_id"), replaced=changed).change_each(
        session,
        [
            {
                "token_hash": entry.token_hash,
                "token_masked": entry.token_masked,
                "station_id": entry.station_id,
                "blocked": entry.blocked,
                "valid_from": entry.valid_from,
                "valid_until": entry.valid_until,
                "created_at": now,
            }
            for entry in entries
        ],
    )


def remove_entry(session: Session, token_hash: str, station_id: str) -> bool:
    """False if there was none."""
    removed = session.execute(
        delete(AccessListEntry)
        .where(AccessListEntry.token_hash == token_hash, AccessListEntry.station_id == station_id)
        .returning(AccessListEntry.station_id)
    ).first()
    return removed is not None


def find_entry(session: Session, token_hash: str, station_id: str) -> AccessListEntry | None:
    return session.get(AccessListEntry, (token_hash, station_id))


def list_entries(
    session: Session, limit: int, after: tuple[str, str] | None = None, token_hash: str | None = None
) -> list[AccessListEntry]:
    """In the order of hash and station; `after` is those of the last one before. All drivers, or one."""
    statement = select(AccessListEntry).order_by(AccessListEntry.token_hash, AccessListEntry.station_id).limit(limit)
    if token_hash is not None:
        statement = statement.where(AccessListEntry.token_hash == token_hash)
    if after:
        statement = statement.where(tuple_(AccessListEntry.token_hash, AccessListEntry.station_id) > after)
    return list(session.scalars(statement))


def count_entries(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(AccessListEntry)) or 0
