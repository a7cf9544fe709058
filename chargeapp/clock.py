"""The one place that reads the time; everything below takes `now` as an argument."""

from datetime import UTC, datetime


def utcnow() -> datetime:
    return datetime.now(UTC)


def epoch_millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
