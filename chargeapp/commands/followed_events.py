"""Following all requests' events as they are committed: one short look at the newest keys, again and again."""

import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Row

from chargeapp.commands.printing import printable, short_time, stop_output
from chargeapp.storage import timeline
from chargeapp.storage.database import Database

EVENTS_A_LOOK = 500
# No transaction is open for longer.
LATE_SECONDS = 30.0


class Tail:
    """What is wanted is picked here and not by the database, which then reads nothing but the newest events."""

    def __init__(self, database: Database, *, station: str | None, state: str | None) -> None:
        self._database = database
        self._station = station
        self._state = state
        self._after = 0
        # On PostgreSQL an event has its number before it is committed, so one may come after those behind it.
        self._missing: dict[int, float] = {}

    def begin(self, events_before: int) -> None:
        with self._database.reading() as session:
            after = max(0, timeline.newest(session) - events_before)
            self._after = max(0, after - EVENTS_A_LOOK)
            page = timeline.following(session, self._after, EVENTS_A_LOOK)
        self._pass([each for each in page if each.id <= after])
        self._after = after

    def look(self) -> Iterator[Row[Any]]:
        """The wanted among the events since the last look."""
        while True:
            with self._database.reading() as session:
                # After a purge of everything, numbers begin anew.
                if (newest := timeline.newest(session)) < self._after:
                    self._after, self._missing = newest, {}
                page = timeline.following(session, self._after, EVENTS_A_LOOK)
                late = timeline.numbered(session, list(self._missing)) if self._missing else []
            self._pass(page)
            for each in late:
                self._missing.pop(each.id, None)
            yield from filter(self._wanted, [*late, *page])
            if not page:
                return

    def _pass(self, page: Sequence[Row[Any]]) -> None:
        """Notes which numbers are not there yet; those of events that were removed are forgotten after a while."""
        now = time.monotonic()
        self._missing = {number: until for number, until in self._missing.items() if until > now}
        for each in page:
            begin = max(self._after + 1, each.id - EVENTS_A_LOOK)
            self._missing |= dict.fromkeys(range(begin, each.id), now + LATE_SECONDS)
            self._after = each.id

    def _wanted(self, each: Row[Any]) -> bool:
        return self._station in (None, each.station_id) and self._state in (None, each.state)


def follow(tail: Tail, interval_seconds: float, show: Callable[[Row[Any]], None]) -> None:
    """Until SIGINT, SIGTERM, or nobody reads what is shown any more."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)
    try:
        while True:
            for each in tail.look():
                show(each)
            sys.stdout.flush()
            if reader.poll(interval_seconds * 1000):
                return
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        stop_output()


def described(each: Row[Any]) -> dict[str, Any]:
    return {
        "requestId": each.request_id,
        "stationId": each.station_id,
        "driverToken": each.token_masked,
        "state": each.state,
        "type": each.type,
        "at": each.at.isoformat(),
        **each.details,
    }


def as_line(each: Row[Any]) -> str:
    details = "  ".join(f"{name}={printable(value)}" for name, value in each.details.items() if value is not None)
    return f"{short_time(each.at)}  {each.request_id}  {each.station_id}  {each.type:<25}  {details}".rstrip()
