"""Recording who may charge: one decision for each request, and the command that tells the caller."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from chargeapp.domain.authorization import Answer
from chargeapp.domain.charging_session import Command, Decision, Event, Reason, State
from chargeapp.storage import outbox, tallies, timeline
from chargeapp.storage.models import AuthorizationDecisionCallbackOutbox, ChargingSessionRequestOutbox, SessionRequest
from chargeapp.storage.outbox import Ticket


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


def take_questions(session: Session, tickets: Collection[Ticket], now: datetime) -> list[Question]:
    """Open questions of rows that were just taken; rows whose request is decided already are settled."""
    if not tickets:
        return []
    table = ChargingSessionRequestOutbox
    found = session.execute(
        select(
            table.id,
            SessionRequest.id.label("request_id"),
            SessionRequest.station_id,
            SessionRequest.token_sealed,
            SessionRequest.token_hash,
            SessionRequest.decide_by,
        )
        .join(SessionRequest, SessionRequest.id == table.request_id)
        .where(table.id.in_([ticket.row_id for ticket in tickets]), SessionRequest.decided_at.is_(None))
    ).all()
    by_row = {row.id: row for row in found}
    outbox.settle(session, table, [ticket for ticket in tickets if ticket.row_id not in by_row], now)
    session.execute(
        update(SessionRequest)
        .where(SessionRequest.id.in_([row.request_id for row in found]), SessionRequest.state == State.ACCEPTED)
        .values(state=State.AUTHORIZING)
        .execution_options(synchronize_session=False)
    )
    return [
        Question(
            ticket, row.request_id, row.station_id, row.token_sealed or b"", row.token_hash, row.decide_by
        )
        for ticket in tickets
        if (row := by_row.get(ticket.row_id))
    ]


def record_decisions(session: Session, answered: Sequence[Answered], now: datetime) -> None:
    """A row that was claimed anew, or decided by the deadline, keeps that result; the late one is only noted."""
    own = outbox.own_rows(session, ChargingSessionRequestOutbox, [each.question.ticket for each in answered])
    outbox.settle(
        session,
        ChargingSessionRequestOutbox,
        [each.question.ticket for each in answered if each.question.ticket.row_id in own],
        now,
    )
    counted = _decide(
        session,
        {each.question.request_id: each.answer for each in answered if each.question.ticket.row_id in own},
        now,
    )
    late = [
        timeline.Fact(each.question.request_id, Event.LATE_RESULT_DISCARDED, {"decision": each.answer.decision})
        for each in answered
        if each.question.request_id not in counted
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
    if not answers:
        return set()
    undecided = session.execute(
        select(SessionRequest.id, SessionRequest.destination, SessionRequest.accepted_at).where(
            SessionRequest.id.in_(answers), SessionRequest.decided_at.is_(None)
        )
    ).all()
    if not undecided:
        return set()
    table = SessionRequest.__table__
    session.connection().execute(
        update(table).where(table.c.id == bindparam("request_id")).values(  # type: ignore[arg-type]
            state=State.DECIDED,
            decision=bindparam("_decision"),
            reason=bindparam("_reason"),
            source=bindparam("_source"),
            decided_at=now,
        ),
        [
            {
                "request_id": row.id,
                "_decision": answers[row.id].decision,
                "_reason": answers[row.id].reason,
                "_source": answers[row.id].source,
            }
            for row in undecided
        ],
    )
    outbox.put(
        session,
        AuthorizationDecisionCallbackOutbox,
        [
            outbox.Draft(
                row.id,
                Command.SEND_AUTHORIZATION_DECISION_CALLBACK,
                {"request_id": row.id, "round": 1},
                now,
                destination=row.destination,
            )
            for row in undecided
        ],
        now,
    )
    timeline.append(session, [_decided(row.id, answers[row.id]) for row in undecided], now)
    counter = tallies.Counter()
    for row in undecided:
        answer = answers[row.id]
        counter.count(f"decisions_{answer.decision}")
        if answer.reason in (Reason.AUTHORIZATION_ERROR, Reason.AUTHORIZATION_TIMEOUT, Reason.CIRCUIT_OPEN):
            counter.count("authorization_errors")
        counter.time("authorization", answer.millis)
    counter.write(session, now)
    return {row.id for row in undecided}


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
        },
    )
