"""The last hour and the last day, as they were counted."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.builders import ALLOWED, DELIVERED, FAILED, accept, attempt, change, decide, new_database, seconds

from chargeapp.history import DAY, HOUR, History, Interval, history
from chargeapp.services.retention import sum_up_old_minutes
from chargeapp.storage import tallies
from chargeapp.storage.database import Database

NOW = datetime(2026, 1, 2, 12, 7, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with new_database(tmp_path) as database:
        yield database


def recent(database: Database, now: datetime = NOW) -> History:
    with database.reading() as session:
        return history(session, now)


def count(database: Database, at: datetime, times: int = 1) -> None:
    counter = tallies.Counter()
    counter.count("requests", times)
    change(database, lambda session: counter.write(session, at))


def counted(intervals: list[Interval], name: str = "requests") -> dict[str, int]:
    return {f"{each.begins_at:%d %H:%M}": each.count(name) for each in intervals if each.count(name)}


def test_without_requests_there_are_as_many_empty_bars(database: Database) -> None:
    found = recent(database)

    assert (len(found.hour), len(found.day)) == (HOUR.bars, DAY.bars) == (60, 96)
    assert counted(found.hour) == counted(found.day) == {}
    assert (found.hour[0].begins_at, found.hour[-1].begins_at) == (
        datetime(2026, 1, 2, 11, 8, tzinfo=UTC),
        datetime(2026, 1, 2, 12, 7, tzinfo=UTC),
    )
    assert (found.day[0].begins_at, found.day[-1].begins_at) == (
        datetime(2026, 1, 1, 12, 15, tzinfo=UTC),
        datetime(2026, 1, 2, 12, 0, tzinfo=UTC),
    )


def test_what_was_done_is_in_the_bar_of_its_minute(database: Database) -> None:
    accept(database, 2, now=NOW)
    decide(database, ALLOWED, NOW)
    attempt(database, FAILED, NOW)
    attempt(database, DELIVERED, NOW + seconds(2))

    last = recent(database).hour[-1]

    assert (last.count("requests"), last.count("decisions_allowed")) == (2, 2)
    assert (last.count("callbacks_failed"), last.count("callbacks_succeeded")) == (2, 2)
    assert last.percentile("authorization", 0.95) == 10


def test_bars_begin_and_end_where_they_say(database: Database) -> None:
    for minutes in (0, 1, 59, 60, 1432, 1433, 3000):
        count(database, NOW - minutes * MINUTE)
    count(database, NOW + 15 * MINUTE, times=100)

    found = recent(database)

    assert counted(found.hour) == {"02 12:07": 1, "02 12:06": 1, "02 11:08": 1}
    assert counted(found.day) == {"02 12:00": 2, "02 11:00": 2, "01 12:15": 1}


def test_summing_up_changes_no_bar(database: Database) -> None:
    for minutes in range(0, 1600, 7):
        count(database, NOW - minutes * MINUTE, times=minutes + 1)
    before = recent(database)

    while change(database, lambda session: sum_up_old_minutes(session, NOW)):
        pass

    after = recent(database)
    assert counted(after.hour) == counted(before.hour)
    assert counted(after.day) == counted(before.day)
    assert len(counted(after.day)) == DAY.bars
