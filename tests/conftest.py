"""What every test relies on: no setting leaks in from the shell that runs the tests."""

import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import structlog
from support.builders import new_database
from support.kafka_server import KafkaServer, needed_kafka
from support.postgres_server import PostgresServer, needed_postgres
from support.prometheus import MISSING, Programs, find_programs
from support.redis_server import RedisServer

from chargeapp.config import ALIASES, Settings
from chargeapp.storage.database import Database


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        choices=["sqlite+rq", "postgresql+rq", "postgresql+kafka"],
        help="run the acceptance tests on this; default: on SQLite and RQ, some of them on the others too",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell in the background has it ignored, and programs that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "slow: waits for a period that the contract fixes")
    config.addinivalue_line("markers", "only_on(part, reason): cannot be run on a stack that has no such part")


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    names = {field.name.upper() for field in fields(Settings)} | set(ALIASES) | {"CHARGEAPP_CONFIG"}
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis for the tests of one file."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def no_logger_remembers_how_logging_was_configured() -> Iterator[None]:
    """A command that runs in this process configures logging; the loggers of later tests must not be bound to that."""
    configure = structlog.configure

    def configure_without_cache(**given: Any) -> None:
        configure(**{**given, "cache_logger_on_first_use": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", configure_without_cache)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the whole run; each test has a database of its own."""
    # Several deployments run at the same time, and each may need 45.
    with PostgresServer(needed_postgres(), max_connections="400") as server:
        yield server


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaServer]:
    """One broker for the whole run."""
    with KafkaServer(needed_kafka()) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Whatever uses it runs twice: on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/chargeapp.db"
        return
    with request.getfixturevalue("postgres").new_database() as url:
        yield url


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    with new_database(tmp_path, database_url) as made:
        yield made


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest) -> Programs:
    """Debian's prometheus and promtool."""
    assert request.config.cache is not None
    found = find_programs(request.config.cache.mkdir("prometheus"))
    if found is None:
        pytest.skip(MISSING)
    return found
