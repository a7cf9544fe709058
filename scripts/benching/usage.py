"""CPU time and memory of processes by their kind, from /proc."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 2**20


def cpu_seconds(kinds: Mapping[int, str]) -> dict[str, float]:
    """Used so far, by kind; what has gone does not count."""
    used: dict[str, float] = defaultdict(float)
    for kind, text in _each(kinds, "stat"):
        words = text.rpartition(")")[2].split()
        used[kind] += (int(words[11]) + int(words[12])) / TICKS
    return used


def resident_mib(kinds: Mapping[int, str]) -> dict[str, float]:
    """The largest process of each kind; what it shares with others is counted in full."""
    largest: dict[str, float] = defaultdict(float)
    for kind, text in _each(kinds, "statm"):
        largest[kind] = max(largest[kind], int(text.split()[1]) * PAGE / MIB)
    return largest


def _each(kinds: Mapping[int, str], file: str) -> Iterator[tuple[str, str]]:
    for pid, kind in kinds.items():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield kind, Path(f"/proc/{pid}/{file}").read_text()


def machine_seconds() -> tuple[float, float]:
    """Of all cores together since the machine started: busy, and stolen by others on the same host."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _waiting, irq, softirq, steal = ticks[:8]
    return (user + nice + system + irq + softirq) / TICKS, steal / TICKS
