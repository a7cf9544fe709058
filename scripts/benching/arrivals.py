"""Callbacks of one load as they come in, read from the receiver's log."""

import time
from collections.abc import Callable
from pathlib import Path

from benching.programs import wait_until

QUIET_SECONDS = 1.0


class Arrivals:
    """Those whose name begins with `tag`, each with the epoch seconds of its first arrival."""

    def __init__(self, log: Path, tag: str) -> None:
        self.first: dict[str, float] = {}
        self.repeated = 0
        self._log = log
        self._tag = tag
        self._position = log.stat().st_size
        self._last_at = time.monotonic()

    def read(self) -> int:
        """How many different ones have come so far."""
        with self._log.open("rb") as lines:
            lines.seek(self._position)
            new = lines.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._position += len(complete)
        for line in complete.decode().splitlines():
            at, _, name = line.partition(" ")
            if name.startswith(self._tag):
                self.repeated += name in self.first
                self.first.setdefault(name, float(at))
                self._last_at = time.monotonic()
        return len(self.first)

    def wait(self, count: int, seconds: float, show: Callable[[int], None] | None = None) -> None:
        """Until `count` have come and no more come; raises TimeoutError."""

        def complete() -> bool:
            seen = self.read()
            if show:
                show(seen)
            # What was under way when the load ended may still come, though nobody was told of it.
            return seen >= count and time.monotonic() - self._last_at > QUIET_SECONDS

        wait_until(complete, f"{count} callbacks did not arrive", seconds, pause=0.2)

    def sorted(self) -> list[float]:
        return sorted(self.first.values())
