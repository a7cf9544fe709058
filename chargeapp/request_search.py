"""The list of requests, narrowed down: newest first, at the same price however many requests are stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Decision, oldest_request_id
from chargeapp.storage.models import RARE_DECISION, SessionRequest

ON_A_PAGE = 50
# What no index answers is looked for in so many requests at a time.
LOOKED_THROUGH = 2_000
RARE = (Decision.UNKNOWN, Decision.INVALID)
ID = SessionRequest.id


@dataclass(frozen=True)
class Driver:
    """A masked token, and the beginning of its keyed hash where one token alone is meant."""

    masked: str
    fingerprint: str | None = None

    def __str__(self) -> str:
        return f"{self.masked}~{self.fingerprint}" if self.fingerprint else self.masked


@dataclass(frozen=True)
class Search:
    """`request` is the beginning of an id; `until` is not in the period any more."""

    caller: str | None = None
    request: str | None = None
    station: str | None = None
    driver: Driver | None = None
    state: str | None = None
    decision: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Found:
    """Whatever is `older` than that id is still to come; `cut_short` if it took too long to fill the page."""

    requests: list[SessionRequest]
    older: str | None
    cut_short: bool = False


def find_requests(
    session: Session,
    search: Search,
    before: str | None = None,
    limit: int = ON_A_PAGE,
    looked_through: int = LOOKED_THROUGH,
) -> Found:
    """One page; `before` is `older` of the page before."""
    indexed, others = _conditions(search)
    first, beyond = _range_of_ids(search, before)
    floor = _floor(session, [*indexed, *_between(first, beyond)], looked_through) if others else None
    # One lower bound only: given two, SQLite may begin its walk at the lower one.
    wanted = [*indexed, *_between(floor or first, beyond), *others]
    rows = list(session.scalars(select(SessionRequest).where(*wanted).order_by(ID.desc()).limit(limit + 1)))
    if len(rows) > limit:
        return Found(rows[:limit], rows[limit - 1].id)
    return Found(rows, floor, cut_short=floor is not None)


def _floor(session: Session, indexed: list[Any], looked_through: int) -> str | None:
    """The id down to which this look goes; None if it reaches the end. Reads nothing but one index."""
    return session.scalar(select(ID).where(*indexed).order_by(ID.desc()).offset(looked_through - 1).limit(1))


def _conditions(search: Search) -> tuple[list[Any], list[Any]]:
    """The condition that an index answers, and the others, which are looked at row by row."""
    given: list[tuple[Any, str, list[Any]]] = []
    if search.driver:
        given.append((SessionRequest.token_masked, search.driver.masked, []))
    if search.station:
        given.append((SessionRequest.station_id, search.station, []))
    if search.decision in RARE:
        # SQLite uses a partial index only for a statement that repeats its condition.
        given.append((SessionRequest.decision, str(search.decision), [text(RARE_DECISION)]))
    if search.caller is not None:
        given.append((SessionRequest.caller, search.caller, []))
    if search.state:
        given.append((SessionRequest.state, search.state, []))
    indexed: list[Any] = []
    if given and not search.request:
        column, value, more = given.pop(0)
        indexed = [column == value, *more]
    others: list[Any] = [_without_index(column) == value for column, value, _ in given]
    if search.decision and search.decision not in RARE:
        others.append(_without_index(SessionRequest.decision) == search.decision)
    if search.driver and search.driver.fingerprint:
        start = func.substr(SessionRequest.token_hash, 1, len(search.driver.fingerprint))
        others.append(start == search.driver.fingerprint)
    return indexed, others


def _without_index(column: Any) -> ColumnElement[str]:
    """Two conditions with an index each would leave the choice to the database, which knows no figures to choose by."""
    return func.coalesce(column, "")


def _range_of_ids(search: Search, before: str | None) -> tuple[str | None, str | None]:
    """Ids begin with the time of acceptance, so the time needs no index of its own."""
    # Ids are of hexadecimal digits, so this comes after all that begin alike.
    after = f"{search.request}g" if search.request else None
    since = oldest_request_id(search.since) if search.since else None
    until = oldest_request_id(search.until) if search.until else None
    first = max(filter(None, (search.request, since)), default=None)
    beyond = min(filter(None, (after, until, before)), default=None)
    return first, beyond


def _between(first: str | None, beyond: str | None) -> list[ColumnElement[bool]]:
    return [*([first <= ID] if first else []), *([beyond > ID] if beyond else [])]
