"""The one place that reads the time; everything below takes `now` as an argument.

What waits goes by `utcnow()`, which no jump of the wall clock disturbs: it is PostgreSQL's time, or goes on where it
was, a twentieth faster or slower until it has caught up. What stands in a calendar, as the expiry of a key does, goes
by `wall_clock()`.
"""

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger("chargeapp")

# Less is an ordinary correction, which is followed at once.
TOLERATED_SECONDS = 5.0
# From so much on it is noted, so that several do not add up to a jump.
NOTED_SECONDS = 1.0
# A longer jump is followed at once: who just learned the date must not go by the wrong one for weeks.
LONGEST_SECONDS = 7200.0
# A call that is in time stays so: 30 seconds become 31.5, and the grace is 2.
CATCH_UP = 0.05
# Linux alone counts what the machine slept.
UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Course:
    """How `utcnow` goes since the wall clock jumped last, or since this machine was started."""

    boot: str
    offset: float
    """The wall clock less the seconds since the start of the machine, which nobody can set."""
    behind: float
    """How many seconds behind the wall clock it was `since` then."""
    since: float

    def behind_at(self, uptime: float) -> float:
        return math.copysign(max(0.0, abs(self.behind) - CATCH_UP * (uptime - self.since)), self.behind)

    def moved(self, offset: float) -> bool:
        return abs(offset - self.offset) > NOTED_SECONDS

    def jumped(self, offset: float) -> bool:
        return abs(offset - self.offset) > TOLERATED_SECONDS

    def going_on(self, offset: float, uptime: float) -> "Course":
        behind = self.behind_at(uptime) + (offset - self.offset if self.jumped(offset) else 0.0)
        return Course(self.boot, offset, behind if abs(behind) <= LONGEST_SECONDS else 0.0, uptime)


_course: Course | None = None
_note = Path()
_shared_time: Callable[[], datetime] | None = None


def wall_clock() -> datetime:
    return datetime.now(UTC)


def utcnow() -> datetime:
    if _shared_time is not None:
        return _shared_time()
    course = _course
    if course is None:
        return wall_clock()
    wall, uptime = time.time(), seconds_up()
    if course.moved(wall - uptime):
        course = _after_move(course)
    return datetime.fromtimestamp(wall - course.behind_at(uptime), UTC)


def seconds_behind() -> float:
    """How far `utcnow` is behind the wall clock; negative after that was set back."""
    return (wall_clock() - utcnow()).total_seconds()


def keep_steady(note: Path) -> None:
    """Once for each process. All with the same `note` agree, and so does one that starts after a jump."""
    global _course, _note, _shared_time  # noqa: PLW0603 - one process, one time
    _shared_time = None
    if not BOOT_ID.is_file():
        return
    _note = note
    _course = _noted()
    if _course is None:
        offset, uptime = _measured()
        _course = Course(_boot(), offset, behind=0.0, since=uptime)
        _write(_course)


def follow(shared_time: Callable[[], datetime]) -> None:
    """Where several hosts have to agree, they go by one clock."""
    global _shared_time  # noqa: PLW0603
    _shared_time = shared_time


def _after_move(known: Course) -> Course:
    """As whoever noticed it first has noted it."""
    global _course  # noqa: PLW0603
    offset, uptime = _measured()
    noted = _noted()
    # An older one is left from a time when nothing could be written.
    course = noted if noted is not None and noted.since > known.since else known
    if course.moved(offset):
        if course.jumped(offset):
            by = {"action": "clock_set", "seconds": round(offset - course.offset, 3)}
            log.warning("The clock was set while the machine ran", extra=by)
        course = course.going_on(offset, uptime)
        _write(course)
    _course = course
    return course


def _measured() -> tuple[float, float]:
    """The offset, and the uptime it belongs to: not from before and after a pause of this process."""
    while True:
        before, wall, uptime = seconds_up(), time.time(), seconds_up()
        if uptime - before < TOLERATED_SECONDS / 10:
            return wall - uptime, uptime


def seconds_up() -> float:
    return time.clock_gettime(UPTIME)


def _boot() -> str:
    return BOOT_ID.read_text().strip()


def _noted() -> Course | None:
    """None if there is nothing, or only of the time before the machine was started again."""
    try:
        course = Course(**json.loads(_note.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return course if course.boot == _boot() else None


def _write(course: Course) -> None:
    """Of two who notice a jump at once either may be the last: they say the same. Who cannot write goes on alone."""
    draft = _note.with_name(f"{_note.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        draft.write_text(json.dumps(asdict(course)))
        draft.replace(_note)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()


def epoch_millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def millis_since(started: float) -> int:
    """`started` is of the monotonic clock."""
    return round((time.monotonic() - started) * 1000)
