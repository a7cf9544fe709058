"""One system saturated: as much as goes in for some seconds, and what comes out until nothing is left."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from drilling.progress import Phase

from benching.arrivals import Arrivals
from benching.figures import longest_ahead, waiting
from benching.load import Posted, new_tag, post_with_wrk
from benching.programs import family
from benching.systems import System
from benching.usage import cpu_seconds, machine_seconds
from benching.workbench import Workbench

CONNECTIONS = 32


@dataclass(frozen=True)
class Saturation:
    """One load and its drain. CPU in milliseconds for each delivered request; moments in seconds since its begin.

    Cores busy, with whatever else runs on the machine, and taken by other machines are those of the load alone.
    """

    posted: Posted
    accepted_at: list[float]
    delivered_at: list[float]
    cpu_millis: dict[str, float]
    cores_busy: float
    cores_stolen: float

    @property
    def rate(self) -> float:
        return len(self.delivered_at) / self.delivered_at[-1]

    @property
    def end_of_load(self) -> float:
        return self.accepted_at[-1]

    @property
    def ahead_percent(self) -> float:
        (behind,) = waiting(self.accepted_at, self.delivered_at, [self.end_of_load])
        return 100 * behind / len(self.accepted_at)

    @property
    def seconds_ahead(self) -> float:
        return longest_ahead(self.accepted_at, self.delivered_at, self.end_of_load)


def saturate(bench: Workbench, system: System, show: Callable[[int], None]) -> Saturation:
    """Posts for the plan's seconds and waits for the last callback; raises TimeoutError if it does not come."""
    tag = new_tag()
    folder = bench.new_folder()
    answers = folder / "answers"
    arrivals = Arrivals(bench.stubs.arrivals, tag)
    kinds = {**system.kinds(), **dict.fromkeys(family(bench.stubs.pid), "nginx")}
    used, machine, began = cpu_seconds(kinds), machine_seconds(), time.time()
    posted = post_with_wrk(
        system.port,
        bench.stubs.callback_url,
        tag=tag,
        seconds=bench.plan.saturated_seconds,
        connections=CONNECTIONS,
        folder=folder,
        answers=answers,
    )
    machine_after, lasted = machine_seconds(), time.time() - began
    arrivals.wait(posted.accepted, bench.plan.drain_seconds, show)
    used_after = cpu_seconds(kinds)
    delivered = arrivals.sorted()
    accepted = sorted(float(line) for line in answers.read_text().splitlines())
    cpu = {kind: used_after[kind] - used[kind] for kind in used} | {"wrk": posted.client_cpu_seconds}
    return Saturation(
        posted,
        [at - began for at in accepted],
        [at - began for at in delivered],
        {kind: 1000 * seconds / len(delivered) for kind, seconds in cpu.items()},
        cores_busy=(machine_after[0] - machine[0]) / lasted,
        cores_stolen=(machine_after[1] - machine[1]) / lasted,
    )


def following(phase: Phase, done: int, what: str) -> Callable[[int], None]:
    """Shows how many were delivered, in the middle of step `done`."""
    return lambda delivered: phase.show(done, f"{what}, {delivered:,} delivered")
