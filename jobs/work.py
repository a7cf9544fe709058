"""What a stage has to say for itself; `consumer.py` does the rest."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from sqlalchemy.orm import Session

from chargeapp.pipeline import Stage
from chargeapp.storage.outbox import OwnRow, Ticket

Task = TypeVar("Task")
Result = TypeVar("Result")


class Work(Protocol[Task, Result]):
    """`take` and `record` run inside a transaction, `perform` outside of any and in a thread."""

    stage: Stage
    next_stage: Stage | None
    gather_seconds: float
    """How long a row may wait for others to share its transaction."""

    def take(self, session: Session, rows: Collection[OwnRow], now: datetime) -> Sequence[Task]:
        """What is to be done for rows that were just claimed; a row not worth doing is settled here."""

    def ticket(self, task: Task) -> Ticket: ...

    def result_ticket(self, result: Result) -> Ticket: ...

    def request_id(self, task: Task) -> str:
        """For the log."""

    def destination(self, task: Task) -> str:
        """Whoever might be slow; empty if that says nothing."""

    def perform(self, task: Task) -> Result: ...

    def record(self, session: Session, results: Sequence[Result], now: datetime) -> None:
        """Must find out for itself which of the results are still wanted."""
