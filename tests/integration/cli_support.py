"""What the tests of the command line share: running it in this process, data to look at, and a real Redis."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import redis
import structlog
from click.testing import CliRunner

from chargeapp.commands import main
from chargeapp.config import load_settings
from chargeapp.domain.authorization import Answer
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.charging_session import Decision
from chargeapp.domain.retry_policy import RetryPolicy
from chargeapp.pipeline import AUTHORIZATION, CALLBACKS, DELIVERY_EVENTS, Stage
from chargeapp.runtime import Runtime
from chargeapp.security.driver_tokens import mask
from chargeapp.services.authorization_decisions import Answered, record_decisions, take_questions
from chargeapp.services.callback_deliveries import Attempt, record_attempts, take_callbacks
from chargeapp.services.delivery_events import record_delivery_events
from chargeapp.services.queue_limit import QueueLimit
from chargeapp.services.session_requests import Acknowledgement, NewRequest, request_charging_sessions
from chargeapp.storage import outbox
from chargeapp.storage.outbox import OwnRow
from chargeapp.transport.embedded_redis import embedded_redis_url

STATION = "123e4567-e89b-12d3-a456-426614174000"
OTHER_STATION = "99999999-e89b-12d3-a456-426614174000"
DRIVER = "driver-token-number-0001"
NO_ROUNDS = RetryPolicy(max_retries=0, first_delay_seconds=1, rounds_seconds=())
REDIS_SECONDS = 20


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def chargeapp(*arguments: str, given: str | bytes = "") -> Ended:
    """Run the command line as its script does, with `given` on standard input."""
    with CliRunner().isolation(input=given) as (out, err, _):
        with mock.patch.object(sys, "argv", ["chargeapp", *arguments]):
            try:
                main()
                status: object = 0
            except SystemExit as end:
                status = end.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        assert isinstance(status, int)
        return Ended(status, out.getvalue().decode(), err.getvalue().decode())


def start(*arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    """Run it as a process of its own, where pipes and terminals are real."""
    return subprocess.Popen([sys.executable, "-m", "chargeapp", *arguments], start_new_session=True, **options)


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Our end and theirs."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def shown(ours: int) -> bytes:
    """What a terminal has shown so far."""
    try:
        return os.read(ours, 1_000_000)
    except BlockingIOError:
        return b""


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place of its own, no settings but that, and the logs as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "var"
    monkeypatch.setenv("CHARGEAPP_DATA_DIR", str(directory))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield directory
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def tables(data_dir: Path) -> Path:
    assert chargeapp("db", "upgrade").status == 0
    return data_dir


@pytest.fixture
def running_redis(data_dir: Path) -> Iterator[str]:
    """The URL of an embedded Redis in the data directory."""
    run = "import sys, pathlib; from chargeapp.transport.embedded_redis import run_embedded_redis as run;"
    process = subprocess.Popen([sys.executable, "-c", run + "run(pathlib.Path(sys.argv[1]))", data_dir])
    deadline = time.monotonic() + REDIS_SECONDS
    url = embedded_redis_url(data_dir)
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
    yield url
    process.kill()
    process.wait()


@contextmanager
def runtime() -> Iterator[Runtime]:
    built = Runtime(load_settings())
    yield built
    built.database.close()


def accept(app: Runtime, *, station: str = STATION, at: datetime | None = None) -> str:
    """A request that nobody has decided yet; returns its id."""
    new = NewRequest(
        caller="",
        station_id=station,
        token_sealed=app.vault.seal(DRIVER),
        token_hash=app.vault.hash(DRIVER),
        token_masked=mask(DRIVER),
        callback_url="https://example.com/callback",
        destination="example.com:443",
        ttl_seconds=900,
        decide_within_seconds=30,
    )
    with app.database.writing() as session:
        [taken] = request_charging_sessions(session, [new], limit=QueueLimit(10_000), now=at or now())
    assert isinstance(taken, Acknowledgement)
    return taken.request_id


def end(app: Runtime, outcome: Outcome, *, station: str = STATION, at: datetime | None = None) -> str:
    """A request that went all the way to one callback attempt with this outcome; returns its id."""
    moment = at or now()
    request_id = accept(app, station=station, at=moment)
    with app.database.writing() as session:
        questions = take_questions(session, _taken(session, AUTHORIZATION, moment), moment)
        answers = [Answered(each, Answer(Decision.ALLOWED, None, "access_list")) for each in questions]
        record_decisions(session, answers, moment)
        callbacks = take_callbacks(session, _taken(session, CALLBACKS, moment), moment)
        reply = Reply(outcome, millis=7, error=None if outcome is Outcome.DELIVERED else "500")
        record_attempts(session, [Attempt(each, reply, moment) for each in callbacks], NO_ROUNDS, moment)
        record_delivery_events(session, _taken(session, DELIVERY_EVENTS, moment), NO_ROUNDS, moment)
    return request_id


def bury(app: Runtime, stage: Stage, error: str = "cannot be read") -> int:
    """Make the due row of a stage a dead letter; returns its number."""
    with app.database.writing() as session:
        [row] = _taken(session, stage, now())
        outbox.bury(session, stage.outbox, row.ticket, error, now())
    return row.row_id


def _taken(session: object, stage: Stage, moment: datetime) -> list[OwnRow]:
    return outbox.claim_and_take(session, stage.outbox, job_id="test", limit=100, now=moment)  # type: ignore[arg-type]


def now() -> datetime:
    return datetime.now(UTC)


def ago(**duration: float) -> datetime:
    return now() - timedelta(**duration)
