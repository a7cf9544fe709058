"""Kills and stops processes of the deployment, harms its broker and its database; notes every fault with its time."""

import asyncio
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from drilling.deployment import Deployment, Process
from drilling.plans import Plan

LEASE_SECONDS = 60.0
BACK_SECONDS = 15.0
SHORT_PAUSE_SECONDS = (1.0, 4.0)


@dataclass
class Faults:
    """What was done, and when (seconds after `began`)."""

    began: float = field(default_factory=time.monotonic)
    timeline: list[tuple[float, str]] = field(default_factory=list)
    long_pauses: int = 0

    def note(self, what: str) -> None:
        self.timeline.append((round(time.monotonic() - self.began, 1), what))

    @property
    def counts(self) -> Counter[str]:
        return Counter(what for _, what in self.timeline)

    def kills_of(self, *prefixes: str) -> int:
        wanted = tuple(f"kill {prefix}" for prefix in prefixes)
        return sum(count for what, count in self.counts.items() if what.startswith(wanted))

    @property
    def kills(self) -> int:
        """Of API, relay and workers; broker and database are counted apart."""
        return self.kills_of("web", "relay", "worker")


class Chaos:
    def __init__(self, deployment: Deployment, plan: Plan, seed: int, faults: Faults) -> None:
        self._deployment = deployment
        self._plan = plan
        self._random = random.Random(f"chaos {seed}")
        self._faults = faults
        self._bag: list[str] = []
        self._paused: set[int] = set()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self, loading: Callable[[], bool]) -> None:
        """While the load goes on, and after it until there were as many kills as planned."""
        assert self._plan.seconds_between_kills is not None
        expected = self._plan.accepted / self._plan.rate
        others = self._schedule(expected)
        began = time.monotonic()
        tick = 0
        async with asyncio.TaskGroup() as group:
            while loading() or not self._enough() or others:
                tick += 1
                await asyncio.sleep(max(0.0, began + tick * self._plan.seconds_between_kills - time.monotonic()))
                while others and others[0][0] <= time.monotonic() - began:
                    group.create_task(self._other(others.pop(0)[1]))
                if loading() or not self._enough():
                    self._kill_one()

    def _enough(self) -> bool:
        return self._faults.kills >= self._plan.kills and all(
            self._faults.kills_of(each) >= self._plan.kills_of_each for each in self._plan.victims
        )

    def _schedule(self, seconds: float) -> list[tuple[float, str]]:
        """Spread over the middle of the load, in the order of their time."""
        wanted = {
            "pause": self._plan.pauses,
            "long pause": self._plan.long_pauses,
            **self._plan.faults(self._deployment.faults),
        }
        each = [
            (self._random.uniform(0.1, 0.9) * seconds, what) for what, times in wanted.items() for _ in range(times)
        ]
        return sorted(each)

    def _kill_one(self) -> None:
        present = {each.kind: each for each in self._shuffled() if each.pid not in self._paused}
        if not self._bag:
            self._bag = self._random.sample(self._plan.bag, len(self._plan.bag))
        # One that is just being restarted keeps its turn, unless only such ones are left: turns that piled up during a
        # long pause would kill it again and again as soon as it is back, and never let it work.
        for position, kind in enumerate(self._bag):
            if (victim := present.get(kind)) and self._deployment.signal(victim, signal.SIGKILL):
                del self._bag[position]
                self._faults.note(f"kill {kind}")
                return
        self._bag.clear()

    def _shuffled(self) -> list[Process]:
        found = sorted(self._deployment.processes(), key=lambda each: each.pid)
        return self._random.sample(found, len(found))

    async def _other(self, what: str) -> None:
        if what.endswith("pause"):
            await self._pause(long=what == "long pause")
            return
        harm = self._deployment.faults[what]
        # One that comes while its victim is just being restarted waits for it. A rebalance lasts, and others go on.
        victim = "database" if what in self._deployment.store.faults else "broker"
        lock = self._locks[what if what == "rebalance" else victim]
        async with lock:
            give_up_at = time.monotonic() + BACK_SECONDS
            while time.monotonic() < give_up_at:
                if await asyncio.to_thread(harm):
                    self._faults.note(what)
                    return
                await asyncio.sleep(0.1)

    async def _pause(self, *, long: bool) -> None:
        kinds = ("worker",) if long else ("worker", "relay", "web worker")
        victim = next((each for each in self._shuffled() if each.kind.startswith(kinds)), None)
        if victim is None or victim.pid in self._paused:
            return
        seconds = LEASE_SECONDS + 10 if long else self._random.uniform(*SHORT_PAUSE_SECONDS)
        with self._deployment.paused(victim) as stopped:
            if not stopped:
                return
            self._paused.add(victim.pid)
            self._faults.note(f"{'long pause' if long else 'pause'} {victim.kind}")
            self._faults.long_pauses += long
            try:
                await asyncio.sleep(seconds)
            finally:
                self._paused.discard(victim.pid)
