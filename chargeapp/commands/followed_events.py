"""Following all requests' events as they are committed: one short look at the newest keys, again and again."""

import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Row

from chargeapp.commands.printing import printable, short_time, stop_output
from chargeapp.storage import timeline
from chargeapp.storage.database import Database

EVENTS_A_LOOK = 500


class Tail:
    """What is wanted is picked here and not by the database, which then reads nothing but the newest events."""

    def __init__(self, database: Database, *, station: str | None, state: str | None) -> None:
        self._database = database
        self._station = station
        self._state = state
        self._after = 0

    def begin(self, events_before: int) -> None:
        with self._database.reading() as session:
            self._after = max(0, timeline.newest(session) - events_before)

    def look(self) -> Iterator[Row[Any]]:
        """The wanted among the events since the last look."""
        while True:
            with self._database.reading() as session:
                # After a purge of everything, numbers begin anew.
                self._after = min(self._after, timeline.newest(session))
                page = timeline.following(session, self._after, EVENTS_A_LOOK)
            if not page:
                return
            self._after = page[-1].id
            yield from filter(self._wanted, page)

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
