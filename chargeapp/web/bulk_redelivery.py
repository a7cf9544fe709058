"""Sending many callbacks again from a browser: small transactions, and no more of them than somebody waits for."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from chargeapp.clock import utcnow
from chargeapp.errors import TemporaryFailure
from chargeapp.logs import get_logger
from chargeapp.runtime import Runtime
from chargeapp.services.failed_requests import Wanted, page_of_failed
from chargeapp.services.redeliveries import Obstacle, obstacles, redeliver_all

log = get_logger()

REQUESTS_PER_TRANSACTION = 100
MOST_AT_ONCE = 10_000
SECONDS_AT_ONCE = 10.0


@dataclass
class Count:
    """`before` is where to go on; None if everything was gone through."""

    sent: int = 0
    under_way: int = 0
    erased: int = 0
    removed: int = 0
    before: str | None = None

    @property
    def total(self) -> int:
        return self.sent + self.under_way + self.erased + self.removed

    def add(self, found: Mapping[str, Obstacle | None]) -> None:
        reasons = list(found.values())
        self.sent += reasons.count(None)
        self.under_way += reasons.count(Obstacle.UNDER_WAY)
        self.erased += reasons.count(Obstacle.ERASED)
        self.removed += reasons.count(Obstacle.REMOVED)


def go_through(runtime: Runtime, wanted: Wanted, before: str | None, *, dry_run: bool) -> Count:
    """From the newest to the oldest. A dry run changes nothing and counts the same.

    Raises TemporaryFailure only if nothing was done: what was sent before it is counted, and can be gone on from.
    """
    count = Count(before=before)
    ends_at = time.monotonic() + SECONDS_AT_ONCE
    transaction = runtime.database.reading if dry_run else runtime.database.writing
    while True:
        try:
            with transaction() as session:
                page = page_of_failed(session, wanted, count.before, REQUESTS_PER_TRANSACTION)
                requests = [each.request for each in page.found]
                if dry_run:
                    found = obstacles(session, requests)
                else:
                    found = redeliver_all(session, requests, runtime.settings.request_ttl_seconds, utcnow())
        except TemporaryFailure as error:
            if count.before == before:
                raise
            log.warning("Bulk redelivery ended early", action="bulk_redelivery_ended_early", error=str(error))
            return count
        count.add(found)
        count.before = page.before
        if page.before is None or count.total >= MOST_AT_ONCE or time.monotonic() >= ends_at:
            return count
