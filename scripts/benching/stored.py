"""A store full of ended requests without running anything: some delivered, some failed, some dead letters."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pysqlite3 import dbapi2 as sqlite

from benching.history import multiply
from chargeapp.clock import utcnow
from chargeapp.domain.authorization import Answer
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.charging_session import Decision, Reason
from chargeapp.pipeline import AUTHORIZATION, CALLBACKS, DELIVERY_EVENTS, Stage
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.security.driver_tokens import mask
from chargeapp.services.api_keys import NewKey, create_key
from chargeapp.services.authorization_decisions import Answered, record_decisions, take_questions
from chargeapp.services.callback_deliveries import Attempt, record_attempts, take_callbacks
from chargeapp.services.delivery_events import record_delivery_events
from chargeapp.services.queue_limit import QueueLimit
from chargeapp.services.session_requests import NewRequest, request_charging_sessions
from chargeapp.storage import outbox, schema

SAMPLES = 100
FAILED = 2
STATION = "123e4567-e89b-12d3-a456-426614174000"
TOKEN = "driver-token-of-the-pages-1"  # noqa: S105 - nobody's
DELIVERED = Reply(Outcome.DELIVERED, 12, 204)
GONE = Reply(Outcome.FINAL, 12, 410, "answered 410", Reason.GONE)
# One row in so many of one outbox.
DEAD = f"""
    UPDATE {AUTHORIZATION.outbox.__tablename__}
    SET settled_at = NULL, dead_at = created_at, last_error = 'cannot be opened', attempts = 3 WHERE id % 1000 = 0
"""  # noqa: S608 - our words
ENTRIES = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
    INSERT INTO access_list (token_hash, station_id, token_masked, blocked, created_at)
    SELECT printf('%064x', i), CASE WHEN i % 3 THEN '*' ELSE printf('123e4567-e89b-12d3-a456-%012d', i % 1000) END,
        'driv…' || (1000 + i % 9000), i % 20 = 0, ? FROM n
"""


def fill(runtime: Runtime, count: int, show: Callable[[int], None]) -> str:
    """About so many requests, and as many entries of the access list; returns an API key that may do anything."""
    schema.upgrade(runtime.database)
    now = utcnow()
    with runtime.database.writing() as session:
        key = create_key(session, NewKey("bench", "bench", list(Scope)), now)
    sample(runtime, now)
    runtime.database.close()
    multiply(runtime.database.path, count - SAMPLES, show)
    connection = sqlite.connect(runtime.database.path)
    connection.execute(DEAD)
    connection.execute(ENTRIES, (count, f"{now:%Y-%m-%d %H:%M:%S.%f}"))
    connection.commit()
    connection.close()
    return key


def sample(runtime: Runtime, now: datetime) -> None:
    """Each step as the jobs take it."""
    vault, database = runtime.vault, runtime.database
    new = NewRequest(
        caller="hub",
        station_id=STATION,
        token_sealed=vault.seal(TOKEN),
        token_hash=vault.hash(TOKEN),
        token_masked=mask(TOKEN),
        callback_url="https://caller.example/callback",
        destination="caller.example:443",
        ttl_seconds=900,
        decide_within_seconds=30,
    )
    answer = Answer(Decision.ALLOWED, None, "access_list", millis=7)
    with database.writing() as session:
        request_charging_sessions(session, [new] * SAMPLES, limit=QueueLimit(SAMPLES), now=now)
        questions = take_questions(session, _claim(session, AUTHORIZATION, now), now)
        record_decisions(session, [Answered(each, answer) for each in questions], now)
        callbacks = take_callbacks(session, _claim(session, CALLBACKS, now), now)
        replies = [GONE] * FAILED + [DELIVERED] * (SAMPLES - FAILED)
        attempts = [Attempt(callback, reply, now) for callback, reply in zip(callbacks, replies, strict=True)]
        record_attempts(session, attempts, runtime.retry_policy, now)
        record_delivery_events(session, _claim(session, DELIVERY_EVENTS, now), runtime.retry_policy, now)


def _claim(session: Any, stage: Stage, now: datetime) -> list[outbox.OwnRow]:
    return outbox.claim_and_take(session, stage.outbox, job_id="bench", limit=SAMPLES, now=now)
