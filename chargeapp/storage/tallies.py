"""Counts by the minute, written in the transaction of the fact they count: true over processes and restarts."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.orm import Session

from chargeapp.storage.dialects import upsert
from chargeapp.storage.models import Tally

# Upper bounds in milliseconds of the duration histograms; the last bucket has none.
DURATION_BOUNDS = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)


class Counter:
    """Collects what one transaction has to add."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}

    def count(self, name: str, times: int = 1, millis: int = 0) -> None:
        count, total = self._counts.get(name, (0, 0))
        self._counts[name] = (count + times, total + millis)

    def time(self, name: str, millis: int) -> None:
        self.count(name, millis=millis)
        self.count(bucket(name, millis))

    def write(self, session: Session, now: datetime) -> None:
        minute = now.replace(second=0, microsecond=0)
        rows = [
            # In one order for all, so that two writers never wait for each other in a circle.
            {"name": name, "minute": minute, "count": count, "millis": millis}
            for name, (count, millis) in sorted(self._counts.items())
            if count
        ]
        upsert(session, Tally, ("name", "minute"), added=("count", "millis")).change_each(session, rows)


def bucket(name: str, millis: int) -> str:
    """The histogram bucket that a duration falls into."""
    bound = next((str(bound) for bound in DURATION_BOUNDS if millis <= bound), "inf")
    return f"{name}_le_{bound}"


def percentile(counts: Mapping[str, int], name: str, share: float) -> float | None:
    """The bound of the bucket that holds it: infinite for the last bucket, None if nothing was timed."""
    buckets = [(float(bound), counts.get(f"{name}_le_{bound}", 0)) for bound in (*DURATION_BOUNDS, "inf")]
    wanted = share * sum(count for _, count in buckets)
    seen = 0
    for bound, count in buckets:
        seen += count
        if count and seen >= wanted:
            return bound
    return None
