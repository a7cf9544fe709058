"""Doing something again and again until a key or a signal ends it, with the terminal as it was afterwards."""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chargeapp.commands.overview import Overview, look
from chargeapp.commands.overview_screen import COUNTED
from chargeapp.commands.printing import stop_output
from chargeapp.runtime import Runtime

QUIT = b"q"


def frames(runtime: Runtime) -> Iterator[tuple[Overview, dict[str, float]]]:
    """An overview, and what was counted per second since the one before."""
    before: Overview | None = None
    while True:
        # Once is enough to know whether it commits: a watcher must not write to the disk all day.
        found = look(runtime, commits=before is None)
        yield found, _rates(before, found)
        before = found


def _rates(before: Overview | None, found: Overview) -> dict[str, float]:
    if before is None or not before.today or not found.today:
        return {}
    seconds = (found.at - before.at).total_seconds()
    # At midnight the day begins anew.
    return {name: max(0, found.today[name] - before.today[name]) / seconds for name in COUNTED.values()}


def watch(show: Callable[[], None], interval_seconds: float, *, once: bool = False) -> None:
    """Until `q`, SIGINT, SIGTERM, or nobody reads the output any more."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _keys() as pressed:
            show()
            while not once and not pressed(interval_seconds):
                show()
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        stop_output()
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Yields what waits for so many seconds, and tells whether `q` was pressed meanwhile."""
    if not sys.stdin.isatty():
        yield _slept
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield lambda seconds: _quit_within(terminal, seconds)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _quit_within(terminal: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            typed = os.read(terminal, 64)
            if not typed or QUIT in typed.lower():
                return True
    return False


def _slept(seconds: float) -> bool:
    time.sleep(seconds)
    return False
