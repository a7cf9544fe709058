"""Sending many callbacks again, whoever asks for it: in small transactions, so that others write in between."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from chargeapp.clock import utcnow
from chargeapp.pipeline import CALLBACKS
from chargeapp.runtime import Runtime
from chargeapp.services.redeliveries import Obstacle, obstacles, redeliver_all

REQUESTS_PER_TRANSACTION = 100
Counts = Counter[Obstacle | None]


def go_through(
    runtime: Runtime, request_ids: Iterable[str], *, undelivered_only: bool, dry_run: bool = False
) -> Iterator[tuple[list[str], Counts]]:
    """A step is some of the ids and what came of them, None for what was sent; a dry run counts the same."""
    waiting = iter(request_ids)
    while ids := list(islice(waiting, REQUESTS_PER_TRANSACTION)):
        if dry_run:
            with runtime.database.reading() as session:
                found = obstacles(session, ids, undelivered_only=undelivered_only)
        else:
            ttl_seconds = runtime.settings.request_ttl_seconds
            with runtime.database.writing() as session:
                found = redeliver_all(session, ids, ttl_seconds, utcnow(), undelivered_only=undelivered_only)
            runtime.wakeups.ring(CALLBACKS.queue)
        yield ids, Counter(found.values())
