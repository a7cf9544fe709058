"""A program of the bench's own: started with a log, awaited, ended by its pid."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from drilling.deployment import children_of

START_SECONDS = 60.0
STOP_SECONDS = 30.0
HOST = "127.0.0.1"


class DidNotStart(RuntimeError):  # noqa: N818 - says what happened
    """The end of its log says why."""


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Meanwhile it runs in a session of its own; afterwards it and its children have ended."""
    with log.open("ab") as output:
        program = subprocess.Popen(  # noqa: S603 - programs named in the code
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield program
    finally:
        end(program)


def end(program: subprocess.Popen[bytes]) -> None:
    if program.returncode is not None:
        return
    if not has_ended(program):
        program.terminate()
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: has_ended(program), "no orderly end", STOP_SECONDS)
    # Whatever of its session outlived it. Nobody else can have the number as long as nobody waited for it.
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def has_ended(program: subprocess.Popen[bytes]) -> bool:
    """Without taking its exit status: its number stays its own."""
    return os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait_until(condition: Callable[[], bool], what: str, seconds: float, pause: float = 0.05) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {seconds:g} s")
        time.sleep(pause)


def wait_for_port(program: subprocess.Popen[bytes], port: int, log: Path) -> None:
    def listens() -> bool:
        if has_ended(program):
            raise DidNotStart(f"{_name(program)} ended:\n{log.read_text()[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex((HOST, port)) == 0

    wait_until(listens, f"{_name(program)} did not listen on port {port}", START_SECONDS)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(below for child in children_of(pid) for below in family(child))]


def _name(program: subprocess.Popen[bytes]) -> str:
    return str(program.args[0] if isinstance(program.args, list) else program.args)
