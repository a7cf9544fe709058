"""Makes processes die, raise or hang at every failpoint, several times each."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from drilling.chaos import Faults

ACTIONS = ("kill", "raise", "hang")
# Points of one lane stop the same processes, so they take turns. The first lane goes alone: callbacks of the burst
# after a hanging API are under way side by side, and one death would repeat them all. The others go on side by side.
LANES = (
    ("api.before_commit", "api.after_commit"),
    ("relay.claimed", "relay.published", "relay.recovery"),
    ("job.dequeued", "job.claimed", "job.committed"),
    (
        "authorization.before_call",
        "authorization.after_call",
        "callback.before_send",
        "call.sent",
        "callback.answered",
    ),
)
POINTS = tuple(point for lane in LANES for point in lane)
# Everybody may be hanging somewhere else for a lease's time, twice.
REACHED_SECONDS = 400.0
REST_SECONDS = 0.5
# What the API held up is let in at once, and has to be through before the next fault.
REST_AFTER_API_HANG_SECONDS = 10.0


@dataclass
class Failpoints:
    directory: Path
    repeats: int
    faults: Faults
    reached: dict[str, int] = field(default_factory=dict)
    _last_fault: float = 0.0

    @property
    def total(self) -> int:
        return len(POINTS) * len(ACTIONS) * self.repeats

    @property
    def done(self) -> int:
        return sum(self.reached.values())

    def prepare(self) -> None:
        """Before the deployment starts: a process looks for the directory only then."""
        self.directory.mkdir(mode=0o700)
        self.reached = {f"{point} {action}": 0 for point in POINTS for action in ACTIONS}

    async def run(self) -> None:
        api, *others = LANES
        await self._go_through(api)
        async with asyncio.TaskGroup() as group:
            for lane in others:
                group.create_task(self._go_through(lane))

    async def _go_through(self, lane: tuple[str, ...]) -> None:
        for action in ACTIONS:
            for point in lane:
                for _ in range(self.repeats):
                    await self._reach(point, action)

    async def _reach(self, point: str, action: str) -> None:
        armed = self.directory / point
        draft = self.directory / f".{point}.armed"
        draft.write_text(action)
        draft.rename(armed)
        deadline = time.monotonic() + REACHED_SECONDS
        while armed.exists():
            if time.monotonic() > deadline:
                armed.unlink(missing_ok=True)
                return
            await asyncio.sleep(0.02)
        self.reached[f"{point} {action}"] += 1
        self.faults.note(f"{action} at {point}")
        hung = action == "hang" and point.startswith("api.")
        await asyncio.sleep(REST_AFTER_API_HANG_SECONDS if hung else REST_SECONDS)
