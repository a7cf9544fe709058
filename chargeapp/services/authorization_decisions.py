"""Recording who may charge: one decision for each request, and the command that tells the caller."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.domain.authorization import Answer
from chargeapp.domain.charging_session import Command, Decision, Event, Reason
from chargeapp.storage import outbox, requests, tallies, timeline
from chargeapp.storage.models import AuthorizationDecisionCallbackOutbox, ChargingSessionRequestOutbox, SessionRequest
from chargeapp.storage.outbox import OwnRow, Ticket

UNANSWERED = (Reason.AUTHORIZATION_ERROR, Reason.AUTHORIZATION_TIMEOUT, Reason.CIRCUIT_OPEN)


@dataclass(frozen=True)
class Question:
    """May this driver charge at this station? To be answered before `decide_by`."""

    ticket: Ticket
    request_id: str
    station_id: str
    token_sealed: bytes
    token_hash: str
    decide_by: datetime


@dataclass(frozen=True)
class Answered:
    question: Question
    answer: Answer


def take_questions(session: Session, rows: Collection[OwnRow], now: datetime) -> list[Question]:
    """Open questions of rows that were just taken; rows whose request is decided already are settled."""
    undecided = requests.begin_authorizing(session, [row.request_id for row in rows]) if rows else {}
    answered = [row.row_id for row in rows if row.request_id not in undecided]
    outbox.settle(session, ChargingSessionRequestOutbox, answered, now)
    return [
        Question(
            row.ticket,
            request.id,
            request.station_id,
            request.token_sealed or b"",
            request.token_hash,
            request.decide_by,
        )
        for row in rows
        if (request := undecided.get(row.request_id))
    ]


def record_decisions(session: Session, answered: Sequence[Answered], now: datetime) -> None:
    """A row that was claimed anew, or decided by the deadline, keeps that result; the late one is only noted."""
    if not answered:
        return
    own = outbox.own_rows(session, ChargingSessionRequestOutbox, [each.question.ticket for each in answered])
    outbox.settle(session, ChargingSessionRequestOutbox, list(own), now)
    answers = {each.question.request_id: each.answer for each in answered if each.question.ticket.row_id in own}
    decided = _decide(session, answers, now)
    late = [
        timeline.Fact(each.question.request_id, Event.LATE_RESULT_DISCARDED, {"decision": each.answer.decision})
        for each in answered
        if each.question.request_id not in decided
    ]
    timeline.append(session, late, now)


def decide_overdue(session: Session, now: datetime, overdue_since: datetime, limit: int = 500) -> int:
    """No silence: whatever nobody answered in time becomes `unknown`."""
    overdue = session.scalars(
        select(SessionRequest.id)
        .where(SessionRequest.decided_at.is_(None), SessionRequest.decide_by <= overdue_since)
        .order_by(SessionRequest.decide_by)
        .limit(limit)
    ).all()
    answer = Answer(Decision.UNKNOWN, Reason.AUTHORIZATION_TIMEOUT, source="deadline", tries=0)
    return len(_decide(session, dict.fromkeys(overdue, answer), now))


def _decide(session: Session, answers: dict[str, Answer], now: datetime) -> set[str]:
    """Decides those requests that are undecided yet; returns their ids."""
    undecided = requests.undecided(session, answers) if answers else {}
    if not undecided:
        return set()
    requests.decide(session, {id_: answers[id_] for id_ in undecided}, now)
    drafts = [
        outbox.Draft(
            id_,
            Command.SEND_AUTHORIZATION_DECISION_CALLBACK,
            {"request_id": id_, "round": 1},
            now,
            destination=request.destination,
        )
        for id_, request in undecided.items()
    ]
    outbox.put(session, AuthorizationDecisionCallbackOutbox, drafts, now)
    timeline.append(session, [_decided(id_, answers[id_]) for id_ in undecided], now)
    counter = tallies.Counter()
    for id_ in undecided:
        answer = answers[id_]
        counter.count(f"decisions_{answer.decision}")
        if answer.tries:
            counter.time("authorization", answer.millis)
        if answer.reason in UNANSWERED:
            counter.count("authorization_errors")
    counter.write(session, now)
    return set(undecided)


def _decided(request_id: str, answer: Answer) -> timeline.Fact:
    return timeline.Fact(
        request_id,
        Event.AUTHORIZATION_DECIDED,
        {
            "decision": answer.decision,
            "reason": answer.reason,
            "source": answer.source,
            "tries": answer.tries,
            "millis": answer.millis,
            **({"failures": list(answer.failures)} if answer.failures else {}),
        },
    )
