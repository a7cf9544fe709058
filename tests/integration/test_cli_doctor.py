"""`chargeapp doctor`: what is wrong, whatever is down, and what to do about it."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from cli_support import accept, ago, bury, chargeapp, data_dir, now, running_redis, runtime, tables
from sqlalchemy import text

from chargeapp.commands.checks import Finding, broker, files, records
from chargeapp.pipeline import AUTHORIZATION, STAGES
from chargeapp.security.secrets_file import new_secrets
from chargeapp.storage import heartbeats

__all__ = ["data_dir", "running_redis", "tables"]

Check = dict[str, str]


def diagnosis() -> tuple[int, dict[str, Check]]:
    ended = chargeapp("doctor", "--json")
    answer = json.loads(ended.out)
    assert answer["ok"] == (ended.status == 0)
    return ended.status, {each["check"]: each for each in answer["checks"]}


def check(name: str) -> Check:
    return diagnosis()[1][name]


def everybody_at_work() -> None:
    with runtime() as app, app.database.writing() as session:
        heartbeats.beat(session, "relay", now())
        for stage in STAGES:
            heartbeats.beat(session, f"worker {stage.queue} here 1", now(), "closed")


def test_all_is_well_where_everything_runs(tables: Path, running_redis: str) -> None:
    everybody_at_work()

    ended = chargeapp("doctor")

    assert ended.status == 0, ended.out
    assert {line.split()[0] for line in ended.out.splitlines()} <= {"ok", "warn"}


def test_an_empty_machine_is_told_what_to_do_and_left_as_it_was(data_dir: Path) -> None:
    status, checks = diagnosis()

    assert status == 1
    assert {name for name, each in checks.items() if each["status"] == "fail"} == {
        "data directory",
        "database",
        "redis",
    }
    assert all(each["advice"] for each in checks.values() if each["status"] != "ok")
    assert not data_dir.exists()


def test_each_failure_is_one_line_with_what_to_do(tables: Path) -> None:
    lines = chargeapp("doctor").out.splitlines()

    failures = [line for line in lines if line.startswith("fail")]
    assert {line[6:21].strip() for line in failures} == {"redis", "relay", "workers"}
    assert all(" → " in line for line in failures)


def test_a_wrong_setting_is_the_only_finding(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "high")

    status, checks = diagnosis()

    assert (status, list(checks)) == (1, ["settings"])
    assert "PORT: Not a valid integer." in checks["settings"]["found"]


def test_tables_of_another_version_fail(tables: Path) -> None:
    with runtime() as app, app.database.writing() as session:
        session.execute(text("DELETE FROM alembic_version"))

    assert check("database")["advice"] == "Run: chargeapp db upgrade"


def test_a_damaged_database_fails(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "chargeapp.db").write_bytes(b"no database at all" * 1000)

    found = check("database")

    assert found["status"] == "fail"
    assert "file is not a database" in found["found"]


@pytest.mark.parametrize("url", ["postgresql://db/x", "nonsense", "sqlite://"])
def test_a_database_that_cannot_be_used_fails(data_dir: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    data_dir.mkdir()
    monkeypatch.setenv("DATABASE_URL", url)

    assert check("database")["status"] == "fail"


def test_a_relay_that_stopped_fails(tables: Path) -> None:
    with runtime() as app, app.database.writing() as session:
        heartbeats.beat(session, "relay", ago(minutes=10))

    found = check("relay")

    assert (found["status"], found["found"]) == ("fail", "last seen 600 s ago")


def test_a_queue_without_a_worker_is_named(tables: Path) -> None:
    with runtime() as app, app.database.writing() as session:
        heartbeats.beat(session, "worker callbacks here 1", now())
        heartbeats.beat(session, "worker authorization here 2", now(), "open")

    _, checks = diagnosis()

    assert checks["workers"]["advice"] == "start `chargeapp worker delivery-events`"
    assert checks["authorization"]["found"] == "circuit breaker is open: decisions are `unknown`"


def test_dead_letters_are_a_warning(tables: Path) -> None:
    with runtime() as app:
        accept(app)
        bury(app, AUTHORIZATION)

    found = check("dead letters")

    assert (found["status"], found["found"]) == ("warn", "authorization 1")


def test_requests_that_nobody_decides_fail(tables: Path) -> None:
    with runtime() as app:
        accept(app, at=ago(minutes=5))

    found = check("backlog")

    assert found["status"] == "fail"
    assert "the oldest for 300 s" in found["found"]


def test_a_queue_that_is_nearly_full_is_a_warning(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_MAX_SIZE", "1")
    with runtime() as app:
        accept(app)

    assert check("backlog")["status"] == "warn"


def test_a_clock_that_was_set_back_is_a_warning(tables: Path) -> None:
    with runtime() as app:
        accept(app, at=now() + timedelta(hours=1))

    found = check("clock")

    assert found["status"] == "warn"
    assert found["found"].startswith("was set back by 3,")


def test_redis_is_described_without_its_password(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")

    ended = chargeapp("doctor")

    assert "fail  redis           127.0.0.1:1 does not answer" in ended.out
    assert "hunter2" not in ended.out + ended.err


def test_a_wrong_redis_url_fails(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "http://localhost")

    assert check("redis")["advice"] == "correct REDIS_URL, for example redis://localhost:6379/0"


def test_a_redis_that_forgets_fails(tables: Path, running_redis: str) -> None:
    with redis.Redis.from_url(running_redis) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")

    found = check("redis memory")

    assert (found["status"], found["advice"]) == ("fail", "redis-cli CONFIG SET maxmemory-policy noeviction")


def test_private_networks_are_a_warning_in_production_only(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBACK_ALLOWED_NETWORKS", "10.0.0.0/8")
    in_development = check("callbacks")
    monkeypatch.setenv("CHARGEAPP_ENV", "production")
    in_production = check("callbacks")

    assert (in_development["status"], in_production["status"]) == ("ok", "warn")
    assert "10.0.0.0/8" in in_production["found"]


def test_production_needs_its_own_secrets(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARGEAPP_ENV", "production")
    missing = check("secrets")
    for name, value in new_secrets().items():
        monkeypatch.setenv(name, value)
    present = check("secrets")

    assert (missing["status"], present["status"]) == ("fail", "ok")
    assert missing["advice"] == "`chargeapp secrets generate` prints new ones."


def test_a_secret_that_cannot_be_used_fails(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_short")

    assert check("secrets")["status"] == "fail"


def test_generated_secrets_are_for_their_owner_only(tables: Path) -> None:
    with runtime() as app:
        assert app.secrets
    assert check("secrets")["status"] == "ok"
    (tables / "secrets.json").chmod(0o644)

    assert check("secrets")["advice"] == f"chmod 600 {tables / 'secrets.json'}"


def test_an_incomplete_file_of_secrets_fails(tables: Path) -> None:
    (tables / "secrets.json").write_text("{}")

    assert check("secrets")["status"] == "fail"


def test_a_data_directory_that_others_can_open_is_a_warning(tables: Path) -> None:
    tables.chmod(0o755)

    assert check("data directory")["advice"] == f"chmod 700 {tables}"


def test_a_data_directory_that_cannot_be_written_fails(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)

    assert files.permissions(tables).status == "fail"


@pytest.mark.parametrize(
    ("finding", "status"),
    [
        (lambda: files.sqlite_version((3, 51, 2)), "fail"),
        (lambda: files.sqlite_version((3, 53, 4)), "ok"),
        (lambda: files.file_system(Path("/data"), "nfs4"), "fail"),
        (lambda: files.file_system(Path("/data"), "tmpfs"), "warn"),
        (lambda: files.file_system(Path("/data"), "ext4"), "ok"),
        (lambda: files.free_space(50 * files.MEBIBYTE), "fail"),
        (lambda: files.free_space(500 * files.MEBIBYTE), "warn"),
        (lambda: files.free_space(5000 * files.MEBIBYTE), "ok"),
        (lambda: records.database_speed(0.9, "sqlite"), "warn"),
        (lambda: records.database_speed(0.01, "sqlite"), "ok"),
        (lambda: broker.version("here", "4.0.14"), "fail"),
        (lambda: broker.version("here", ""), "fail"),
        (lambda: broker.version("here", "7.2.4"), "ok"),
        (lambda: broker.clock(3.0), "warn"),
        (lambda: broker.clock(-3.0), "warn"),
        (lambda: broker.clock(0.1), "ok"),
        (lambda: records.host_clock(3600.0), "warn"),
        (lambda: records.host_clock(-3600.0), "warn"),
        (lambda: records.recorded_clock([], now(), 0.1), "ok"),
        (lambda: records.recorded_clock([], now(), 3600.0), "warn"),
        (lambda: records.recorded_clock([], now(), -3600.0), "warn"),
    ],
)
def test_thresholds(finding: Callable[[], Finding], status: str) -> None:
    assert finding().status == status


def test_a_redis_that_refuses_to_tell_about_itself_fails(
    tables: Path, running_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(client: redis.Redis) -> None:
        raise redis.ResponseError("NOPERM")

    monkeypatch.setattr(redis.Redis, "info", refuse)

    assert "does not answer as it should: NOPERM" in check("redis")["found"]
