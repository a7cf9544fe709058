"""Real processes: a supervisor in a process of its own, watched from outside."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

DEADLINE_SECONDS = 20


class SupervisedScript:
    """A supervisor whose programs note `<name> start <pid>` and `<name> end <pid>` in `journal`."""

    PRELUDE = """
        import os, signal, sys, threading, time
        from pathlib import Path
        from chargeapp.commands.supervisor import Program, Supervisor

        journal = Path(sys.argv[1])

        def note(*words):
            with journal.open("a") as file:
                file.write(" ".join(map(str, words)) + "\\n")

        def until_sigterm(name, linger=0.0):
            def run():
                stopped = threading.Event()
                signal.signal(signal.SIGTERM, lambda *_: stopped.set())
                note(name, "start", os.getpid())
                while not stopped.wait(0.02):
                    pass
                time.sleep(linger)
                note(name, "end", os.getpid())
            return run

        def stubborn(name):
            def run():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                note(name, "start", os.getpid())
                while True:
                    signal.pause()
            return run
    """

    def __init__(self, folder: Path, body: str) -> None:
        self.journal = folder / "journal"
        self.journal.touch()
        self.script = folder / "supervised.py"
        self.script.write_text(textwrap.dedent(self.PRELUDE) + textwrap.dedent(body))
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", self.script, self.journal],
            stderr=self.errors,
            stdout=self.errors,
            start_new_session=True,
        )

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines()

    def pids(self, name: str) -> list[int]:
        return [int(line.split()[2]) for line in self.lines() if line.startswith(f"{name} start ")]

    def wait_for_start(self, name: str, times: int = 1) -> int:
        wait_until(lambda: len(self.pids(name)) >= times, self.output)
        return self.pids(name)[times - 1]

    def output(self) -> str:
        return Path(self.errors.name).read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)
        for line in self.lines():
            if line.split()[1] == "start":
                kill_if_there(int(line.split()[2]))
        self.errors.close()


def wait_until(condition: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.01)


def kill_if_there(pid: int) -> None:
    if is_running(pid):
        os.kill(pid, signal.SIGKILL)


def state_of(pid: int) -> str:
    """The letter that /proc gives: Z for a zombie; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_running(pid: int) -> bool:
    return state_of(pid) not in {"", "Z"}


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[[str], SupervisedScript]]:
    started: list[SupervisedScript] = []

    def start(body: str) -> SupervisedScript:
        started.append(SupervisedScript(tmp_path, body))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_each_program_is_seen_by_its_name(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise('Supervisor([Program("worker callbacks", until_sigterm("a"))]).run()')

    pid = script.wait_for_start("a")

    # The kernel keeps 15 bytes.
    assert Path(f"/proc/{pid}/comm").read_text() == "worker callback\n"


def test_whatever_ends_a_program_it_is_started_again_and_leaves_no_zombie(
    supervise: Callable[[str], SupervisedScript],
) -> None:
    script = supervise('Supervisor([Program("a", until_sigterm("a")), Program("b", until_sigterm("b"))]).run()')
    first = script.wait_for_start("a")
    script.wait_for_start("b")

    os.kill(first, signal.SIGKILL)
    second = script.wait_for_start("a", times=2)
    os.kill(second, signal.SIGTERM)
    third = script.wait_for_start("a", times=3)

    assert len(script.pids("b")) == 1
    assert sorted(children_of(script.process.pid)) == sorted([third, script.pids("b")[0]])
    assert "action=process_restarted" in script.output() or '"process_restarted"' in script.output()
    assert script.stop() == 0


def test_a_program_that_keeps_ending_quickly_waits_longer_each_time(
    supervise: Callable[[str], SupervisedScript],
) -> None:
    script = supervise(
        """
        def hasty():
            note("hasty", "start", os.getpid(), time.monotonic())
            raise SystemExit(3)

        Supervisor([Program("hasty", hasty)]).run()
        """
    )
    script.wait_for_start("hasty", times=5)
    times = [float(line.split()[3]) for line in script.lines()]

    pauses = [after - before for before, after in pairwise(times)]

    assert pauses[0] < pauses[3]
    assert [pause > least for pause, least in zip(pauses[1:4], (0.1, 0.2, 0.4), strict=True)] == [True] * 3
    assert "status=3" in script.output()
    assert script.stop() == 0


def test_what_lived_long_is_started_again_at_once(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise(
        """
        import chargeapp.commands.supervisor
        chargeapp.commands.supervisor.RELIABLE_AFTER_SECONDS = 0.0

        def hasty():
            note("hasty", "start", os.getpid(), time.monotonic())

        Supervisor([Program("hasty", hasty)]).run()
        """
    )

    # With growing pauses these would take more than a minute.
    script.wait_for_start("hasty", times=20)

    assert script.stop() == 0


def test_redis_stops_after_everything_that_needs_it(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise(
        """
        Supervisor([
            Program("redis", until_sigterm("redis"), stop_last=True),
            Program("slow", until_sigterm("slow", linger=0.5)),
            Program("quick", until_sigterm("quick")),
        ]).run()
        note("supervisor", "returned", 0)
        """
    )
    for name in ("redis", "slow", "quick"):
        script.wait_for_start(name)

    assert script.stop() == 0

    ends = [line.split()[0] for line in script.lines() if line.split()[1] in {"end", "returned"}]
    assert ends == ["quick", "slow", "redis", "supervisor"]


def test_ctrl_c_in_the_terminal_is_an_orderly_stop(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise('Supervisor([Program("a", until_sigterm("a"))]).run()')
    pid = script.wait_for_start("a")

    # What the terminal does: to everything in the foreground group.
    os.killpg(script.process.pid, signal.SIGINT)

    assert script.process.wait(DEADLINE_SECONDS) == 0
    assert script.lines()[-1] == f"a end {pid}"


def test_what_does_not_stop_in_time_is_killed(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise(
        """
        programs = [Program("a", stubborn("a")), Program("r", until_sigterm("r"), stop_last=True)]
        Supervisor(programs, stop_seconds=2.3).run()
        """
    )
    pid = script.wait_for_start("a")
    script.wait_for_start("r")

    assert script.stop() == 0

    assert not is_running(pid)
    assert script.lines()[-1].startswith("r end")


def test_a_second_ctrl_c_kills_at_once(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise('Supervisor([Program("a", stubborn("a"))]).run()')
    pid = script.wait_for_start("a")
    script.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Stopping" in script.output(), script.output)
    started_at = time.monotonic()

    assert script.stop(signal.SIGINT) == 0

    assert time.monotonic() - started_at < 5
    assert not is_running(pid)


def test_nothing_outlives_a_killed_supervisor(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise('Supervisor([Program("a", until_sigterm("a")), Program("b", until_sigterm("b"))]).run()')
    pids = [script.wait_for_start("a"), script.wait_for_start("b")]

    script.process.kill()

    wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_what_a_killed_program_started_itself_ends_too(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise(
        """
        def master():
            if os.fork() == 0:
                until_sigterm("worker")()
                os._exit(0)
            until_sigterm("master")()

        Supervisor([Program("master", master)]).run()
        """
    )
    master, worker = script.wait_for_start("master"), script.wait_for_start("worker")

    os.kill(master, signal.SIGKILL)

    wait_until(lambda: not Path(f"/proc/{worker}").exists(), script.output)
    script.wait_for_start("master", times=2)
    assert script.stop() == 0


def test_a_program_for_once_is_started_again_only_after_a_failure(
    supervise: Callable[[str], SupervisedScript],
) -> None:
    script = supervise(
        """
        from chargeapp.errors import MisconfiguredError

        def announce():
            note("announce", "start", os.getpid())
            attempt = len([line for line in journal.read_text().splitlines() if line.startswith("announce")])
            if attempt == 1:
                raise MisconfiguredError("PORT: not free yet")
            if attempt == 2:
                raise ValueError("a fault")
            if attempt == 3:
                sys.exit("in words")

        Supervisor([Program("announce", announce, once=True), Program("a", until_sigterm("a"))]).run()
        """
    )
    script.wait_for_start("announce", times=4)
    kept = script.wait_for_start("a")

    wait_until(lambda: children_of(script.process.pid) == [kept], script.output)

    assert script.stop() == 0
    assert len(script.pids("announce")) == 4
    assert "PORT: not free yet" in script.output()
    assert "ValueError: a fault" in script.output()
    assert script.output().count("Traceback") == 1


def test_a_fork_that_fails_is_tried_again(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise(
        """
        fork, failures = os.fork, [OSError("no more processes")] * 2

        def scarce():
            if failures:
                raise failures.pop()
            return fork()

        os.fork = scarce
        Supervisor([Program("a", until_sigterm("a"))]).run()
        """
    )

    script.wait_for_start("a")

    assert script.output().count("no more processes") == 2
    assert script.stop() == 0


def test_under_nohup_a_closed_terminal_changes_nothing(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise(
        """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        Supervisor([Program("a", until_sigterm("a"))]).run()
        """
    )
    pid = script.wait_for_start("a")

    script.process.send_signal(signal.SIGHUP)
    os.kill(pid, signal.SIGKILL)

    script.wait_for_start("a", times=2)
    assert script.stop() == 0


def test_a_child_from_before_is_no_zombie_either(supervise: Callable[[str], SupervisedScript]) -> None:
    script = supervise(
        """
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            os.close(write_end)
            os.read(read_end, 1)  # until every writer has ended, the programs below included
            os._exit(0)
        os.close(read_end)

        def release():
            os.close(write_end)

        os.register_at_fork(after_in_parent=lambda: os.close(write_end))
        Supervisor([Program("a", lambda: (release(), until_sigterm("a")()))]).run()
        """
    )
    pid = script.wait_for_start("a")

    wait_until(lambda: children_of(script.process.pid) == [pid], script.output)

    assert script.stop() == 0
