"""A slow destination: do the callbacks to the others wait for it?"""

import asyncio
import time
from collections.abc import Callable

from drilling.deployment import Deployment, free_port
from drilling.stores import SqliteFile

from benching.destinations import Destinations, destinations
from benching.figures import percentile, spread
from benching.load import post_at_a_rate
from benching.result import Result, Table, Target
from benching.svg import bars
from benching.systems import UNLIMITED
from benching.workbench import Workbench

DESTINATIONS = 20
RATE = 60.0
WARM_UP = 40
WITHOUT, WITH = "all twenty answer at once", "one of them is slow"


def measure(bench: Workbench) -> Result:
    runs: dict[str, list[list[float]]] = {WITHOUT: [], WITH: []}
    with bench.display.phase("slow-destination", bench.plan.slow_rounds * 2) as phase:
        for number in range(bench.plan.slow_rounds):
            for name, slow_seconds in ((WITHOUT, 0.0), (WITH, bench.plan.slow_answer_seconds)):
                phase.show(sum(map(len, runs.values())), f"round {number + 1}: {name}")
                runs[name].append(asyncio.run(_run(bench, slow_seconds)))
        phase.show(sum(map(len, runs.values())))
    return report(runs, bench.plan.slow_answer_seconds)


async def _run(bench: Workbench, slow_seconds: float) -> list[float]:
    """Milliseconds from POST to callback of all but the first destination's."""
    async with destinations(DESTINATIONS, slow_seconds) as there:
        settings = {**UNLIMITED, "AUTHORIZATION_SERVICE_URL": there.authorization_url}
        data_dir = bench.new_folder()
        ours = Deployment(data_dir, free_port(), SqliteFile(data_dir), settings)
        try:
            await ours.start()
            # Not to the slow one: it shall be met under load, and for the first time.
            await _load(bench, ours, there, lambda number: 1 + number % (DESTINATIONS - 1), WARM_UP)
            there.first.clear()
            total = round(RATE * bench.plan.slow_seconds)
            return await _load(bench, ours, there, lambda number: number, total)
        finally:
            await asyncio.to_thread(ours.stop)


async def _load(
    bench: Workbench, ours: Deployment, there: Destinations, numbered: Callable[[int], int], total: int
) -> list[float]:
    posts = await post_at_a_rate(ours.port, lambda number: there.url(numbered(number)), RATE, total)
    others = {numbered(number): at for number, at in posts.accepted.items() if numbered(number) % DESTINATIONS}
    deadline = time.monotonic() + bench.plan.drain_seconds
    while not others.keys() <= there.first.keys():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(others)} callbacks did not arrive within {bench.plan.drain_seconds:g} s")
        await asyncio.sleep(0.1)
    return [(there.first[number] - at) * 1000 for number, at in others.items()]


def report(runs: dict[str, list[list[float]]], slow_seconds: float) -> Result:
    p95 = {name: percentile([value for each in rounds for value in each], 0.95) for name, rounds in runs.items()}
    return Result(
        name="slow-destination",
        title="A slow destination",
        method=(
            f"{RATE:g} requests a second to {DESTINATIONS} destinations in turn; in every second run one of them "
            f"answers after {slow_seconds:g} s. The figures are those of the other {DESTINATIONS - 1}."
        ),
        targets=[
            Target(
                "slow-destination",
                "Slow destination: p95 of the others at most 2 times theirs without it",
                p95[WITH],
                2.0,
                "ms",
                peer=p95[WITHOUT],
                at_most=True,
            )
        ],
        tables=[
            Table(
                ("", "to callback p50 ms", "p95 ms", "p99 ms"),
                [
                    (name, *(spread([percentile(each, share) for each in rounds], 1) for share in (0.5, 0.95, 0.99)))
                    for name, rounds in runs.items()
                ],
                f"Median of {len(runs[WITH])} rounds, and the range",
            )
        ],
        charts={"slow-destination": bars("POST to callback of the other nineteen, p95", "ms", p95)},
        figures={name: [{"p95_millis": percentile(each, 0.95)} for each in rounds] for name, rounds in runs.items()},
    )
