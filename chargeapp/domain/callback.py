"""What can come of telling a caller the decision."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    DELIVERED = "delivered"
    RETRY = "retry"
    FINAL = "final"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Reply:
    """What came of one attempt; `reason` is set for what must not be tried again."""

    outcome: Outcome
    millis: int
    http_status: int | None = None
    error: str | None = None
    reason: str | None = None
    retry_after_seconds: float | None = None
