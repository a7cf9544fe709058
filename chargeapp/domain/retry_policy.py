"""When to try again: within a round by doubling pauses, then in further rounds until the request expires."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

JITTER = 0.1


@dataclass(frozen=True)
class RetryPolicy:
    """`max_retries` further attempts follow the first one of a round, `first_delay_seconds` x 2^n apart."""

    max_retries: int
    first_delay_seconds: float
    rounds_seconds: Sequence[int]

    @property
    def intervals(self) -> list[float]:
        return [self.first_delay_seconds * 2**n for n in range(self.max_retries)]

    def next_attempt_at(
        self, attempts: int, now: datetime, expires_at: datetime, retry_after_seconds: float | None = None
    ) -> datetime | None:
        """None once `attempts` (at least 1) used up the round, or if the request would have expired by then.

        A destination that asks for a longer pause gets it; one longer than the request lives ends the round.
        """
        if attempts > self.max_retries:
            return None
        delay = self.intervals[attempts - 1] * random.uniform(1, 1 + JITTER)
        moment = now + timedelta(seconds=max(delay, retry_after_seconds or 0))
        return moment if moment < expires_at else None

    def next_round_at(
        self, rounds: int, now: datetime, expires_at: datetime, retry_after_seconds: float | None = None
    ) -> datetime | None:
        """When the round after `rounds` (at least 1) begins; the last pause repeats until the request expires."""
        if not self.rounds_seconds:
            return None
        pause = self.rounds_seconds[min(rounds, len(self.rounds_seconds)) - 1]
        moment = now + timedelta(seconds=max(pause, retry_after_seconds or 0))
        return moment if moment < expires_at else None
