"""`chargeapp backup`, `restore` and `purge`: what they do, what they say, and what they refuse."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import accept, ago, chargeapp, data_dir, end, now, runtime, tables
from sqlalchemy import func, select

from chargeapp.domain.callback import Outcome
from chargeapp.runtime import Runtime
from chargeapp.storage import heartbeats
from chargeapp.storage.models import SessionRequest

__all__ = ["data_dir", "tables"]


@pytest.fixture
def app(tables: Path) -> Iterator[Runtime]:
    with runtime() as built:
        yield built


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy.db"


def requests() -> int:
    with runtime() as app, app.database.reading() as session:
        return session.scalar(select(func.count()).select_from(SessionRequest)) or 0


def beat(app: Runtime, process: str = "relay", **duration: float) -> None:
    with app.database.writing() as session:
        heartbeats.beat(session, process, ago(**duration))


def test_a_backup_says_what_is_in_it(app: Runtime, copy: Path) -> None:
    end(app, Outcome.DELIVERED)

    ended = chargeapp("backup", str(copy))

    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"{copy}: 1 charging_session_requests, 4 events, checked.\n"


def test_a_backup_as_json(app: Runtime, copy: Path) -> None:
    accept(app)

    ended = chargeapp("backup", str(copy), "--json")

    assert json.loads(ended.out) == {"file": str(copy), "rows": {"charging_session_requests": 1, "events": 1}}


def test_a_backup_while_processes_work_is_no_trouble(app: Runtime, copy: Path) -> None:
    beat(app)

    assert chargeapp("backup", str(copy)).status == 0


def test_a_path_relative_to_here_is_understood(app: Runtime, tmp_path: Path) -> None:
    assert chargeapp("backup", "here.db").status == 0
    assert (tmp_path / "here.db").exists()


def test_an_existing_target_is_refused_in_one_line(app: Runtime, copy: Path) -> None:
    copy.write_text("precious")

    ended = chargeapp("backup", str(copy))

    assert (ended.status, ended.err) == (1, f"chargeapp: {copy} exists already. Name a new file.\n")
    assert copy.read_text() == "precious"


def test_a_directory_is_no_target(app: Runtime, tmp_path: Path) -> None:
    assert chargeapp("backup", str(tmp_path)).status == 2


def test_without_a_database_there_is_nothing_to_copy(data_dir: Path, copy: Path) -> None:
    ended = chargeapp("backup", str(copy))

    assert ended.status == 1
    assert "There is no database" in ended.err
    assert not copy.exists()


def test_a_restored_backup_takes_the_place_of_the_database(app: Runtime, copy: Path) -> None:
    accept(app)
    chargeapp("backup", str(copy))
    accept(app)
    app.database.close()

    ended = chargeapp("restore", str(copy), "--yes")

    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("Restored 1 charging_session_requests, 1 events. The database before is ")
    aside = Path(ended.out.rstrip(".\n").rpartition(" ")[2])
    assert aside.name.startswith("chargeapp.db.before-")
    assert aside.exists()
    assert requests() == 1


def test_what_was_restored_can_be_worked_with(app: Runtime, copy: Path) -> None:
    accept(app)
    chargeapp("backup", str(copy))
    app.database.close()
    chargeapp("restore", str(copy), "--yes")

    with runtime() as restored:
        end(restored, Outcome.DELIVERED)

    with runtime() as restored, restored.database.reading() as session:
        # The one that was under way when the backup was made, and a new one.
        assert session.scalars(select(SessionRequest.state)).all() == ["delivered"] * 2


def test_a_restore_onto_a_new_machine_needs_no_database(app: Runtime, copy: Path, data_dir: Path) -> None:
    accept(app)
    chargeapp("backup", str(copy))
    app.database.close()
    for part in data_dir.glob("chargeapp.db*"):
        part.unlink()

    ended = chargeapp("restore", str(copy), "--yes")

    assert (ended.status, ended.out) == (0, "Restored 1 charging_session_requests, 1 events.\n")
    assert requests() == 1


def test_a_database_in_use_is_not_replaced(app: Runtime, copy: Path) -> None:
    chargeapp("backup", str(copy))
    accept(app)
    beat(app, seconds=10)

    ended = chargeapp("restore", str(copy), "--yes")

    assert ended.status == 1
    assert "Stop them first." in ended.err
    assert requests() == 1


@pytest.mark.parametrize("process", ["web", "relay", "worker callbacks host 1"])
def test_every_kind_of_process_counts_as_use(app: Runtime, copy: Path, process: str) -> None:
    chargeapp("backup", str(copy))
    beat(app, process, seconds=1)

    assert chargeapp("restore", str(copy), "--yes").status == 1


def test_a_database_whose_processes_ended_a_while_ago_is_replaced(app: Runtime, copy: Path) -> None:
    chargeapp("backup", str(copy))
    beat(app, seconds=40)
    app.database.close()

    assert chargeapp("restore", str(copy), "--yes").status == 0


def test_a_backup_of_a_running_system_can_be_restored_twice(app: Runtime, copy: Path) -> None:
    """Processes that were at work when it was made do not use the database that was made of it."""
    beat(app)
    chargeapp("backup", str(copy))
    with app.database.writing() as session:
        heartbeats.leave(session, "relay")
    app.database.close()

    assert chargeapp("restore", str(copy), "--yes").status == 0
    assert chargeapp("restore", str(copy), "--yes").status == 0


def test_a_damaged_database_can_be_replaced(app: Runtime, copy: Path) -> None:
    accept(app)
    chargeapp("backup", str(copy))
    app.database.close()
    app.database.path.write_bytes(b"This was a database once." * 1000)

    ended = chargeapp("restore", str(copy), "--yes")

    assert (ended.status, requests()) == (0, 1)


def test_a_damaged_backup_is_refused(app: Runtime, copy: Path) -> None:
    copy.write_bytes(b"This was a backup once." * 1000)
    accept(app)

    ended = chargeapp("restore", str(copy), "--yes")

    assert ended.status == 1
    assert ended.err.startswith(f"chargeapp: {copy} is not a backup of chargeapp")
    assert len(ended.err.splitlines()) == 1
    assert requests() == 1


def test_without_a_yes_nothing_is_replaced(app: Runtime, copy: Path) -> None:
    chargeapp("backup", str(copy))
    accept(app)
    app.database.close()

    ended = chargeapp("restore", str(copy), given="n\n")

    assert ended.status == 1
    assert f"Replace {app.database.path}?" in ended.out + ended.err
    assert requests() == 1


def test_the_database_is_no_backup_of_itself(app: Runtime) -> None:
    accept(app)
    app.database.close()

    ended = chargeapp("restore", str(app.database.path), "--yes")

    assert ended.status == 1
    assert "is the database itself" in ended.err
    assert requests() == 1


def old_requests(app: Runtime, number: int) -> None:
    for _ in range(number):
        end(app, Outcome.DELIVERED, at=ago(days=31))


def test_purge_removes_what_is_old_and_says_so(app: Runtime) -> None:
    old_requests(app, 3)
    end(app, Outcome.DELIVERED, at=ago(days=2))
    accept(app, at=now())

    ended = chargeapp("purge")

    assert ended.status == 0
    assert ended.out == "Removed 3 requests and 0 idempotency keys, erased 1 driver tokens.\n"
    assert requests() == 2


def test_purge_as_json(app: Runtime) -> None:
    old_requests(app, 2)

    assert json.loads(chargeapp("purge", "--json").out) == {"requests": 2, "driver_tokens": 0, "idempotency_keys": 0}


def test_a_dry_run_counts_and_removes_nothing(app: Runtime) -> None:
    old_requests(app, 2)

    assert chargeapp("purge", "--dry-run").out == "2 requests would be removed.\n"
    assert json.loads(chargeapp("purge", "--dry-run", "--json").out) == {"requests": 2}
    assert requests() == 2


def test_the_periods_are_settings(app: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    old_requests(app, 2)
    monkeypatch.setenv("RETENTION_DAYS", "60")

    assert chargeapp("purge", "--dry-run").out == "0 requests would be removed.\n"


def test_with_nothing_to_forget_it_says_so_and_is_content(app: Runtime) -> None:
    ended = chargeapp("purge")

    assert (ended.status, ended.out) == (
        0,
        "Removed 0 requests and 0 idempotency keys, erased 0 driver tokens.\n",
    )
