"""The queue of writers: in turn over threads and processes, and for no longer than the limit."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.builders import eventually, in_time

from chargeapp.errors import DatabaseUnavailable
from chargeapp.storage import fair_gate
from chargeapp.storage.fair_gate import FairGate


def test_writers_get_in_one_at_a_time(tmp_path: Path) -> None:
    gate = FairGate(tmp_path / "lock")
    inside, most = [], []

    def enter() -> None:
        for _ in range(20):
            with gate.hold():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gate.close()

    assert max(most) == 1
    assert len(most) == 80


def test_a_thread_that_waits_for_too_long_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_gate, "BUSY_SECONDS", 0.1)
    gate = FairGate(tmp_path / "lock")

    def enter() -> None:
        with gate.hold():
            pass

    with gate.hold():
        assert isinstance(in_time(enter, 3), DatabaseUnavailable)
    gate.close()


def test_whoever_gave_up_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, impatient, third = (FairGate(tmp_path / "lock") for _ in range(3))
    with first.hold():
        monkeypatch.setattr(fair_gate, "BUSY_SECONDS", 0.1)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable), impatient.hold():
                pass
        monkeypatch.undo()
    for gate in (third, impatient, third):
        with gate.hold():
            pass
        gate.close()


class TimeIsUpError(Exception):
    """As RQ ends a job: raised by a signal, in the middle of anything."""


def test_a_waiting_that_a_signal_ends_keeps_nobody_out(tmp_path: Path) -> None:
    def end(*_: object) -> None:
        raise TimeIsUpError

    first, ended, third = (FairGate(tmp_path / "lock") for _ in range(3))
    before = signal.signal(signal.SIGALRM, end)
    try:
        with first.hold():
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(TimeIsUpError), ended.hold():
                pass
    finally:
        signal.signal(signal.SIGALRM, before)
    for gate in (third, ended, first):
        with gate.hold():
            pass
        gate.close()


def test_a_gate_that_is_closed_while_it_queues_leaves_nothing_open(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first, second = FairGate(lock), FairGate(lock)
    with first.hold():
        with pytest.MonkeyPatch.context() as patch, pytest.raises(DatabaseUnavailable):
            patch.setattr(fair_gate, "BUSY_SECONDS", 0.1)
            with second.hold():
                pass
        second.close()
    first.close()

    eventually(lambda: not open_files(lock), "still open")


def open_files(path: Path) -> list[Path]:
    return [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink() and each.readlink() == path]


def test_a_child_does_not_share_the_lock_of_its_parent(tmp_path: Path) -> None:
    # Forked in a process of its own: this one has threads.
    script = """
import fcntl, os, sys
from pathlib import Path
from chargeapp.errors import DatabaseUnavailable
from chargeapp.storage import fair_gate
fair_gate.BUSY_SECONDS = 0.3
gate = fair_gate.FairGate(Path(sys.argv[1]))
with gate.hold():
    pass
child = os.fork()
if child == 0:
    with gate.hold():
        other = os.open(sys.argv[1], os.O_RDWR)
        try:
            fcntl.flock(gate._file if gate._owner == os.getppid() else other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os._exit(1)
        except BlockingIOError:
            print("held", flush=True)
            sys.stdin.readline()
    os._exit(0)
import time
time.sleep(0.3)
try:
    with gate.hold():
        print("entered", flush=True)
except DatabaseUnavailable:
    print("kept out", flush=True)
os.write(int(sys.argv[2]), b"go\\n")
os.waitpid(child, 0)
with gate.hold():
    print("entered", flush=True)
gate.close()
"""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "lock"), str(writing)],
        stdin=reading,
        stdout=subprocess.PIPE,
        pass_fds=[writing],
        text=True,
    )
    os.close(writing)
    os.close(reading)
    output, _ = process.communicate(timeout=20)

    assert output.splitlines() == ["held", "kept out", "entered"]


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    gate = FairGate(tmp_path)  # a directory

    with pytest.raises(DatabaseUnavailable, match="cannot be opened"), gate.hold():
        pass
