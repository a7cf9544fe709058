"""Databases with all tables, requests on any step of their way, and a runtime for them."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.clock import utcnow
from chargeapp.config import Settings
from chargeapp.domain.authorization import Answer
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.charging_session import Decision
from chargeapp.domain.retry_policy import RetryPolicy
from chargeapp.runtime import Runtime
from chargeapp.security.driver_tokens import TokenVault, mask, new_key
from chargeapp.services.authorization_decisions import Answered, record_decisions, take_questions
from chargeapp.services.callback_deliveries import Attempt, Callback, record_attempts, take_callbacks
from chargeapp.services.delivery_events import record_delivery_events
from chargeapp.services.queue_limit import QueueLimit
from chargeapp.services.session_requests import Acknowledgement, NewRequest, request_charging_sessions
from chargeapp.storage import outbox, schema
from chargeapp.storage.database import Database
from chargeapp.storage.models import (
    AuthorizationDecisionCallbackOutbox,
    CallbackDeliveryOutbox,
    ChargingSessionRequestOutbox,
    EventRecord,
    OutboxRow,
    SessionRequest,
)
from chargeapp.storage.outbox import OwnRow, Ticket

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STATION = "123e4567-e89b-12d3-a456-426614174000"
TOKEN = "DRIVER-TOKEN-0123456789"
VAULT = TokenVault([new_key()], "hash-key-of-the-tests-0123456789abcdef")
POLICY = RetryPolicy(max_retries=3, first_delay_seconds=1.0, rounds_seconds=(30, 120, 600))
ALLOWED = Answer(Decision.ALLOWED, None, "access_list", millis=7)
DELIVERED = Reply(Outcome.DELIVERED, 12, 204)
FAILED = Reply(Outcome.RETRY, 12, 500, "answered 500")

Requests = ChargingSessionRequestOutbox
Callbacks = AuthorizationDecisionCallbackOutbox
Deliveries = CallbackDeliveryOutbox


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@contextmanager
def new_database(directory: Path, url: str | None = None) -> Iterator[Database]:
    """In a file in this directory, unless a URL is given."""
    database = Database(url or f"sqlite:///{directory / 'chargeapp.db'}")
    schema.upgrade(database)
    yield database
    database.close()


@contextmanager
def new_runtime(directory: Path, **settings: Any) -> Iterator[Runtime]:
    """Its database has all tables; callbacks may reach loopback, and no Redis is there unless its URL is given."""
    given = {
        "chargeapp_data_dir": directory,
        "redis_url": f"unix://{directory}/nobody.sock",
        "callback_allowed_networks": (ip_network("127.0.0.0/8"),),
        "webhook_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        **settings,
    }
    runtime = Runtime(Settings(**given))
    schema.upgrade(runtime.database)
    yield runtime
    close_runtime(runtime)


def close_runtime(runtime: Runtime) -> None:
    used = vars(runtime)
    runtime.close_transport()
    for name in ("database", "redis"):
        if name in used:
            used[name].close()
    if "callback_endpoint" in used:
        used["callback_endpoint"]._client.close()
    if "authorizer" in used and hasattr(used["authorizer"], "_client"):
        used["authorizer"]._client.close()


def new_request(vault: TokenVault = VAULT, **changes: Any) -> NewRequest:
    given = NewRequest(
        caller="",
        station_id=STATION,
        token_sealed=vault.seal(TOKEN),
        token_hash=vault.hash(TOKEN),
        token_masked=mask(TOKEN),
        callback_url="https://caller.example/hook",
        destination="caller.example:443",
        ttl_seconds=900,
        decide_within_seconds=30,
    )
    return replace(given, **changes)


def accept(
    database: Database, number: int = 1, *, now: datetime = NOW, vault: TokenVault = VAULT, **changes: Any
) -> list[str]:
    """So many requests, alike; returns their ids."""
    wanted = [new_request(vault, **changes) for _ in range(number)]
    with database.writing() as session:
        answers = request_charging_sessions(session, wanted, limit=QueueLimit(100_000), now=now)
    assert all(isinstance(each, Acknowledgement) for each in answers)
    return [each.request_id for each in answers if isinstance(each, Acknowledgement)]


def claim(
    database: Database, table: type[OutboxRow], now: datetime = NOW, *, limit: int = 100, job_id: str = "job"
) -> list[Ticket]:
    """As the relay does."""
    with database.writing() as session:
        return outbox.claim_due(session, table, job_id=job_id, limit=limit, now=now)


def claim_and_take(database: Database, table: type[OutboxRow], now: datetime = NOW, limit: int = 100) -> list[Ticket]:
    """As a job does that goes on."""
    with database.writing() as session:
        taken = outbox.claim_and_take(session, table, job_id="job", limit=limit, now=now)
        return [row.ticket for row in taken]


def take(database: Database, table: type[OutboxRow], tickets: Sequence[Ticket], now: datetime = NOW) -> list[Ticket]:
    with database.writing() as session:
        return [row.ticket for row in outbox.take(session, table, tickets, now)]


def own_rows(session: Session, table: type[OutboxRow], tickets: Sequence[Ticket]) -> list[OwnRow]:
    return list(outbox.own_rows(session, table, tickets).values())


def decide(database: Database, answer: Answer = ALLOWED, now: datetime = NOW) -> None:
    """Everything that is due for a decision."""
    tickets = claim_and_take(database, Requests, now)
    with database.writing() as session:
        decide_in(session, tickets, answer, now)


def decide_in(session: Session, tickets: Sequence[Ticket], answer: Answer = ALLOWED, now: datetime = NOW) -> None:
    """Those whose rows were taken."""
    questions = take_questions(session, own_rows(session, Requests, tickets), now)
    record_decisions(session, [Answered(each, answer) for each in questions], now)


def begin_callbacks(database: Database, now: datetime = NOW) -> list[Callback]:
    tickets = claim_and_take(database, Callbacks, now)
    with database.writing() as session:
        return take_callbacks(session, own_rows(session, Callbacks, tickets), now)


def attempt(
    database: Database, reply: Reply = DELIVERED, now: datetime = NOW, policy: RetryPolicy = POLICY
) -> list[Callback]:
    """One attempt at every callback that is due."""
    callbacks = begin_callbacks(database, now)
    record(database, callbacks, reply, now, policy)
    return callbacks


def record(
    database: Database,
    callbacks: Sequence[Callback],
    reply: Reply,
    now: datetime = NOW,
    policy: RetryPolicy = POLICY,
) -> None:
    with database.writing() as session:
        record_attempts(session, [Attempt(each, reply, now) for each in callbacks], policy, now)


def end(database: Database, now: datetime = NOW, policy: RetryPolicy = POLICY) -> None:
    """Every delivery event that is due."""
    tickets = claim_and_take(database, Deliveries, now)
    with database.writing() as session:
        record_delivery_events(session, own_rows(session, Deliveries, tickets), policy, now)


def rows(database: Database, table: type[Any]) -> list[Any]:
    with database.reading() as session:
        return list(session.scalars(select(table).order_by(table.id)))


def only_row(database: Database, table: type[Any]) -> Any:
    (row,) = rows(database, table)
    return row


def the_request(database: Database, request_id: str) -> SessionRequest:
    with database.reading() as session:
        return session.get_one(SessionRequest, request_id)


def facts(database: Database, request_id: str, type_: str | None = None) -> list[EventRecord]:
    with database.reading() as session:
        found = session.scalars(
            select(EventRecord).where(EventRecord.request_id == request_id).order_by(EventRecord.id)
        ).all()
    return [fact for fact in found if type_ in (None, fact.type)]


def change(database: Database, work: Callable[[Session], Any]) -> Any:
    """One writing transaction."""
    with database.writing() as session:
        return work(session)


def eventually(condition: Callable[[], Any], what: str = "", deadline_seconds: float = 10.0) -> Any:
    """What `condition` returns once that is true."""
    deadline = time.monotonic() + deadline_seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what or "not in time"
        time.sleep(0.005)
    return found


def just_now() -> datetime:
    """For rows that have to be due in real time."""
    return utcnow() - seconds(0.01)


def in_time(work: Callable[[], object], limit_seconds: float) -> BaseException | None:
    """What `work` raised; fails if it takes longer."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_seconds)
    assert not thread.is_alive(), f"still waiting after {limit_seconds} s"
    return raised[0] if raised else None
