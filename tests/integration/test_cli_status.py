"""`chargeapp status` and `top`: one screen, an exit code for monitoring, and a live view that leaves no trace."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cli_support import (
    accept,
    ago,
    bury,
    chargeapp,
    data_dir,
    end,
    now,
    running_redis,
    runtime,
    shown,
    tables,
    terminal,
)
from support.builders import eventually

from chargeapp.commands import live_screen, overview
from chargeapp.domain.callback import Outcome
from chargeapp.pipeline import AUTHORIZATION, STAGES
from chargeapp.storage import heartbeats

__all__ = ["data_dir", "running_redis", "tables"]


class Alive(BaseHTTPRequestHandler):
    answer = 200

    def do_GET(self) -> None:
        self.send_response(self.answer)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Alive)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("PORT", str(server.server_port))
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def everything(tables: Path, running_redis: str, web: None) -> None:
    with runtime() as app, app.database.writing() as session:
        heartbeats.beat(session, "relay", now())
        for stage in STAGES:
            heartbeats.beat(session, f"worker {stage.queue} here 1", now(), "closed")


def status() -> tuple[int, dict[str, Any]]:
    ended = chargeapp("status", "--json")
    found: dict[str, Any] = json.loads(ended.out)
    return ended.status, found


def troubled(found: dict[str, Any]) -> dict[str, str]:
    return {name: part["status"] for name, part in found["parts"].items() if part["status"] != "healthy"}


@pytest.mark.usefixtures("everything")
def test_all_is_healthy_where_everything_runs() -> None:
    code, found = status()

    assert (code, found["status"], troubled(found)) == (0, "healthy", {})
    assert chargeapp("status").out.startswith("chargeapp is healthy at ")


def silent_relay() -> None:
    with runtime() as app, app.database.writing() as session:
        heartbeats.beat(session, "relay", ago(minutes=2))


def no_worker() -> None:
    with runtime() as app, app.database.writing() as session:
        heartbeats.leave(session, "worker callbacks here 1")


def open_breaker() -> None:
    with runtime() as app, app.database.writing() as session:
        heartbeats.beat(session, "worker authorization here 1", now(), "open")


def overdue_request() -> None:
    with runtime() as app:
        accept(app, at=ago(minutes=1))


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("cause", "part"),
    [(silent_relay, "relay"), (no_worker, "workers"), (open_breaker, "breaker"), (overdue_request, "waiting")],
)
def test_what_makes_requests_wait_is_degraded(cause: Callable[[], None], part: str) -> None:
    cause()

    code, found = status()

    assert (code, found["status"], troubled(found)) == (1, "degraded", {part: "degraded"})


@pytest.mark.usefixtures("everything")
def test_redis_that_does_not_answer_is_degraded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/nobody.sock")

    code, found = status()

    assert (code, troubled(found)) == (1, {"redis": "degraded"})


@pytest.mark.usefixtures("everything")
def test_an_api_that_does_not_answer_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PORT", str(nobody.getsockname()[1]))

        code, found = status()

    assert (code, troubled(found)) == (2, {"web": "down"})


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(("answer", "troubles"), [(404, {}), (502, {"web": "down"}), (503, {"web": "down"})])
def test_an_api_that_answers_with_a_fault_is_down(
    monkeypatch: pytest.MonkeyPatch, answer: int, troubles: dict[str, str]
) -> None:
    monkeypatch.setattr(Alive, "answer", answer)

    assert troubled(status()[1]) == troubles


@pytest.mark.usefixtures("web")
def test_a_missing_database_is_down_and_none_is_made(data_dir: Path) -> None:
    code, found = status()

    assert (code, found["parts"]["database"]["status"]) == (2, "down")
    assert "chargeapp db upgrade" in found["parts"]["database"]["found"]
    assert not data_dir.exists()


@pytest.mark.usefixtures("everything")
def test_a_database_that_cannot_commit_is_down(data_dir: Path) -> None:
    with (data_dir / "chargeapp.db").open("r+b") as file:
        file.write(b"damaged" * 100)

    code, found = status()

    assert (code, found["parts"]["database"]["status"]) == (2, "down")


def test_a_wrong_setting_is_down_and_one_line(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "high")

    ended = chargeapp("status")

    assert ended.status == 2
    assert ended.err.startswith("chargeapp: Wrong settings")


@pytest.mark.usefixtures("everything")
def test_queues_and_counts_are_those_of_the_database() -> None:
    with runtime() as app:
        end(app, Outcome.DELIVERED)
        end(app, Outcome.RETRY)
        accept(app)
        bury(app, AUTHORIZATION)
        accept(app, at=ago(seconds=20))

    found = status()[1]

    assert found["queues"]["authorization"]["waiting"] == 1
    assert found["queues"]["authorization"]["deadLetters"] == 1
    assert found["queues"]["authorization"]["oldestDueSeconds"] >= 20
    assert found["oldestWaitingSeconds"] >= 20
    counted = {name: count for name, count in found["lastHour"].items() if count}
    assert counted == {
        "requests": 4,
        "decisions_allowed": 2,
        "callbacks_succeeded": 1,
        "callbacks_failed": 1,
        "requests_delivered": 1,
        "requests_failed": 1,
    }


@pytest.mark.usefixtures("everything")
def test_what_is_older_counts_neither_for_the_hour_nor_the_day() -> None:
    with runtime() as app:
        end(app, Outcome.DELIVERED, at=now() - timedelta(days=1, hours=1))

    found = status()[1]

    assert found["lastHour"]["requests"] == found["today"]["requests"] == 0


# top


def start_top(*options: str, **streams: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "chargeapp", "top", *options], start_new_session=True, **streams)


@pytest.mark.usefixtures("everything")
def test_top_prints_one_frame_into_a_pipe() -> None:
    ended = subprocess.run([sys.executable, "-m", "chargeapp", "top"], capture_output=True, check=True)

    assert ended.stdout.startswith(b"chargeapp is healthy at ")
    assert b"\x1b" not in ended.stdout


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("ending", ["q", signal.SIGINT, signal.SIGTERM])
def test_top_renews_its_frame_and_leaves_the_terminal_as_it_was(ending: str | signal.Signals) -> None:
    with terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)
        process = start_top("--interval", "0.2", stdin=theirs, stdout=theirs, stderr=theirs)
        seen = bytearray()

        def times() -> set[bytes]:
            seen.extend(shown(ours))
            return set(re.findall(rb"at (\d{4}-\S+Z)", seen))

        eventually(lambda: len(times()) >= 2, "no second frame", 20)
        if isinstance(ending, str):
            os.write(ours, b"q")
        else:
            process.send_signal(ending)

        assert process.wait(20) == 0
        times()
        assert b"Traceback" not in seen
        assert seen.rstrip().endswith(b"\x1b[?1049l")
        assert termios.tcgetattr(theirs) == before


@pytest.mark.usefixtures("everything")
def test_top_as_json_is_a_line_for_each_frame_with_rates() -> None:
    process = start_top("--json", "--interval", "0.2", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, process.stdout as lines:
        first = json.loads(lines.readline())
        with runtime() as app:
            accept(app)
        while not (found := json.loads(lines.readline()))["perSecond"]["requests"]:
            pass
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)

    assert (first["perSecond"], code) == ({}, 0)
    assert found["today"]["requests"] == 1


# What goes wrong must not look like `degraded`


@pytest.mark.usefixtures("everything")
def test_another_user_is_told_whose_database_it_is(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_allowed(path: Path, **_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", not_allowed)

    code, found = status()
    listed = chargeapp("requests", "list")

    assert (code, found["parts"]["database"]["status"]) == (2, "down")
    assert listed.status == 1
    assert listed.err == (
        f"chargeapp: {data_dir / 'chargeapp.db'} cannot be looked at. Run as the owner of {data_dir}\n"
    )


@pytest.mark.parametrize("trouble", [OSError(5, "Input/output error"), RuntimeError("a fault of ours")])
def test_whatever_goes_wrong_is_down(data_dir: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    monkeypatch.setattr(overview, "look", mock.Mock(side_effect=trouble))

    ended = chargeapp("status")

    assert ended.status == 2
    assert ended.err.endswith(f"chargeapp: {trouble}\n")


@pytest.mark.usefixtures("everything")
def test_a_full_disk_behind_its_output_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run([sys.executable, "-m", "chargeapp", "status"], stdout=full, stderr=subprocess.PIPE)

    assert (ended.returncode, ended.stderr) == (2, b"chargeapp: [Errno 28] No space left on device\n")


@pytest.mark.usefixtures("everything")
def test_top_writes_to_the_database_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = mock.Mock(wraps=overview.commit)
    monkeypatch.setattr(overview, "commit", commits)

    with runtime() as app:
        looks = live_screen.frames(app)
        shown = [next(looks)[0].parts[-2].found for _ in range(3)]

    assert shown == ["commits", "answers", "answers"]
    assert commits.call_count == 1
