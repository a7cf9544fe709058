"""Counts by the minute, written in the transaction of the fact they count: true over processes and restarts."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.orm import Session

from chargeapp.storage.dialects import insert
from chargeapp.storage.models import Tally

# Upper bounds in milliseconds of the duration histograms; the last bucket has none.
DURATION_BOUNDS = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)


def add(session: Session, counts: Mapping[str, tuple[int, int]], now: datetime) -> None:
    """Add (count, milliseconds) to each name."""
    minute = now.replace(second=0, microsecond=0)
    rows = [
        {"name": name, "minute": minute, "count": count, "millis": millis}
        for name, (count, millis) in sorted(counts.items())
        if count
    ]
    if rows:
        statement = insert(session, Tally)
        session.execute(
            statement.on_conflict_do_update(
                index_elements=[Tally.name, Tally.minute],
                set_={
                    "count": Tally.count + statement.excluded["count"],
                    "millis": Tally.millis + statement.excluded["millis"],
                },
            ),
            rows,
        )


def bucket(name: str, millis: int) -> str:
    """The histogram bucket that a duration falls into."""
    bound = next((str(bound) for bound in DURATION_BOUNDS if millis <= bound), "inf")
    return f"{name}_le_{bound}"


class Counter:
    """Collects what one transaction has to add."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}

    def count(self, name: str, millis: int = 0) -> None:
        count, total = self._counts.get(name, (0, 0))
        self._counts[name] = (count + 1, total + millis)

    def time(self, name: str, millis: int) -> None:
        self.count(name, millis)
        self.count(bucket(name, millis))

    def write(self, session: Session, now: datetime) -> None:
        add(session, self._counts, now)
