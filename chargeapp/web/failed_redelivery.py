"""Sending failed callbacks again from a browser: no more of them than a dry run counts quickly."""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from chargeapp.bulk_redelivery import Counts, go_through
from chargeapp.errors import TemporaryFailure
from chargeapp.logs import get_logger
from chargeapp.runtime import Runtime
from chargeapp.services.failed_requests import Look, Wanted, ids_in, look
from chargeapp.services.redeliveries import Obstacle, count_obstacles
from chargeapp.storage.models import SessionRequest

log = get_logger()

MOST_AT_ONCE = 500
SECONDS_AT_ONCE = 10.0


@dataclass
class Count:
    """`before` is where to go on; None if everything was gone through."""

    before: str | None
    sent: int = 0
    under_way: int = 0
    delivered: int = 0
    erased: int = 0
    missing: int = 0

    def add(self, counts: Counts) -> None:
        self.sent += counts[None]
        self.under_way += counts[Obstacle.UNDER_WAY]
        self.delivered += counts[Obstacle.DELIVERED]
        self.erased += counts[Obstacle.ERASED]
        self.missing += counts[Obstacle.MISSING]


def wanted(asked: dict[str, Any]) -> Wanted:
    return Wanted(asked["reason"], asked["station"], asked["since"], asked["until"])


def count_failed(runtime: Runtime, asked: dict[str, Any]) -> Count:
    """What `send_failed` would do now."""
    with runtime.database.reading() as session:
        seen = _look(session, asked)
        count = Count(seen.before)
        count.add(count_obstacles(session, seen.where, undelivered_only=True))
    return count


def send_failed(runtime: Runtime, asked: dict[str, Any]) -> Count:
    """Raises TemporaryFailure only if nothing was done: what was sent before it is counted, and can be gone on from."""
    with runtime.database.reading() as session:
        seen = _look(session, asked)
        waiting = ids_in(session, seen)
    count, done = Count(seen.before), 0
    ends_at = time.monotonic() + SECONDS_AT_ONCE
    try:
        for ids, counts in go_through(runtime, waiting, undelivered_only=True):
            count.add(counts)
            done += len(ids)
            if time.monotonic() >= ends_at:
                break
    except TemporaryFailure as error:
        if not done:
            raise
        log.warning("Bulk redelivery ended early", action="bulk_redelivery_ended_early", error=str(error))
    if done < len(waiting):
        count.before = waiting[done - 1]
    return count


def _look(session: Session, asked: dict[str, Any]) -> Look:
    if asked["which"] == "selected":
        return Look([SessionRequest.id.in_(asked["id"])], None)
    return look(session, wanted(asked), asked["before"], MOST_AT_ONCE)
