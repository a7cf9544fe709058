"""Queue `authorization`: asks who may charge, records the decision and the command to tell the caller."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from chargeapp import failpoints
from chargeapp.clock import utcnow
from chargeapp.domain.authorization import Answer, Inquiry
from chargeapp.domain.charging_session import Decision, Reason
from chargeapp.pipeline import AUTHORIZATION, CALLBACKS
from chargeapp.runtime import Runtime
from chargeapp.services.authorization_decisions import Answered, Question, record_decisions, take_questions
from chargeapp.storage.outbox import Ticket


class Authorization:
    stage = AUTHORIZATION
    next_stage = CALLBACKS
    gather_seconds = 0.0

    def __init__(self, runtime: Runtime) -> None:
        self._vault = runtime.vault
        self._authorizer = runtime.authorizer

    def take(self, session: Session, tickets: Collection[Ticket], now: datetime) -> Sequence[Question]:
        return take_questions(session, tickets, now)

    def ticket(self, task: Question) -> Ticket:
        return task.ticket

    def result_ticket(self, result: Answered) -> Ticket:
        return result.question.ticket

    def destination(self, task: Question) -> str:
        return ""

    def perform(self, task: Question) -> Answered:
        now = utcnow()
        if now >= task.decide_by:
            late = Answer(Decision.UNKNOWN, Reason.AUTHORIZATION_TIMEOUT, source="deadline", tries=0)
            return Answered(task, late)
        token = self._vault.open(task.token_sealed)
        inquiry = Inquiry(task.station_id, token, task.token_hash, task.decide_by)
        failpoints.reach("authorization.before_call")
        answer = self._authorizer.authorize(inquiry, now)
        failpoints.reach("authorization.after_call")
        return Answered(task, answer)

    def record(self, session: Session, results: Sequence[Answered], now: datetime) -> None:
        record_decisions(session, results, now)
