"""Sending many callbacks again, with a bar that shows how far it is."""

from collections import Counter
from collections.abc import Iterator, Sequence

from chargeapp.bulk_redelivery import Counts, go_through
from chargeapp.commands.printing import progress
from chargeapp.domain.charging_session import State
from chargeapp.request_search import Search, find_requests
from chargeapp.runtime import Runtime


def redeliver_named(runtime: Runtime, request_ids: Sequence[str], *, dry_run: bool) -> Counts:
    steps = go_through(runtime, request_ids, undelivered_only=False, dry_run=dry_run)
    return _shown(steps, len(request_ids))


def redeliver_matching(runtime: Runtime, search: Search, *, dry_run: bool) -> Counts:
    """From the newest to the oldest."""
    ids = _matching(runtime, search)
    return _shown(go_through(runtime, ids, undelivered_only=search.state != State.DELIVERED, dry_run=dry_run), None)


def _shown(steps: Iterator[tuple[list[str], Counts]], total: int | None) -> Counts:
    counts: Counts = Counter()
    with progress("Sending again", total) as advance:
        for ids, found in steps:
            counts += found
            advance(len(ids))
    return counts


def _matching(runtime: Runtime, search: Search) -> Iterator[str]:
    before: str | None = None
    while True:
        with runtime.database.reading() as session:
            found = find_requests(session, search, before)
        yield from (each.id for each in found.requests)
        before = found.older
        if before is None:
            return
