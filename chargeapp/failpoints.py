"""Places where the drill makes a process die, raise or hang. Without a `failpoints` directory they do nothing.

A file `<data directory>/failpoints/<name>` that says `kill`, `raise` or `hang` is used up by the first process that
gets there, so that its successor gets past.
"""

import os
import signal
import time
from pathlib import Path

from chargeapp.errors import TemporaryFailure

# Longer than a lease, so that somebody else takes over meanwhile.
HANG_SECONDS = 65.0

_directory: Path | None = None


class FailpointReached(TemporaryFailure):
    """The drill wanted a failure here."""


def look_in(directory: Path) -> None:
    """Once for each process, at its start."""
    global _directory  # noqa: PLW0603 - one process, one place to look; and nothing to pay where there is none
    _directory = directory if directory.is_dir() else None


def reach(name: str) -> None:
    if _directory is None:
        return
    used = _directory / f".{name}.{os.getpid()}"
    try:
        (_directory / name).rename(used)
        action = used.read_text().strip()
        used.unlink()
    except OSError:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "hang":
        time.sleep(HANG_SECONDS)
    else:
        raise FailpointReached
