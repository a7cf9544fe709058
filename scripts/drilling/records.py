"""What load generator, receiver and database noted about each request, read into one place."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from chargeapp.pipeline import STAGES
from chargeapp.storage.models import EventRecord, OutboxRow, SessionRequest
from drilling.stores import Store

EVENTS = select(
    EventRecord.id, EventRecord.request_id, EventRecord.type, EventRecord.at, EventRecord.details, EventRecord.terminal
).order_by(EventRecord.id)


@dataclass(frozen=True)
class Post:
    """One answer to one POST; `outcome` is a status, `reset` (perhaps accepted) or `refused` (certainly not)."""

    number: int
    key: str | None
    token: str
    outcome: str
    request_id: str = ""
    replayed: bool = False


@dataclass(frozen=True)
class Arrival:
    """One callback as the receiver saw it; `number` is the load's, from the path; `at` in epoch seconds."""

    at: float
    number: int
    request_id: str
    body: str
    timestamp: str
    signature: str
    answer: str = "204"
    host: str = ""
    served: int = 1


@dataclass(frozen=True)
class Request:
    """One row of the requests' table."""

    request_id: str
    number: int
    state: str
    decision: str | None
    ended: bool
    callback_attempts: int


@dataclass(frozen=True)
class Event:
    """One row of the events' table; `at` in epoch seconds."""

    request_id: str
    type: str
    at: float
    details: dict[str, Any] = field(default_factory=dict)
    terminal: bool = False


@dataclass
class Records:
    posts: list[Post]
    arrivals: list[Arrival]
    requests: list[Request]
    events: list[Event]
    canary_connections: int = 0
    open_rows: int = 0
    dead_rows: int = 0
    integrity: str | None = "ok"


def read_records(load_log: Path, receiver_log: Path, store: Store) -> Records:
    """After everything has stopped."""
    arrivals, canary = read_arrivals(_lines(receiver_log))
    with store.database.reading() as session:
        return Records(
            posts=read_posts(_lines(load_log)),
            arrivals=arrivals,
            canary_connections=canary,
            requests=[
                Request(id_, number_in(url), state, decision, ended_at is not None, attempts)
                for id_, url, state, decision, ended_at, attempts in session.execute(
                    select(
                        SessionRequest.id,
                        SessionRequest.callback_url,
                        SessionRequest.state,
                        SessionRequest.decision,
                        SessionRequest.ended_at,
                        SessionRequest.callback_attempts,
                    )
                )
            ],
            events=[
                Event(each.request_id, each.type, each.at.timestamp(), each.details, each.terminal)
                for each in session.execute(EVENTS)
            ],
            open_rows=sum(count_rows(session, stage.outbox, still_open(stage.outbox)) for stage in STAGES),
            dead_rows=sum(count_rows(session, stage.outbox, buried(stage.outbox)) for stage in STAGES),
            integrity=store.integrity(),
        )


def read_posts(lines: Iterable[str]) -> list[Post]:
    notes = map(json.loads, lines)
    return [
        Post(each["number"], each["key"], each["token"], each["outcome"], each["request_id"], each["replayed"])
        for each in notes
    ]


def read_arrivals(lines: Iterable[str]) -> tuple[list[Arrival], int]:
    """The callbacks, and how often the canary was reached."""
    notes = [json.loads(line) for line in lines]
    arrivals = [
        Arrival(
            at=each["at"],
            number=number_in(each["path"]),
            request_id=each["id"],
            body=each["body"],
            timestamp=each["timestamp"],
            signature=each["signature"],
            answer=each["answer"],
            host=each["host"],
            served=each["served"],
        )
        for each in notes
        if each["answer"] != "canary"
    ]
    return arrivals, len(notes) - len(arrivals)


def number_in(url: str) -> int:
    """The load's number, with which every callback address of the drill ends; -1 where there is none."""
    found = re.search(r"/callback/(\d+)$", url)
    return int(found[1]) if found else -1


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def count_rows(session: Session, table: type[OutboxRow] | type[SessionRequest], condition: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(condition)) or 0


def still_open(outbox: type[OutboxRow]) -> ColumnElement[bool]:
    return outbox.settled_at.is_(None) & outbox.dead_at.is_(None)


def buried(outbox: type[OutboxRow]) -> ColumnElement[bool]:
    return outbox.settled_at.is_(None) & outbox.dead_at.is_not(None)
