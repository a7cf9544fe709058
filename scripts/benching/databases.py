"""The two databases: the rate end to end with more workers and relays, and what a request costs whom."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median

from drilling.stores import Store
from sqlalchemy import text

from benching.figures import spread
from benching.load import warm_up
from benching.postgres import postgresql
from benching.programs import family
from benching.result import Result, Table
from benching.saturation import CONNECTIONS, Saturation, following, saturate
from benching.svg import bars, stacked
from benching.systems import UNLIMITED, System, authorization, deployment
from benching.workbench import Workbench


@dataclass(frozen=True)
class Setup:
    """So many workers of each queue, and relays."""

    postgresql: bool
    workers: int
    relays: int = 1

    @property
    def name(self) -> str:
        store = "PostgreSQL" if self.postgresql else "SQLite"
        relays = f", {self.relays} relays" if self.relays > 1 else ""
        return f"{store}, {self.workers} of each worker{relays}"


# Whoever polls an idle queue counts too: the figures are of a load that leaves no time for that.
WORK = text("""
    SELECT xact_commit + xact_rollback, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') / 1024
    FROM pg_stat_database WHERE datname = current_database()
""")

SETUPS = (
    Setup(postgresql=False, workers=1),
    Setup(postgresql=False, workers=2),
    Setup(postgresql=True, workers=1),
    Setup(postgresql=True, workers=2),
    Setup(postgresql=True, workers=4),
    Setup(postgresql=True, workers=2, relays=2),
)


@dataclass(frozen=True)
class Work:
    """Of the server, since it was started."""

    transactions: float
    log_kib: float

    def for_each(self, earlier: "Work", requests: int) -> "Work":
        return Work((self.transactions - earlier.transactions) / requests, (self.log_kib - earlier.log_kib) / requests)


def measure(bench: Workbench) -> Result:
    runs: dict[Setup, list[Saturation]] = {setup: [] for setup in SETUPS}
    works: dict[Setup, list[Work]] = {setup: [] for setup in SETUPS if setup.postgresql}
    with bench.display.phase("databases", bench.plan.database_rounds * len(SETUPS)) as phase:
        for number in range(bench.plan.database_rounds):
            for setup, all_ in runs.items():
                done, what = sum(map(len, runs.values())), f"round {number + 1}: {setup.name}"
                phase.show(done, what)
                with running(bench, setup) as (system, work):
                    warm_up(system.port, bench.stubs)
                    before = work()
                    all_.append(saturate(bench, system, following(phase, done, what)))
                    if before and (after := work()):
                        works[setup].append(after.for_each(before, len(all_[-1].delivered_at)))
        phase.show(sum(map(len, runs.values())))
    return report(
        {setup.name: all_ for setup, all_ in runs.items()},
        {setup.name: all_ for setup, all_ in works.items()},
        bench.plan.saturated_seconds,
    )


@contextmanager
def running(bench: Workbench, setup: Setup) -> Iterator[tuple[System, Callable[[], Work | None]]]:
    settings = {**UNLIMITED, **authorization(bench)}
    if not setup.postgresql:
        with deployment(bench.new_folder(), settings, None, setup.workers, setup.relays) as system:
            yield system, lambda: None
        return
    with (
        postgresql() as (store, server),
        deployment(bench.new_folder(), settings, store, setup.workers, setup.relays) as system,
    ):
        everybody = System(system.port, lambda: system.kinds() | dict.fromkeys(family(server.pid), "postgresql"))
        yield everybody, lambda: work_of(store)


def work_of(store: Store) -> Work:
    with store.database.reading() as session:
        return Work(*map(float, session.execute(WORK).one()))


def report(runs: dict[str, list[Saturation]], works: dict[str, list[Work]], seconds: int) -> Result:
    rates = {name: median(each.rate for each in all_) for name, all_ in runs.items()}
    cpu = {name: _cpu(all_) for name, all_ in runs.items()}
    kinds = list(dict.fromkeys(kind for each in cpu.values() for kind in each))
    return Result(
        name="databases",
        title="SQLite and PostgreSQL",
        method=(
            f"The saturated load ({CONNECTIONS} connections, {seconds} seconds) with more workers and relays. "
            "Everything, the server of PostgreSQL too, shares the cores of one machine: more processes show whether "
            "they get in each other's way, not what more machines would do. PostgreSQL runs with its own defaults, "
            "among them `fsync=on` and `synchronous_commit=on`."
        ),
        targets=[],
        tables=[
            Table(
                ("", "delivered/s", "POST p50 ms", "POST p99 ms", "ahead at the end %"),
                [
                    (
                        name,
                        spread([each.rate for each in all_]),
                        spread([each.posted.p50 for each in all_], 1),
                        spread([each.posted.p99 for each in all_], 1),
                        spread([each.ahead_percent for each in all_], 1),
                    )
                    for name, all_ in runs.items()
                ],
                f"Median of {len(next(iter(runs.values())))} rounds, and the range",
            ),
            Table(
                ("CPU ms per request", *kinds, "together"),
                [
                    (name, *(f"{each.get(kind, 0.0):.2f}" for kind in kinds), f"{sum(each.values()):.2f}")
                    for name, each in cpu.items()
                ],
                "Who needs how much",
            ),
            Table(
                ("for each request", "transactions", "write-ahead log, KiB"),
                [
                    (
                        name,
                        spread([each.transactions for each in all_], 1),
                        spread([each.log_kib for each in all_], 1),
                    )
                    for name, all_ in works.items()
                ],
                "What PostgreSQL has to do",
            ),
        ],
        charts={
            "databases": bars("End to end, saturated", "requests/s", rates),
            "databases-cpu": stacked("CPU time of one request", "ms", cpu),
        },
        figures={
            name: [
                {
                    "delivered_per_second": each.rate,
                    "post_p50_millis": each.posted.p50,
                    "post_p99_millis": each.posted.p99,
                    "ahead_percent": each.ahead_percent,
                    "cpu_millis": each.cpu_millis,
                }
                for each in all_
            ]
            for name, all_ in runs.items()
        }
        | {"work": {name: [asdict(each) for each in all_] for name, all_ in works.items()}},
    )


def _cpu(runs: list[Saturation]) -> dict[str, float]:
    """Medians by kind, all workers as one; without the client and the stubs."""
    kinds = dict.fromkeys(kind for each in runs for kind in each.cpu_millis if kind not in ("wrk", "nginx"))
    found: dict[str, float] = {}
    for kind in kinds:
        part = "workers" if kind.startswith("worker") else kind
        found[part] = found.get(part, 0.0) + median(each.cpu_millis.get(kind, 0.0) for each in runs)
    return found
