"""The smoke drill: nothing is lost, stuck or made up while a process is killed every second."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRILL_SECONDS = 300


@pytest.mark.slow
@pytest.mark.timeout(DRILL_SECONDS + 30)
def test_every_invariant_holds_in_the_smoke_drill(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drilling", "smoke", "--out", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        timeout=DRILL_SECONDS,
    )

    report = tmp_path / "smoke.md"
    assert done.returncode == 0, (report.read_text() if report.exists() else "") + done.stdout + done.stderr
    assert "everything holds" in report.read_text()


def test_the_drill_explains_itself() -> None:
    done = subprocess.run([ROOT / "scripts" / "drill", "--help"], capture_output=True, text=True, timeout=DRILL_SECONDS)

    assert done.returncode == 0, done.stderr
    for command in ("smoke", "long", "failpoints", "calm"):
        assert f"scripts/drill {command}" in done.stdout
