"""What every test relies on: no setting leaks in from the shell that runs the tests."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from support.builders import new_database
from support.postgres_server import PostgresServer, needed_postgres
from support.prometheus import MISSING, Programs, find_programs
from support.redis_server import RedisServer

from chargeapp.config import ALIASES, Settings
from chargeapp.storage.database import Database


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: waits for a period that the contract fixes")


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the whole run; each test has a database of its own."""
    with PostgresServer(needed_postgres()) as server:
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
