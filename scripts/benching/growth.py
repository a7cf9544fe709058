"""Growth: does it stay as fast with a million finished requests in the database?"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

from drilling.deployment import Deployment
from drilling.stores import SqliteFile

from benching.arrivals import Arrivals
from benching.figures import percentile, spread
from benching.history import multiply
from benching.load import new_tag, pace, post_at_a_rate, warm_up
from benching.programs import wait_until
from benching.result import Result, Table, Target
from benching.saturation import Saturation, following, saturate
from benching.svg import bars
from benching.systems import UNLIMITED, authorization, deployment
from benching.workbench import Workbench

SAMPLES = 100
SAMPLE_RATE = 50.0
EMPTY = "empty"


def measure(bench: Workbench) -> Result:
    settings = {**UNLIMITED, **authorization(bench)}
    full = f"{bench.plan.history:,} finished requests"
    saturations: dict[str, list[Saturation]] = {EMPTY: [], full: []}
    latencies: dict[str, list[list[float]]] = {EMPTY: [], full: []}
    grown = bench.new_folder()
    with bench.display.phase("history", bench.plan.history) as phase:
        grow(bench, grown, settings, lambda done: phase.show(done, "finished requests made"))
    size = (grown / "chargeapp.db").stat().st_size / 2**30
    # The disk's own work for what was just written would hit the first that is measured.
    os.sync()
    rate, seconds = bench.plan.latency_seconds[-1]
    with bench.display.phase("growth", bench.plan.growth_rounds * 2) as phase:
        for number in range(bench.plan.growth_rounds):
            for step, (name, folder) in enumerate(((EMPTY, bench.new_folder()), (full, grown))):
                done, what = 2 * number + step, f"round {number + 1}: {name}"
                phase.show(done, what)
                with deployment(folder, settings) as system:
                    warm_up(system.port, bench.stubs)
                    paced = pace(system.port, bench.stubs, rate, seconds, bench.plan.drain_seconds)
                    latencies[name].append(paced.to_callback)
                    saturations[name].append(saturate(bench, system, following(phase, done, what)))
        phase.show(bench.plan.growth_rounds * 2)
    return report(saturations, latencies, rate, size)


def grow(bench: Workbench, data_dir: Path, settings: dict[str, str], show: Callable[[int], None]) -> None:
    """Some real requests from POST to callback, and copies of them."""
    tag = new_tag()
    arrivals = Arrivals(bench.stubs.arrivals, tag)
    with deployment(data_dir, settings) as system:
        posts = asyncio.run(
            post_at_a_rate(
                system.port, lambda number: f"{bench.stubs.callback_url}{tag}{number}", SAMPLE_RATE, SAMPLES, key=tag
            )
        )
        arrivals.wait(len(posts.accepted), bench.plan.drain_seconds)
        there = Deployment(data_dir, system.port, SqliteFile(data_dir), settings)
        wait_until(lambda: not there.unfinished(), "the samples were not finished", bench.plan.drain_seconds)
        there.store.stop()
    multiply(data_dir / "chargeapp.db", bench.plan.history, show)


def report(
    saturations: dict[str, list[Saturation]], latencies: dict[str, list[list[float]]], rate: int, size_gib: float
) -> Result:
    empty, full = saturations
    rates = {name: median(each.rate for each in all_) for name, all_ in saturations.items()}
    together = {name: [value for each in all_ for value in each] for name, all_ in latencies.items()}
    medians = {name: percentile(values, 0.5) for name, values in together.items()}
    return Result(
        name="growth",
        title="A long history",
        method=(
            f"{full} beside an empty database. {SAMPLES} real requests were copied with all their rows and spread over "
            f"the last 20 hours; the database had {size_gib:.1f} GiB. Loads as above, the two in turn."
        ),
        targets=[
            Target(
                "history-rate",
                "Long history: rate at least 0.85 times the empty one's",
                rates[full],
                0.85,
                "/s",
                peer=rates[empty],
            ),
            Target(
                "history-latency",
                f"Long history: median at {rate}/s at most 1.15 times the empty one's",
                medians[full],
                1.15,
                "ms",
                peer=medians[empty],
                at_most=True,
            ),
        ],
        tables=[
            Table(
                ("", "delivered/s", f"to callback p50 ms at {rate}/s", "p99 ms", "CPU ms per request"),
                [
                    (
                        name,
                        spread([each.rate for each in all_]),
                        spread([percentile(each, 0.5) for each in latencies[name]], 1),
                        spread([percentile(each, 0.99) for each in latencies[name]], 1),
                        spread([sum(each.cpu_millis.values()) for each in all_], 2),
                    )
                    for name, all_ in saturations.items()
                ],
                f"Median of {len(saturations[empty])} rounds, and the range",
            )
        ],
        charts={"growth": bars("End to end with a history, saturated", "requests/s", rates)},
        figures={
            name: {
                "delivered_per_second": [each.rate for each in all_],
                "to_callback_p50_millis": medians[name],
                "to_callback_p99_millis": percentile(together[name], 0.99),
            }
            for name, all_ in saturations.items()
        },
    )
