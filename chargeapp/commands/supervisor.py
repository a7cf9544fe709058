"""Keeps programs running: each is forked from this warm process and started again whatever ended it."""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from chargeapp.errors import ChargeappError
from chargeapp.logs import get_logger

log = get_logger()

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
# Longer than a start takes: what worked once and died starts again at once.
RELIABLE_AFTER_SECONDS = 3.0
LONGEST_DELAY_SECONDS = 5.0
LAST_STOP_SECONDS = 2.0


@dataclass(frozen=True)
class Program:
    """`run` blocks until SIGTERM. `stop_last`: the others need it to the end. `once`: it may end well by itself."""

    name: str
    run: Callable[[], None]
    stop_last: bool = False
    once: bool = False


class Supervisor:
    """Start it in a process without threads and without open connections: its children inherit everything.

    `stop_seconds` is for an orderly stop of all; the last two of them belong to the programs that stop last.
    """

    def __init__(self, programs: Sequence[Program], *, stop_seconds: float = 20.0) -> None:
        self._programs = programs
        self._stop_seconds = stop_seconds
        self._running: dict[int, tuple[Program, float]] = {}
        self._due: dict[Program, float] = {}
        self._quick_ends: Counter[Program] = Counter()
        self._killing = False
        self._stops = {signal.SIGTERM, signal.SIGINT}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it is
            self._stops.add(signal.SIGHUP)
        self._signals = {*self._stops, signal.SIGCHLD}

    def run(self) -> None:
        """Keep every program running until SIGTERM, SIGINT or SIGHUP; when this returns, all have ended."""
        # Blocked and waited for, so that none arrives at an awkward moment.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        try:
            self._due = dict.fromkeys(self._programs, 0.0)
            received = None
            while received not in self._stops:
                self._start_due()
                received = self._wait(min(self._due.values(), default=None))
                self._reap(restart=True)
            self._stop()
        finally:
            self._kill_all()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start_due(self) -> None:
        for program, due_at in list(self._due.items()):
            if due_at <= time.monotonic():
                del self._due[program]
                self._start(program)

    def _start(self, program: Program) -> None:
        supervisor = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            log.error("Process not started", action="process_not_started", program=program.name, error=str(error))
            self._postpone(program)
            return
        if pid == 0:
            _become(program, supervisor, self._signals)
        self._running[pid] = (program, time.monotonic())

    def _postpone(self, program: Program) -> None:
        """At once the first time, then after 0.1, 0.2, 0.4, ... seconds while it keeps ending quickly."""
        ends = self._quick_ends[program]
        delay = min(0.1 * 2 ** min(ends - 1, 10), LONGEST_DELAY_SECONDS) if ends else 0.0
        self._quick_ends[program] += 1
        self._due[program] = time.monotonic() + delay

    def _reap(self, *, restart: bool) -> None:
        while self._running and (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
            if ended.si_pid in self._running:
                # What it left behind would keep its port, even a stopped process; while the zombie is kept, nobody else
                # can have its group's number.
                _signal_group(ended.si_pid, signal.SIGKILL)
            _, wait_status = os.waitpid(ended.si_pid, 0)
            if ended.si_pid not in self._running:
                continue
            program, started_at = self._running.pop(ended.si_pid)
            status = os.waitstatus_to_exitcode(wait_status)
            if program.once and status == 0:
                log.debug("Process ended", action="process_ended", program=program.name, status=status)
                continue
            if not restart:
                log.info("Process ended", action="process_ended", program=program.name, status=status)
                continue
            log.warning("Process ended, restarting", action="process_restarted", program=program.name, status=status)
            if time.monotonic() - started_at >= RELIABLE_AFTER_SECONDS:
                del self._quick_ends[program]
            self._postpone(program)

    def _wait(self, until: float | None) -> signal.Signals | None:
        """The next signal, or None when `until` (monotonic) has come first."""
        if until is None:
            return signal.Signals(signal.sigwait(self._signals))
        received = signal.sigtimedwait(self._signals, max(until - time.monotonic(), 0))
        return signal.Signals(received.si_signo) if received else None

    def _stop(self) -> None:
        log.info("Stopping", action="supervisor_stopping", programs=len(self._running))
        deadline = time.monotonic() + self._stop_seconds
        self._end({pid for pid, (each, _) in self._running.items() if not each.stop_last}, deadline - LAST_STOP_SECONDS)
        self._end(set(self._running), deadline)

    def _end(self, pids: set[int], deadline: float) -> None:
        """Ask them to end and wait; a Ctrl-C meanwhile, or the deadline, ends them by force."""
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        while (left := pids & self._running.keys()) and not self._killing:
            if time.monotonic() >= deadline:
                names = sorted(self._running[pid][0].name for pid in left)
                log.warning("Killing what did not stop in time", action="processes_killed", programs=names)
                break
            self._killing = self._wait(deadline) is signal.SIGINT
            self._reap(restart=False)
        for pid in pids & self._running.keys():
            _signal_group(pid, signal.SIGKILL)

    def _kill_all(self) -> None:
        """Whatever happened, nothing stays behind; usually nothing is left."""
        while self._running:
            for pid in self._running:
                _signal_group(pid, signal.SIGKILL)
            self._wait(time.monotonic() + 0.1)
            self._reap(restart=False)


def _become(program: Program, supervisor: int, signals: set[signal.Signals]) -> NoReturn:
    """Be the program in the forked child: own session, default signals, and no life without the supervisor."""
    status = 1
    try:
        # Ctrl-C in the terminal reaches the supervisor alone, which then stops everything in order.
        os.setsid()
        _end_with(supervisor)
        _show_name(program.name)
        # A Ctrl-C from before setsid is dropped by ignoring it for a moment.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        program.run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except ChargeappError as error:
        log.error(str(error), action="process_failed", program=program.name)
    except BaseException:
        log.exception("Process failed", action="process_failed", program=program.name)
    finally:
        # With the terminal gone there is nobody left to print for.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _end_with(supervisor: int) -> None:
    """Have the kernel send SIGTERM when the supervisor dies, however it dies. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:
        sys.exit("The supervisor has ended already.")


def _show_name(name: str) -> None:
    """In what `top` and `ps -e` print, as far as 15 bytes go. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
