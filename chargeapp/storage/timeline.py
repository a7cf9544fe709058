"""Appends facts to requests' timelines."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from chargeapp.storage.models import EventRecord
from chargeapp.storage.prepared import Prepared

INSERT = Prepared(insert(EventRecord))


@dataclass(frozen=True)
class Fact:
    request_id: str
    type: str
    details: dict[str, Any] = field(default_factory=dict)
    terminal: bool = False
    at: datetime | None = None


def append(session: Session, facts: Sequence[Fact], now: datetime) -> None:
    """A second terminal fact of one request is refused by the database."""
    INSERT.change_each(
        session,
        [
            {
                "request_id": fact.request_id,
                "type": fact.type,
                "at": fact.at or now,
                "details": fact.details,
                "terminal": fact.terminal,
            }
            for fact in facts
        ],
    )
