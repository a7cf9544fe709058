"""What load generator, receiver and database noted about each request, read into one place."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite

OUTBOXES = ("charging_session_request_outbox", "authorization_decision_callback_outbox", "callback_delivery_outbox")


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
    integrity: str = "ok"


def read_records(load_log: Path, receiver_log: Path, database: Path) -> Records:
    """After everything has stopped; the database is only read."""
    arrivals, canary = read_arrivals(_lines(receiver_log))
    connection = sqlite.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return Records(
            posts=read_posts(_lines(load_log)),
            arrivals=arrivals,
            canary_connections=canary,
            requests=[
                Request(row[0], number_in(row[1]), row[2], row[3], row[4] is not None, row[5])
                for row in connection.execute(
                    "SELECT id, callback_url, state, decision, ended_at, callback_attempts"
                    " FROM charging_session_requests"
                )
            ],
            events=[
                Event(row[0], row[1], _epoch(row[2]), json.loads(row[3]), bool(row[4]))
                for row in connection.execute("SELECT request_id, type, at, details, terminal FROM events ORDER BY id")
            ],
            open_rows=_count(connection, "settled_at IS NULL AND dead_at IS NULL"),
            dead_rows=_count(connection, "settled_at IS NULL AND dead_at IS NOT NULL"),
            integrity=str(connection.execute("PRAGMA integrity_check").fetchone()[0]),
        )
    finally:
        connection.close()


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


def _count(connection: Any, condition: str) -> int:
    return sum(
        connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchone()[0]  # noqa: S608 - our words
        for table in OUTBOXES
    )


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
