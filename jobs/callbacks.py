"""Queue `callbacks`: tells callers the decision, records each attempt and how the round ended."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from chargeapp import failpoints
from chargeapp.clock import utcnow, wall_clock
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.pipeline import CALLBACKS, DELIVERY_EVENTS
from chargeapp.runtime import Runtime
from chargeapp.services.callback_deliveries import Attempt, Callback, record_attempts, take_callbacks
from chargeapp.storage.outbox import OwnRow, Ticket


class Callbacks:
    stage = CALLBACKS
    next_stage = DELIVERY_EVENTS
    gather_seconds = 0.0

    def __init__(self, runtime: Runtime) -> None:
        self._vault = runtime.vault
        self._endpoint = runtime.callback_endpoint
        self._policy = runtime.retry_policy
        self._tracing = runtime.tracing

    def take(self, session: Session, rows: Collection[OwnRow], now: datetime) -> Sequence[Callback]:
        return take_callbacks(session, rows, now)

    def ticket(self, task: Callback) -> Ticket:
        return task.ticket

    def result_ticket(self, result: Attempt) -> Ticket:
        return result.callback.ticket

    def request_id(self, task: Callback) -> str:
        return task.request_id

    def destination(self, task: Callback) -> str:
        return task.destination

    def perform(self, task: Callback) -> Attempt:
        with self._tracing.step("callback", task.request_id) as step:
            attempt = self._send(task)
            reply = attempt.reply
            step.note(outcome=reply.outcome, http_status=reply.http_status, round=task.round)
            if reply.outcome is not Outcome.DELIVERED:
                step.fail(reply.error)
            return attempt

    def _send(self, task: Callback) -> Attempt:
        now = utcnow()
        if now >= task.expires_at:
            return Attempt(task, Reply(Outcome.EXPIRED, millis=0), now)
        token = self._vault.open(task.token_sealed)
        failpoints.reach("callback.before_send")
        reply = self._endpoint.send(task.url, task.caller, task.request_id, task.body(token), wall_clock())
        failpoints.reach("callback.answered")
        return Attempt(task, reply, now)

    def record(self, session: Session, results: Sequence[Attempt], now: datetime) -> None:
        record_attempts(session, results, self._policy, now)
