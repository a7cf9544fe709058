"""Queue `delivery-events`: writes each event, then ends the request or starts another round of callbacks."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import event
from sqlalchemy.orm import Session

from chargeapp.pipeline import DELIVERY_EVENTS
from chargeapp.runtime import Runtime
from chargeapp.services.delivery_events import record_delivery_events
from chargeapp.storage.outbox import OwnRow, Ticket


class DeliveryEvents:
    """Nothing to call, so everything is done by `take`, and no task is left."""

    stage = DELIVERY_EVENTS
    next_stage = None
    # The caller has been told already: nobody waits for this stage, so its rows may share transactions.
    gather_seconds = 0.1

    def __init__(self, runtime: Runtime) -> None:
        self._policy = runtime.retry_policy
        self._tracing = runtime.tracing

    def take(self, session: Session, rows: Collection[OwnRow], now: datetime) -> Sequence[Ticket]:
        states = record_delivery_events(session, rows, self._policy, now)

        def tell(_: Session) -> None:
            for request_id, state in states.items():
                self._tracing.happened("delivery", request_id, now, state=state or "another round")

        if self._tracing.enabled:
            event.listen(session, "after_commit", tell, once=True)
        return ()

    def ticket(self, task: Ticket) -> Ticket:
        return task

    def result_ticket(self, result: Ticket) -> Ticket:
        return result

    def request_id(self, task: Ticket) -> str:
        return ""

    def destination(self, task: Ticket) -> str:
        return ""

    def perform(self, task: Ticket) -> Ticket:
        return task

    def record(self, session: Session, results: Sequence[Ticket], now: datetime) -> None:
        return None
