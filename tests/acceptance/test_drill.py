"""Short drills: nothing is lost, stuck or made up while a process is killed every second, and PostgreSQL too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.postgres_server import PostgresServer, needed_postgres

ROOT = Path(__file__).resolve().parents[2]
DRILL_SECONDS = 300


@pytest.mark.slow
@pytest.mark.timeout(DRILL_SECONDS + 30)
def test_every_invariant_holds_in_the_smoke_drill(tmp_path: Path) -> None:
    report = drill(tmp_path, "smoke")

    assert report.startswith("# Drill `smoke` on SQLite: everything holds")


@pytest.mark.slow
@pytest.mark.timeout(DRILL_SECONDS + 30)
def test_every_invariant_holds_while_postgresql_is_restarted(tmp_path: Path) -> None:
    needed_postgres()

    report = drill(tmp_path, "brief", "--database", "postgresql")

    assert report.startswith("# Drill `brief` on PostgreSQL: everything holds")
    for fault in ("restart database", "crash database", "cut connections"):
        assert f"| holds | {fault} |" in report


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "drilling", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        timeout=DRILL_SECONDS,
    )


def drill(directory: Path, *words: str) -> str:
    """Its report, if everything holds."""
    done = run(*words, "--out", directory)
    report = "".join(each.read_text() for each in directory.glob("*.md"))
    assert done.returncode == 0, report + done.stdout + done.stderr
    return report


def test_only_an_empty_database_is_drilled(postgres: PostgresServer) -> None:
    with postgres.new_database() as url:
        done = run("brief", "--database", url)

    assert done.returncode == 1
    assert "The database is not empty" in done.stderr


def test_the_drill_explains_itself() -> None:
    done = subprocess.run([ROOT / "scripts" / "drill", "--help"], capture_output=True, text=True, timeout=DRILL_SECONDS)

    assert done.returncode == 0, done.stderr
    for command in ("smoke", "smoke --database postgresql", "brief", "long", "failpoints", "calm"):
        assert f"scripts/drill {command}" in done.stdout
