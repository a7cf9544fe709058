"""The one place that reads the time; everything below takes `now` as an argument."""

import time
from datetime import UTC, datetime


def utcnow() -> datetime:
    return datetime.now(UTC)


def epoch_millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def millis_since(started: float) -> int:
    """`started` is of the monotonic clock."""
    return round((time.monotonic() - started) * 1000)
