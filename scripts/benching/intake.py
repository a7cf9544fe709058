"""Intake alone: how fast is a request accepted, beside a view that only parses it?"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median

from benching.figures import spread
from benching.load import Posted, new_tag, post_with_wrk
from benching.result import Result, Table, Target
from benching.svg import bars
from benching.systems import UNLIMITED, System, bare_flask, least_durable, web_alone
from benching.usage import cpu_seconds
from benching.workbench import Workbench

CONNECTIONS = 16
OURS, BARE = "chargeapp", "bare Flask"
DURABLE = "the least that is durable"
THREADS, SYNC = "bare Flask, threads", "bare Flask, sync workers"
# As chargeapp's own gunicorn: two processes whose one thread serves all connections, and keeps them open.
GEVENT = ("--worker-class", "gevent", "--keep-alive", "30", "--preload")
GTHREAD = ("--worker-class", "gthread", "--threads", "8", "--keep-alive", "30", "--preload")
CALLBACK = "http://127.0.0.1:9/callback?n="


@dataclass(frozen=True)
class Intake:
    posted: Posted
    cpu_millis: float

    @property
    def rate(self) -> float:
        return self.posted.accepted / self.posted.seconds


def measure(bench: Workbench) -> Result:
    systems: dict[str, Callable[[], AbstractContextManager[System]]] = {
        OURS: lambda: web_alone(bench.new_folder(), UNLIMITED),
        BARE: lambda: bare_flask(bench, *GEVENT),
        DURABLE: lambda: least_durable(bench, *GEVENT),
        THREADS: lambda: bare_flask(bench, *GTHREAD),
        SYNC: lambda: bare_flask(bench),
    }
    runs: dict[str, list[Intake]] = {name: [] for name in systems}
    with bench.display.phase("intake", bench.plan.rounds * len(systems)) as phase:
        for number in range(bench.plan.rounds):
            for name, start in systems.items():
                phase.show(sum(map(len, runs.values())), f"round {number + 1}: {name}")
                with start() as system:
                    _post(bench, system, seconds=1)
                    runs[name].append(_post(bench, system, bench.plan.intake_seconds))
        phase.show(sum(map(len, runs.values())))
    return report(runs)


def _post(bench: Workbench, system: System, seconds: int) -> Intake:
    kinds = system.kinds()
    used = sum(cpu_seconds(kinds).values())
    # Nobody calls it: no worker runs.
    posted = post_with_wrk(
        system.port, CALLBACK, tag=new_tag(), seconds=seconds, connections=CONNECTIONS, folder=bench.new_folder()
    )
    return Intake(posted, 1000 * (sum(cpu_seconds(kinds).values()) - used) / posted.accepted)


def report(runs: dict[str, list[Intake]]) -> Result:
    rates = {name: median(each.rate for each in all_) for name, all_ in runs.items()}
    p99 = {name: median(each.posted.p99 for each in all_) for name, all_ in runs.items()}
    return Result(
        name="intake",
        title="Intake alone",
        method=(
            f"`wrk -t1 -c{CONNECTIONS}` posts to chargeapp's API with no worker running: each answer is sent after the "
            "commit. Beside it, a Flask view that parses the same JSON and forgets it, under gunicorn with the same "
            "kind of worker (2 processes on gevent). The least that is durable is a view that checks the same fields "
            "and answers once one row is on disk, in one transaction for all that wait: no keys, no limits, nothing "
            "sealed, no outbox. The bare view with threads (8 each) and with gunicorn's plain workers is shown as well."
        ),
        targets=[
            Target(
                "intake-rate",
                "Intake: rate at least 0.5 times a bare Flask view's",
                rates[OURS],
                0.5,
                "/s",
                peer=rates[BARE],
            ),
            Target(
                "intake-p99",
                "Intake: p99 at most 3 times the bare view's",
                p99[OURS],
                3.0,
                "ms",
                peer=p99[BARE],
                at_most=True,
            ),
        ],
        tables=[
            Table(
                ("", "accepted/s", "p50 ms", "p99 ms", "CPU ms per request"),
                [
                    (
                        name,
                        spread([each.rate for each in all_]),
                        spread([each.posted.p50 for each in all_], 1),
                        spread([each.posted.p99 for each in all_], 1),
                        spread([each.cpu_millis for each in all_], 2),
                    )
                    for name, all_ in runs.items()
                ],
                f"Median of {len(runs[OURS])} rounds, and the range",
            )
        ],
        charts={"intake": bars("Accepted, no worker running", "requests/s", rates)},
        figures={
            name: [
                {
                    "accepted_per_second": each.rate,
                    "p50_millis": each.posted.p50,
                    "p99_millis": each.posted.p99,
                    "cpu_millis": each.cpu_millis,
                    "refused": each.posted.refused,
                }
                for each in all_
            ]
            for name, all_ in runs.items()
        },
    )
