"""What the rest of the program needs of whatever carries jobs: the seam between Redis and Kafka."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from chargeapp.errors import TemporaryFailure
from chargeapp.pipeline import Stage
from chargeapp.storage.outbox import Ticket


class BrokerUnavailable(TemporaryFailure):
    """The broker does not answer or does not take more; rows stay where they are."""


class BrokerRefuses(BrokerUnavailable):
    """The broker answers, and does not let us do what we have to; somebody must grant the rights it names."""


@dataclass(frozen=True)
class Jobs:
    """How many one queue has in the broker; None where the broker knows no such thing."""

    waiting: int
    at_work: int | None = None
    scheduled: int | None = None
    failed: int | None = None


class Transport(Protocol):
    """Every method may raise BrokerUnavailable."""

    @property
    def keyed(self) -> bool:
        """Whether `publish` has to be told the station of each row."""

    def room(self, stage: Stage) -> int:
        """How many rows one call of `publish` may carry now; 0 while enough of them wait."""

    def publish(self, stage: Stage, tickets: Sequence[Ticket], job_id: str, stations: Mapping[int, str]) -> None:
        """`stations` by the number of the row."""

    def lost(self, stage: Stage, job_ids: Collection[str]) -> set[str]:
        """Those of `job_ids` that wait for nobody any more."""

    def enqueue_scheduled(self) -> None:
        """Bring back what the broker was to hold until now."""

    def count_jobs(self) -> dict[str, Jobs]:
        """Of each queue."""

    def ping(self) -> None: ...
