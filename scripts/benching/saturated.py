"""Saturated: as much as goes in; how much comes out, and how far behind?"""

from collections import defaultdict
from collections.abc import Callable
from statistics import median

from benching.figures import spread, waiting
from benching.load import warm_up
from benching.result import Result, Table, Target
from benching.saturation import CONNECTIONS, Saturation, following, saturate
from benching.svg import bars, lines, stacked
from benching.systems import ALL, PEERS_OF_OURS
from benching.workbench import Workbench

STEPS = 60


def measure(bench: Workbench) -> Result:
    runs: dict[str, list[Saturation]] = {name: [] for name in ALL}
    with bench.display.phase("saturated", bench.plan.rounds * len(ALL)) as phase:
        for number in range(bench.plan.rounds):
            for name, start in ALL.items():
                done, what = sum(map(len, runs.values())), f"round {number + 1}: {name}"
                phase.show(done, what)
                with start(bench) as system:
                    warm_up(system.port, bench.stubs)
                    runs[name].append(saturate(bench, system, following(phase, done, what)))
        phase.show(sum(map(len, runs.values())))
    return report(runs, bench.plan.saturated_seconds)


def report(runs: dict[str, list[Saturation]], seconds: int) -> Result:
    def middle(name: str, of: Callable[[Saturation], float]) -> float:
        return median(map(of, runs[name]))

    def cell(name: str, of: Callable[[Saturation], float], digits: int = 0) -> str:
        return spread([of(each) for each in runs[name]], digits)

    ours = middle("chargeapp", lambda each: each.rate)
    best_p99 = min(middle(name, lambda each: each.posted.p99) for name in PEERS_OF_OURS)
    kinds = {name: _cpu_by_kind(all_) for name, all_ in runs.items()}
    rates = {name: middle(name, lambda each: each.rate) for name in runs}
    return Result(
        name="saturated",
        title="Saturated",
        method=(
            f"`wrk` with {CONNECTIONS} connections posts for {seconds} seconds; the clock stops at the last callback. "
            "Systems take turns, each freshly started and warmed up. The peers have no outbox: what Redis loses, "
            "they lose. CPU time is that of all processes of a kind over load and drain, for each delivered request."
        ),
        targets=[
            Target(
                f"rate-beside-{name.lower()}",
                f"Saturated: end-to-end rate at least {factor:g} times {name}'s",
                ours,
                factor,
                "/s",
                peer=rates[name],
            )
            for name, factor in (("Dramatiq", 2.0), ("Celery", 3.5))
        ]
        + [
            Target(
                "ahead-at-the-end",
                "Saturated: of what was accepted, at most 10 % is not delivered when the load ends",
                middle("chargeapp", lambda each: each.ahead_percent),
                10.0,
                "%",
                at_most=True,
            ),
            Target(
                "ahead-for-long",
                "Saturated: at most 2 s in a row in which over 10 % more is accepted than delivered",
                middle("chargeapp", lambda each: each.seconds_ahead),
                2.0,
                "s",
                at_most=True,
            ),
            Target(
                "post-p99-saturated",
                "Saturated: POST p99 at most the better peer's",
                middle("chargeapp", lambda each: each.posted.p99),
                1.0,
                "ms",
                peer=best_p99,
                at_most=True,
            ),
        ],
        tables=[
            Table(
                (
                    "",
                    "delivered/s",
                    "accepted/s",
                    "POST p50 ms",
                    "POST p99 ms",
                    "ahead at the end %",
                    "longest ahead s",
                ),
                [
                    (
                        name,
                        cell(name, lambda each: each.rate),
                        cell(name, lambda each: each.posted.accepted / each.posted.seconds),
                        cell(name, lambda each: each.posted.p50, 1),
                        cell(name, lambda each: each.posted.p99, 1),
                        cell(name, lambda each: each.ahead_percent, 1),
                        cell(name, lambda each: each.seconds_ahead, 1),
                    )
                    for name in runs
                ],
                f"Median of {len(runs['chargeapp'])} rounds, and the range",
            ),
            Table(
                ("CPU ms per request", *runs),
                [
                    (kind, *(f"{kinds[name][kind]:.2f}" if kind in kinds[name] else "" for name in runs))
                    for kind in dict.fromkeys(kind for each in kinds.values() for kind in each)
                ]
                + [
                    ("**together**", *(f"{sum(each.values()):.2f}" for each in kinds.values())),
                    ("cores busy during the load", *(cell(name, lambda each: each.cores_busy, 2) for name in runs)),
                    (
                        "cores taken by other machines",
                        *(cell(name, lambda each: each.cores_stolen, 2) for name in runs),
                    ),
                ],
                "Where the time goes",
            ),
        ],
        charts={
            "saturated": bars("End to end, saturated", "requests/s", rates),
            "waiting": lines(
                "Accepted and not delivered yet",
                "seconds since the load began",
                "requests",
                {name: _waiting(each[-1]) for name, each in runs.items()},
            ),
            "cpu": stacked("CPU time of one request", "ms", {name: _roughly(each) for name, each in kinds.items()}),
        },
        figures={
            name: [
                {
                    "delivered_per_second": each.rate,
                    "accepted": each.posted.accepted,
                    "delivered": len(each.delivered_at),
                    "refused": each.posted.refused,
                    "post_p50_millis": each.posted.p50,
                    "post_p99_millis": each.posted.p99,
                    "ahead_percent": each.ahead_percent,
                    "seconds_ahead": each.seconds_ahead,
                    "cpu_millis": each.cpu_millis,
                    "cores_busy": each.cores_busy,
                    "cores_stolen": each.cores_stolen,
                }
                for each in runs[name]
            ]
            for name in runs
        },
    )


def _cpu_by_kind(runs: list[Saturation]) -> dict[str, float]:
    kinds = dict.fromkeys(kind for each in runs for kind in each.cpu_millis)
    return {kind: median(each.cpu_millis.get(kind, 0.0) for each in runs) for kind in kinds}


def _roughly(cpu: dict[str, float]) -> dict[str, float]:
    """All workers as one, as the peers have them."""
    together: dict[str, float] = defaultdict(float)
    for kind, millis in cpu.items():
        together["worker" if kind.startswith("worker") else kind] += millis
    return together


def _waiting(run: Saturation) -> list[tuple[float, float]]:
    moments = [run.delivered_at[-1] * step / STEPS for step in range(STEPS + 1)]
    return list(zip(moments, map(float, waiting(run.accepted_at, run.delivered_at, moments)), strict=True))
