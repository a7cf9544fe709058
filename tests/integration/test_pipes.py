"""Wake-ups by named pipes: never in the way, and nothing is left behind."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from chargeapp.storage.pipes import Pipes

LISTENER = """
import sys, time
from pathlib import Path
from chargeapp.storage.pipes import Pipes
bell = Pipes(Path(sys.argv[1])).listen("relay")
print("listening", flush=True)
time.sleep(60)
"""


@pytest.fixture
def wakeups(tmp_path: Path) -> Pipes:
    return Pipes(tmp_path / "wakeups")


def test_a_ring_never_waits_though_nobody_empties_the_pipe(wakeups: Pipes) -> None:
    with wakeups.listen("relay") as bell:
        os.set_blocking(bell._pipe, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(bell._pipe, bytes(65_536))
        assert wakeups.ring("authorization")
        bell.ring()
        assert bell.wait(0)


def test_an_early_ring_is_heard_by_jobs_alone(wakeups: Pipes) -> None:
    with wakeups.listen("relay") as relay:
        assert not wakeups.ring_early("callbacks")
        with wakeups.listen("callbacks") as job:
            assert wakeups.ring_early("callbacks")
            assert job.wait(0)
        assert not relay.wait(0)


def test_a_closed_listener_leaves_nothing(wakeups: Pipes, tmp_path: Path) -> None:
    with wakeups.listen("relay") as bell:
        pass

    assert list((tmp_path / "wakeups").iterdir()) == []
    assert not wakeups.ring("authorization")
    bell.ring()  # by a thread that ends later


def test_the_pipe_of_a_killed_listener_is_cleaned_away(wakeups: Pipes, tmp_path: Path) -> None:
    directory = tmp_path / "wakeups"
    listener = subprocess.Popen([sys.executable, "-c", LISTENER, directory], stdout=subprocess.PIPE)
    assert listener.stdout is not None
    listener.stdout.readline()
    assert wakeups.attended("relay")
    listener.kill()
    listener.communicate()
    assert len(list(directory.iterdir())) == 1

    assert not wakeups.ring("authorization")
    assert list(directory.iterdir()) == []


def test_only_the_owner_may_ring(wakeups: Pipes, tmp_path: Path) -> None:
    with wakeups.listen("relay"):
        (pipe,) = (tmp_path / "wakeups").iterdir()
        assert stat.S_IMODE(pipe.stat().st_mode) == 0o600
        assert stat.S_IMODE(pipe.parent.stat().st_mode) == 0o700


def test_a_ring_in_a_place_that_is_no_directory_is_not_heard_and_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "wakeups").write_text("in the way")

    assert not Pipes(tmp_path / "wakeups").ring("authorization")


def test_a_listener_that_leaves_while_it_is_rung_costs_only_the_ring(
    wakeups: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bell = wakeups.listen("callbacks")
    open_pipe = os.open

    def open_and_see_it_leave(path: str, flags: int) -> int:
        pipe = open_pipe(path, flags)
        bell.close()
        return pipe

    monkeypatch.setattr("chargeapp.storage.pipes.os.open", open_and_see_it_leave)

    assert wakeups.ring("callbacks") is False
