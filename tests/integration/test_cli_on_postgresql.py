"""Commands that keep the database well, where PostgreSQL is the database."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import chargeapp, data_dir
from support.postgres_server import EMPTY, PostgresServer

__all__ = ["data_dir"]


@pytest.fixture
def url(postgres: PostgresServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    data_dir.mkdir(mode=0o700)
    with postgres.new_database(EMPTY) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        yield url


def doctor() -> dict[str, dict[str, str]]:
    return {each["check"]: each for each in json.loads(chargeapp("doctor", "--json").out)["checks"]}


def test_upgrade_makes_the_tables_and_status_tells(url: str) -> None:
    assert chargeapp("db", "status").status == 1
    assert chargeapp("db", "upgrade").status == 0
    assert chargeapp("db", "status").out.startswith("Up to date")


def test_doctor_tells_the_version_and_of_pending_migrations(url: str) -> None:
    before = doctor()
    chargeapp("db", "upgrade")
    after = doctor()

    assert (before["database"]["status"], before["database"]["advice"]) == ("fail", "Run: chargeapp db upgrade")
    assert after["database"]["status"] == "ok"
    assert after["database"]["found"].startswith("postgresql 1")
    assert after["host clock"]["status"] == "ok"
    assert not {"sqlite", "file system", "disk space"} & set(after)


def test_doctor_says_what_to_do_when_the_server_is_away(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir.mkdir()
    password = "kept-to-itself"
    monkeypatch.setenv("DATABASE_URL", f"postgresql://chargeapp:{password}@/chargeapp?host={tmp_path}")

    ended = chargeapp("doctor", "--json")

    (found,) = [each for each in json.loads(ended.out)["checks"] if each["check"] == "database"]
    assert (found["status"], found["advice"]) == ("fail", "start the server, or correct DATABASE_URL")
    assert password not in ended.out + ended.err


@pytest.mark.parametrize("words", [("backup", "copy.db"), ("restore", "copy.db", "--yes")])
def test_backup_and_restore_name_the_tools_that_do_it(url: str, words: tuple[str, ...]) -> None:
    chargeapp("db", "upgrade")

    ended = chargeapp(*words)

    assert ended.status == 1
    assert "pg_dump" in ended.err


def test_purge_works_as_on_sqlite(url: str) -> None:
    chargeapp("db", "upgrade")

    ended = chargeapp("purge", "--json")

    assert json.loads(ended.out) == {"requests": 0, "driver_tokens": 0, "idempotency_keys": 0}


def test_status_tells_of_the_tables(url: str) -> None:
    assert "chargeapp db upgrade" in chargeapp("status").out
    chargeapp("db", "upgrade")
    assert "chargeapp db upgrade" not in chargeapp("status").out
