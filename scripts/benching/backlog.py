"""A backlog: many accepted while no worker runs; how evenly do they drain, and does memory grow?"""

import time
from statistics import median

from benching.arrivals import Arrivals
from benching.figures import slices
from benching.load import new_tag, post_with_wrk
from benching.result import Result, Table, Target
from benching.svg import bars, lines
from benching.systems import PATIENT, authorization, deployment, web_alone
from benching.usage import resident_mib
from benching.workbench import Workbench

CONNECTIONS = 16
INTAKE_SECONDS = 5
LOOK_SECONDS = 1.0
MOST_MIB = 120.0

Memory = list[tuple[float, dict[str, float]]]


def measure(bench: Workbench) -> Result:
    data_dir = bench.new_folder()
    settings = {**PATIENT, **authorization(bench)}
    wanted = bench.plan.backlog
    tag = new_tag()
    arrivals = Arrivals(bench.stubs.arrivals, tag)
    accepted = 0
    with bench.display.phase("backlog", wanted) as phase, web_alone(data_dir, settings) as system:
        while accepted < wanted:
            phase.show(accepted, "accepted, no worker running")
            # Names begin anew in each of these loads.
            part = f"{tag}{accepted}-"
            posted = post_with_wrk(
                system.port,
                bench.stubs.callback_url,
                tag=part,
                seconds=INTAKE_SECONDS,
                connections=CONNECTIONS,
                folder=bench.new_folder(),
            )
            accepted += posted.accepted
        phase.show(accepted)
    memory: Memory = []
    with bench.display.phase("drain", accepted) as phase, deployment(data_dir, settings) as system:
        began = looked = time.time()

        def look(done: int) -> None:
            nonlocal looked
            phase.show(done, "delivered")
            if time.time() >= looked:
                memory.append((time.time() - began, resident_mib(system.kinds())))
                looked = time.time() + LOOK_SECONDS

        arrivals.wait(accepted, bench.plan.backlog_drain_seconds, look)
    return report(accepted, arrivals.sorted(), memory)


def report(accepted: int, delivered: list[float], memory: Memory) -> Result:
    """`delivered` in epoch seconds; memory by kind of process, each with its second of the drain."""
    rates = slices(delivered)
    usual = median(rates)
    kinds = [kind for kind in dict.fromkeys(kind for _, each in memory for kind in each) if kind != "other"]
    over_time = {kind: [(at, each[kind]) for at, each in memory if kind in each] for kind in kinds}
    most = {kind: max(mib for _, mib in each) for kind, each in over_time.items()}
    growth = {kind: _growth([mib for _, mib in each]) for kind, each in over_time.items()}
    return Result(
        name="backlog",
        title="A backlog",
        method=(
            f"{accepted:,} requests accepted while only the API ran; then everything was started. Each tenth of the "
            "callbacks has its rate. Memory is that of the largest process of a kind, shared pages included, looked at "
            "every second; growth is from the first fifth of the drain to the last. Deadlines were raised so that "
            "no request was decided by its age."
        ),
        targets=[
            Target(
                "drain-slowest-tenth",
                "Backlog: the slowest tenth drains at least 0.85 times as fast as the median",
                min(rates),
                0.85,
                "/s",
                peer=usual,
            ),
            Target("memory", "Backlog: no process above 120 MiB", max(most.values()), MOST_MIB, "MiB", at_most=True),
            Target(
                "memory-growth",
                "Backlog: no process grows by over 10 %",
                max(growth.values()),
                10.0,
                "%",
                at_most=True,
            ),
        ],
        tables=[
            Table(
                ("tenth", *(str(number + 1) for number in range(len(rates)))),
                [("delivered/s", *(f"{rate:,.0f}" for rate in rates))],
                f"{len(delivered):,} delivered",
            ),
            Table(
                ("process", "most MiB", "growth %"),
                [(kind, f"{most[kind]:.0f}", f"{growth[kind]:+.0f}") for kind in kinds],
            ),
        ],
        charts={
            "drain": bars(
                "Drain of a backlog", "requests/s", {f"tenth {number + 1}": rate for number, rate in enumerate(rates)}
            ),
            "memory": lines("Memory while it drains", "seconds", "MiB", over_time),
        },
        figures={
            "accepted": accepted,
            "delivered": len(delivered),
            "rates": rates,
            "most_mib": most,
            "growth_percent": growth,
        },
    )


def _growth(mib: list[float]) -> float:
    """In percent, from the median of the first fifth to that of the last."""
    fifth = max(1, len(mib) // 5)
    first, last = median(mib[:fifth]), median(mib[-fifth:])
    return 100 * (last - first) / first
