"""Latency: from POST to callback when there is little to do, and when there is some."""

from statistics import median

from benching.figures import percentile
from benching.load import Paced, pace, warm_up
from benching.result import Result, Row, Table, Target
from benching.svg import bars
from benching.systems import ALL, PEERS_OF_OURS
from benching.workbench import Workbench


def measure(bench: Workbench) -> Result:
    loads = bench.plan.latency_seconds
    runs: dict[int, dict[str, list[Paced]]] = {rate: {name: [] for name in ALL} for rate, _ in loads}
    with bench.display.phase("latency", bench.plan.latency_rounds * len(ALL) * len(loads)) as phase:
        done = 0
        for number in range(bench.plan.latency_rounds):
            for name, start in ALL.items():
                with start(bench) as system:
                    warm_up(system.port, bench.stubs)
                    for rate, seconds in loads:
                        phase.show(done, f"round {number + 1}: {name} at {rate}/s")
                        runs[rate][name].append(pace(system.port, bench.stubs, rate, seconds, bench.plan.drain_seconds))
                        done += 1
        phase.show(done)
    return report(runs)


def report(runs: dict[int, dict[str, list[Paced]]]) -> Result:
    targets: list[Target] = []
    rows: list[Row] = []
    charts: dict[str, str] = {}
    figures: dict[str, object] = {}
    for rate, by_name in runs.items():
        together = {name: [value for each in all_ for value in each.to_callback] for name, all_ in by_name.items()}
        for word, share in (("median", 0.5), ("p99", 0.99)):
            reached = {name: percentile(values, share) for name, values in together.items()}
            best = min(PEERS_OF_OURS, key=reached.__getitem__)
            targets.append(
                Target(
                    f"{word}-at-{rate}",
                    f"At {rate}/s: {word} from POST to callback at most the best peer's ({best})",
                    reached["chargeapp"],
                    1.0,
                    "ms",
                    peer=reached[best],
                    at_most=True,
                )
            )
            charts[f"latency-{word}-at-{rate}"] = bars(f"POST to callback at {rate}/s, {word}", "ms", reached)
        for name, all_ in by_name.items():
            rows.append(
                (
                    f"{rate}/s",
                    name,
                    str(len(together[name])),
                    _cell([each.to_callback for each in all_], 0.5),
                    _cell([each.to_callback for each in all_], 0.99),
                    _cell([each.to_answer for each in all_], 0.5),
                    _cell([each.to_answer for each in all_], 0.99),
                    str(sum(each.failed for each in all_)),
                )
            )
        figures[f"{rate}/s"] = {
            name: {
                "to_callback_millis": {str(share): percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)},
                "failed": sum(each.failed for each in by_name[name]),
            }
            for name, values in together.items()
        }
    return Result(
        name="latency",
        title="Latency",
        method=(
            "A client posts at a fixed rate, whatever the answers do. The time runs from the POST to the arrival of "
            "the callback. Percentiles are those of all rounds together; in brackets, those of the rounds."
        ),
        targets=targets,
        tables=[
            Table(
                (
                    "load",
                    "",
                    "requests",
                    "to callback p50 ms",
                    "to callback p99 ms",
                    "POST p50 ms",
                    "POST p99 ms",
                    "failed",
                ),
                rows,
            )
        ],
        charts=charts,
        figures=figures,
    )


def _cell(rounds: list[list[float]], share: float) -> str:
    overall = percentile([value for each in rounds for value in each], share)
    each = [percentile(values, share) for values in rounds]
    return f"{overall:,.1f} ({min(each):,.1f} to {max(each):,.1f})" if len(each) > 1 else f"{median(each):,.1f}"
