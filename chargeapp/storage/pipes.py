"""Wake-ups beside an SQLite file: processes on one machine, without waiting and without a broker.

Every listener has a named pipe of its own; ringing writes a byte into those of the queue. A lost ring costs at most
the relay's next look, so nothing here is durable.
"""

import contextlib
import os
import select
import uuid
from pathlib import Path
from types import TracebackType


class Pipes:
    """`directory` is shared by all processes of one deployment on this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def ring(self, queue: str) -> bool:
        """Wake the jobs that wait for more of this queue, or else the relay; False if nobody heard it."""
        return self._ring(f"{queue}@") or self._ring("relay@")

    def ring_early(self, queue: str) -> bool:
        """The relay hears nothing: it looks without waiting for its turn, and so would look too early."""
        return self._ring(f"{queue}@")

    def listen(self, name: str) -> "Bell":
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Bell(self._directory / f"{name}@{uuid.uuid4().hex}")

    def attended(self, queue: str) -> bool:
        """Whether a job waits for more of this queue."""
        return bool(self._pipes(f"{queue}@"))

    def _ring(self, prefix: str) -> bool:
        heard = [_write(f"{self._directory}/{name}") for name in self._pipes(prefix)]
        return any(heard)

    def _pipes(self, prefix: str) -> list[str]:
        try:
            names = os.listdir(self._directory)  # noqa: PTH208 - on the way of each request
        except OSError:
            # A ring may be lost, the request that rings must not be.
            return []
        return [name for name in names if name.startswith(prefix)]


class Bell:
    """One listener's pipe; a context manager that takes it away at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        hidden = path.with_name("." + path.name)
        os.mkfifo(hidden, mode=0o600)
        # Opened for writing too, so that it never reports an end of file.
        self._pipe = os.open(hidden, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        # Whoever finds a pipe that nobody has open takes it away, so it is shown only now.
        hidden.rename(path)

    def ring(self) -> None:
        with contextlib.suppress(OSError):  # Full: rung often enough. Closed: nobody waits any more.
            os.write(self._pipe, b"!")

    def wait(self, seconds: float) -> bool:
        """True once it was rung; any number of rings before the call count as one."""
        readable, _, _ = select.select([self._pipe], [], [], max(0.0, seconds))
        if readable:
            os.read(self._pipe, 65_536)
        return bool(readable)

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        pipe, self._pipe = self._pipe, -1
        os.close(pipe)

    def __enter__(self) -> "Bell":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _write(path: str) -> bool:
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # Nobody has it open: the listener was killed, or has just gone.
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        return False
    try:
        os.write(pipe, b"!")
    except BlockingIOError:
        pass  # A full pipe has been rung often enough.
    except OSError:
        return False  # The listener left between the two calls.
    finally:
        os.close(pipe)
    return True
