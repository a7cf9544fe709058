"""Failpoints: nothing without their directory, once each with it, and only where somebody reaches them."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chargeapp import failpoints
from chargeapp.errors import TemporaryFailure
from chargeapp.failpoints import FailpointReached

ROOT = Path(__file__).parents[2]


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Lay out what is to happen at a point."""
    directory = tmp_path / "failpoints"
    directory.mkdir()
    failpoints.look_in(directory)

    def lay_out(name: str, action: str) -> Path:
        file = directory / name
        file.write_text(action)
        return file

    yield lay_out
    failpoints.look_in(tmp_path / "nowhere")


def test_without_a_directory_nothing_happens(tmp_path: Path) -> None:
    failpoints.look_in(tmp_path / "failpoints")

    failpoints.reach("api.after_commit")


def test_a_point_that_is_not_armed_is_passed(arm: Callable[[str, str], Path]) -> None:
    arm("api.before_commit", "raise")

    failpoints.reach("api.after_commit")


@pytest.mark.parametrize("action", ["raise", "raise\n", "anything else"])
def test_an_armed_point_raises_once(arm: Callable[[str, str], Path], action: str) -> None:
    file = arm("relay.claimed", action)

    with pytest.raises(FailpointReached):
        failpoints.reach("relay.claimed")

    failpoints.reach("relay.claimed")
    assert list(file.parent.iterdir()) == []


def test_it_is_a_failure_that_may_pass() -> None:
    assert issubclass(FailpointReached, TemporaryFailure)


def test_kill_is_a_kill(arm: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    arm("job.claimed", "kill")

    failpoints.reach("job.claimed")

    assert sent == [(os.getpid(), signal.SIGKILL)]


def test_a_process_that_hangs_does_so_for_longer_than_a_lease(
    arm: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from chargeapp.storage.outbox import LEASE_SECONDS

    slept: list[float] = []
    monkeypatch.setattr(failpoints.time, "sleep", slept.append)
    arm("job.claimed", "hang")

    failpoints.reach("job.claimed")

    assert slept == [failpoints.HANG_SECONDS]
    assert failpoints.HANG_SECONDS > LEASE_SECONDS


def test_of_many_processes_one_gets_there_first(arm: Callable[[str, str], Path]) -> None:
    arm("job.dequeued", "raise")

    children = [fork_and_reach("job.dequeued") for _ in range(8)]
    ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]

    assert sorted(ended) == [0] * 7 + [1]


def fork_and_reach(name: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            failpoints.reach(name)
        except FailpointReached:
            os._exit(1)
        finally:
            os._exit(0)
    return pid


def test_the_drill_arms_exactly_the_points_there_are() -> None:
    code = [path for folder in ("chargeapp", "jobs") for path in (ROOT / folder).rglob("*.py")]
    reached = {name for path in code for name in re.findall(r'failpoints\.reach\("([^"]+)"\)', path.read_text())}
    armed = set(re.findall(r'"([a-z]+\.[a-z_]+)"', (ROOT / "scripts/drilling/failpoints.py").read_text()))

    assert reached == armed
