"""Queue `authorization`: asks who may charge, records the decision and the command to tell the caller."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from chargeapp import failpoints
from chargeapp.clock import utcnow, wall_clock
from chargeapp.domain.authorization import Answer, Inquiry
from chargeapp.domain.charging_session import Decision, Reason
from chargeapp.pipeline import AUTHORIZATION, CALLBACKS
from chargeapp.relay import DECISION_GRACE
from chargeapp.runtime import Runtime
from chargeapp.services.authorization_decisions import (
    UNANSWERED,
    Answered,
    Question,
    record_decisions,
    take_questions,
)
from chargeapp.storage.outbox import OwnRow, Ticket

TOO_LATE = Answer(Decision.UNKNOWN, Reason.AUTHORIZATION_TIMEOUT, source="deadline", tries=0)


class Authorization:
    stage = AUTHORIZATION
    next_stage = CALLBACKS
    gather_seconds = 0.0

    def __init__(self, runtime: Runtime) -> None:
        self._vault = runtime.vault
        self._authorizer = runtime.authorizer
        self._tracing = runtime.tracing

    def take(self, session: Session, rows: Collection[OwnRow], now: datetime) -> Sequence[Question]:
        return take_questions(session, rows, now)

    def ticket(self, task: Question) -> Ticket:
        return task.ticket

    def result_ticket(self, result: Answered) -> Ticket:
        return result.question.ticket

    def request_id(self, task: Question) -> str:
        return task.request_id

    def destination(self, task: Question) -> str:
        return ""

    def perform(self, task: Question) -> Answered:
        with self._tracing.step("authorization", task.request_id) as step:
            answered = self._ask(task)
            answer = answered.answer
            step.note(decision=answer.decision, source=answer.source, tries=answer.tries)
            if answer.reason in UNANSWERED:
                step.fail(answer.reason)
            return answered

    def _ask(self, task: Question) -> Answered:
        failpoints.reach("authorization.before_call")
        now = utcnow()
        if now >= task.decide_by:
            return Answered(task, TOO_LATE)
        # Who may charge from when to when is said in the time of calendars.
        today = wall_clock()
        token, decide_by = self._vault.open(task.token_sealed), today + (task.decide_by - now)
        answer = self._authorizer.authorize(Inquiry(task.station_id, token, task.token_hash, decide_by), today)
        failpoints.reach("authorization.after_call")
        # A driver is told by the deadline or told `unknown`, even if this process was stopped meanwhile.
        return Answered(task, answer if utcnow() < task.decide_by + DECISION_GRACE else TOO_LATE)

    def record(self, session: Session, results: Sequence[Answered], now: datetime) -> None:
        record_decisions(session, results, now)
