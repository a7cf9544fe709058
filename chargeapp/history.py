"""The last hour and the last day, bar by bar: from the tallies, so the price does not grow with the requests."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.storage import tallies
from chargeapp.storage.models import Tally


@dataclass(frozen=True)
class Span:
    """So many bars of so many minutes; the last one has begun and is not over."""

    name: str
    bars: int
    minutes: int

    @property
    def bar(self) -> timedelta:
        return timedelta(minutes=self.minutes)

    def first_bar(self, now: datetime) -> datetime:
        current = now.replace(minute=now.minute - now.minute % self.minutes, second=0, microsecond=0)
        return current - (self.bars - 1) * self.bar


HOUR = Span("last hour", bars=60, minutes=1)
# Older minutes are summed up to quarters of an hour: see services/retention.py.
DAY = Span("last day", bars=96, minutes=15)


@dataclass(frozen=True)
class Interval:
    """What was counted in it, by the names of the tallies."""

    begins_at: datetime
    counts: Mapping[str, int]

    def count(self, name: str) -> int:
        return self.counts.get(name, 0)

    def percentile(self, call: str, share: float) -> float | None:
        """A bound in milliseconds that this share of the calls stayed below; None if there was no call."""
        return tallies.percentile(self.counts, call, share)


@dataclass(frozen=True)
class History:
    hour: list[Interval]
    day: list[Interval]


def history(session: Session, now: datetime) -> History:
    minutes: defaultdict[datetime, dict[str, int]] = defaultdict(dict)
    counted = select(Tally.name, Tally.minute, Tally.count).where(Tally.minute >= DAY.first_bar(now))
    for name, minute, times in session.execute(counted):
        minutes[minute][name] = times
    return History(_intervals(minutes, HOUR, now), _intervals(minutes, DAY, now))


def together(intervals: Iterable[Interval]) -> Interval:
    """Several that follow each other, as one."""
    given = list(intervals)
    sums: Counter[str] = Counter()
    for each in given:
        sums.update(each.counts)
    return Interval(given[0].begins_at, sums)


def _intervals(minutes: Mapping[datetime, Mapping[str, int]], span: Span, now: datetime) -> list[Interval]:
    first = span.first_bar(now)
    found: list[Counter[str]] = [Counter() for _ in range(span.bars)]
    for minute, counts in minutes.items():
        # A clock that was ahead may have counted in minutes to come.
        if 0 <= (bar := (minute - first) // span.bar) < span.bars:
            found[bar].update(counts)
    return [Interval(first + number * span.bar, counts) for number, counts in enumerate(found)]
