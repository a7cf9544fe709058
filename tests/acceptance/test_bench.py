"""The bench works, in small: what it measures beside what, and that nothing of it stays behind. No figure is judged."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from deployment import is_running, stop
from support.builders import eventually

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benching.programs import family

ROOT = Path(__file__).resolve().parents[2]
BENCH_SECONDS = 170
pytestmark = pytest.mark.only_on("sqlite", reason="brings its own databases and brokers")


def command(*words: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "benching", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}


def bench(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), env=environment(), capture_output=True, text=True, timeout=BENCH_SECONDS)


def runs() -> set[Path]:
    """Folders of runs; there may be one from a run that was killed some time."""
    return set((ROOT / ".bench").glob("run-*"))


def measured(name: str, out: Path) -> dict[str, Any]:
    done = bench(name, "--quick", "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    page = (out / "performance.md").read_text()
    assert "Its figures mean nothing." in page
    assert (out / "performance" / f"{name}.svg").exists()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_slow_destination_is_measured_beside_none(tmp_path: Path) -> None:
    folders = runs()

    report = measured("slow-destination", tmp_path)

    assert [each["name"] for each in report["targets"]] == ["slow-destination"]
    assert all(len(rounds) == 1 for rounds in report["figures"]["slow-destination"].values())
    assert runs() <= folders


def test_pages_are_measured_with_many_requests_beside_few(tmp_path: Path) -> None:
    report = measured("pages", tmp_path)

    assert [each["name"] for each in report["targets"]] == ["pages"]
    few, many = report["figures"]["pages"].values()
    assert few.keys() == many.keys()
    assert len(few) > 25


def test_the_start_is_measured_beside_bare_imports(tmp_path: Path) -> None:
    report = measured("start", tmp_path)

    assert [each["name"] for each in report["targets"]] == ["start-up", "start-help"]
    assert all(seconds > 0 for (seconds,) in report["figures"]["start"].values())


def test_the_bench_explains_itself() -> None:
    done = subprocess.run([ROOT / "scripts" / "bench", "--help"], capture_output=True, text=True, timeout=BENCH_SECONDS)

    assert done.returncode == 0, done.stderr
    for command in ("saturated", "latency", "intake", "growth", "pages", "backlog", "slow-destination", "start", "all"):
        assert f"scripts/bench {command}" in done.stdout


def test_the_bench_says_which_programs_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    done = bench("saturated")

    assert done.returncode == 1
    assert "sudo apt-get install" in done.stderr
    assert "wrk" in done.stderr


def test_a_bench_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    folders = runs()
    with (tmp_path / "bench.log").open("w") as log:
        stopped = subprocess.Popen(command("slow-destination", "--quick"), env=environment(), stdout=log, stderr=log)
    try:
        # Of what it starts, the supervisor has so many below it before it is ready.
        eventually(lambda: len(family(stopped.pid)) > 5, "nothing was started", BENCH_SECONDS)
        started = family(stopped.pid)
    finally:
        status = stop(stopped)

    assert status == 128 + signal.SIGTERM
    eventually(lambda: not any(map(is_running, started)), "something goes on")
    assert runs() <= folders
