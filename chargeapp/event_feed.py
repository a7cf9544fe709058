"""Tells other services how deliveries went: publishes delivery events in their order, each at least once.

Only what is committed is seen. On PostgreSQL an event has its number before it is committed, so one may appear behind
others with higher numbers: a number that is missing is waited for, longer than any of our transactions should take.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from chargeapp.clock import utcnow
from chargeapp.errors import TemporaryFailure
from chargeapp.storage import event_feed, timeline
from chargeapp.storage.database import Database

EVENTS_A_LOOK = 500
# Ours take a few statements each. Nothing enforces this sum: PostgreSQL limits statements, locks and pauses, each by
# itself (`storage/postgresql.py`). What is committed later still is not told.
LATE_SECONDS = 30.0
# What follows a missing number for so long shows by itself that nobody brings it any more, also to a relay of cron,
# which remembers nothing.
LONG_AGO = timedelta(minutes=5)

Publish = Callable[[Sequence[Row[Any]]], None]


class EventFeed:
    def __init__(self, database: Database, publish: Publish) -> None:
        self._database = database
        self._publish = publish
        self._passed = 0
        self._missing: dict[int, float] = {}

    def look(self) -> int:
        """Publish what came since the last look; returns how many. Raises BrokerUnavailable."""
        published = 0
        while True:
            stored, page = self._next()
            if not page:
                return published
            last = page[-1].id
            wanted = [each.id for each in page if each.type in event_feed.DELIVERY_EVENTS]
            if wanted and not self._publish_held(stored, last, wanted):
                return published
            published += len(wanted)
            self._passed = last

    def _next(self) -> tuple[int, list[Row[Any]]]:
        """The stored position, and the events behind it up to the first number that somebody may still bring."""
        now = utcnow()
        with self._database.reading() as session:
            stored = event_feed.position(session)
            newest = timeline.newest(session)
            after = max(stored or 0, self._passed)
            page = event_feed.following(session, after, EVENTS_A_LOOK) if stored is not None else []
        if stored is None:
            with self._database.writing() as session:
                event_feed.begin(session)
        elif newest < after:
            # After a purge of everything, numbers begin anew.
            with self._database.writing() as session:
                event_feed.move_on(session, newest)
            self._passed = newest
        return stored or 0, self._up_to_missing(after, page, now)

    def _up_to_missing(self, after: int, page: list[Row[Any]], now: datetime) -> list[Row[Any]]:
        moment = time.monotonic()
        known, missing = self._missing, dict[int, float]()
        until = len(page)
        for place, each in enumerate(page):
            # The whole gap is known by its last number.
            if each.id - after > 1 and each.at > now - LONG_AGO:
                missing[each.id] = known.get(each.id, moment + LATE_SECONDS)
                if missing[each.id] > moment:
                    until = min(until, place)
            after = each.id
        self._missing = missing
        return page[:until]

    def _publish_held(self, stored: int, last: int, wanted: list[int]) -> bool:
        with self._database.writing(durable=False) as session:
            if not event_feed.hold(session, stored, utcnow()):
                return False
        with self._database.reading() as session:
            events = event_feed.described(session, wanted)
        try:
            self._publish(events)
        except TemporaryFailure:
            with self._database.writing(durable=False) as session:
                event_feed.let_go(session)
            raise
        with self._database.writing() as session:
            event_feed.move_on(session, last)
        return True
