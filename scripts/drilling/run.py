"""One drill from start to report."""

import asyncio
import base64
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from drilling.brokers import Broker, EmbeddedRedis
from drilling.chaos import Chaos, Faults
from drilling.deployment import Deployment, free_port
from drilling.failpoints import POINTS, Failpoints
from drilling.load import Load
from drilling.oracle import Bounds, Oracle, Surroundings
from drilling.plans import Plan
from drilling.progress import Display, Phase
from drilling.receiver import Manners, ReceiverProcess
from drilling.records import Records, read_records
from drilling.report import Check, Report
from drilling.stores import SqliteFile, Store

CALLBACK_TIMEOUT_SECONDS = 1.0
# A worker makes at most three quarters of its calls to one destination at the same time.
THREADS = 8
CALLS_UNDER_WAY = THREADS * 3 // 4
PROBES = 20
LOOK_SECONDS = 0.5
LONGER_AT_MOST = 3
# So that one relay that hangs does not stop the deadlines from being watched.
RELAYS_BESIDE = 2
# Failpoints that may make a worker call a caller and not record it.
CALLBACK_POINTS = tuple(f" at {point}" for point in POINTS if point.startswith(("job.", "call.", "callback.")))


class Drill:
    def __init__(
        self, plan: Plan, seed: int, display: Display, database: Store | None = None, broker: Broker | None = None
    ) -> None:
        self._plan = plan
        self._seed = seed
        self._display = display
        # Short, because Redis's socket is in it.
        self.directory = Path(tempfile.mkdtemp(prefix="drill-"))
        self._data_dir = self.directory / "data"
        self._data_dir.mkdir(mode=0o700)
        self._store: Store = database or SqliteFile(self._data_dir)
        self._broker: Broker = broker or EmbeddedRedis(self._data_dir)
        self._secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self._faults = Faults()
        self._wal_bytes: int | None = None
        self._idle_transactions: int | None = None
        self._jobs_left = 0
        self._events_changed = False
        self._seconds: dict[str, float] = {}
        self._exit_status: int | None = None

    def run(self) -> Report:
        began = datetime.now(UTC)
        try:
            self._store.start()
            self._broker.start()
            engine = f"{self._store.engine()} and {self._broker.engine()}"
            asyncio.run(self._act_until_told_to_stop())
            with self._timed("judging"):
                records = read_records(self._load_log, self._receiver_log, self._store)
                surroundings = Surroundings(
                    self._jobs_left, self._events_changed, self._wal_bytes, self._idle_transactions
                )
                findings = Oracle(records, self._bounds(), surroundings).judge()
        finally:
            self._broker.stop()
            self._store.stop()
        return Report(
            name=self._plan.name,
            seed=self._seed,
            engine=engine,
            words=self._store.words + self._broker.words,
            began=f"{began:%Y-%m-%d %H:%M} UTC",
            seconds={name: round(seconds, 1) for name, seconds in self._seconds.items()},
            figures=self._figures(records),
            checks=self._checks(),
            findings=findings,
            faults=dict(self._faults.counts),
            timeline=self._faults.timeline,
            failpoints=self._failpoints.reached,
        )

    def forget(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self._store.forget()
        self._broker.forget()

    @property
    def _load_log(self) -> Path:
        return self.directory / "load.jsonl"

    @property
    def _receiver_log(self) -> Path:
        return self.directory / "receiver.jsonl"

    async def _act_until_told_to_stop(self) -> None:
        """SIGTERM and a closed terminal end it like Ctrl-C: nothing of the deployment stays behind."""
        acting = asyncio.create_task(self._act())
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, acting.cancel)
        await acting

    async def _act(self) -> None:
        plan = self._plan
        manners = Manners(
            self._seed, plan.receiver_errors, plan.receiver_timeouts, plan.receiver_resets, plan.authorization_errors
        )
        receiver = ReceiverProcess(manners, self._receiver_log)
        await receiver.start()
        settings = {
            "AUTHORIZATION_SERVICE_URL": receiver.authorization_url,
            "CALLBACK_TIMEOUT_MILLIS": f"{CALLBACK_TIMEOUT_SECONDS * 1000:.0f}",
            "QUEUE_CONSUMER_THREADS": str(THREADS),
            "QUEUE_MAX_SIZE": "1000000",
            "WEBHOOK_SECRET": self._secret,
        }
        self._deployment = Deployment(self._data_dir, free_port(), self._store, settings, self._broker)
        self._failpoints = Failpoints(self._data_dir / "failpoints", plan.failpoint_repeats, self._faults)
        if plan.failpoint_repeats:
            self._failpoints.prepare()
        try:
            with self._timed("starting"):
                self._display.say("Starting a deployment of its own ...")
                await self._deployment.start()
            with self._load_log.open("w", buffering=1) as log:
                self._load = Load(plan, self._seed, self._deployment.port, receiver.url, log)
                self._faults.began = time.monotonic()
                with self._timed("load and faults"):
                    await self._load_and_faults(receiver)
            last_event, before = await asyncio.to_thread(self._deployment.events_so_far)
            with self._timed("draining"):
                await self._drain()
            _, after = await asyncio.to_thread(self._deployment.events_so_far, last_event)
            self._events_changed = before != after
            self._idle_transactions = await asyncio.to_thread(self._store.idle_transactions)
        finally:
            with self._timed("stopping"):
                self._exit_status = await asyncio.to_thread(self._deployment.stop)
                await receiver.stop()

    async def _load_and_faults(self, receiver: ReceiverProcess) -> None:
        plan = self._plan
        for _ in range(PROBES):
            await self._load.probe(receiver.canary_url)
        if plan.failpoint_repeats:
            await self._go_through_failpoints()
            return
        async with self._watched("load", plan.accepted):
            load = asyncio.create_task(self._load.run())
            chaos = None
            if plan.seconds_between_kills is not None:
                chaos = asyncio.create_task(
                    Chaos(self._deployment, plan, self._seed, self._faults).run(lambda: not load.done())
                )
            await _both(load, chaos, seconds=plan.accepted / plan.rate * LONGER_AT_MOST + 60)

    async def _go_through_failpoints(self) -> None:
        async with self._watched("failpoints", self._failpoints.total):
            points = asyncio.create_task(self._failpoints.run())
            try:
                await self._load.run(until=points.done)
                await points
            finally:
                await _cancel(points)

    @asynccontextmanager
    async def _watched(self, name: str, total: int) -> AsyncIterator[None]:
        with self._display.phase(name, total) as phase:
            watch = asyncio.create_task(self._watch(phase))
            try:
                yield
            finally:
                watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watch

    async def _watch(self, phase: Phase) -> None:
        while True:
            self._look_at_log()
            if self._failpoints.repeats:
                self._deployment.keep_relays(RELAYS_BESIDE)
            load, faults = self._load, self._faults
            note = f"{load.accepted:,} accepted, {load.ambiguous} ambiguous, {len(faults.timeline)} faults"
            phase.show(self._failpoints.done if self._failpoints.repeats else load.accepted, note)
            await asyncio.sleep(LOOK_SECONDS)

    def _look_at_log(self) -> None:
        if (found := self._store.log_bytes()) is not None:
            self._wal_bytes = max(self._wal_bytes or 0, found)

    async def _drain(self) -> None:
        """Until nothing is left to do, or far longer than that may take."""
        began = time.monotonic()
        with self._display.phase("draining", self._load.accepted) as phase:
            while (left := await asyncio.to_thread(self._deployment.unfinished)) and (
                time.monotonic() - began < self._plan.drain_seconds
            ):
                self._look_at_log()
                requests = left.get("requests", 0)
                phase.show(self._load.accepted - requests, ", ".join(f"{n} {what}" for what, n in left.items()))
                await asyncio.sleep(LOOK_SECONDS)
        self._jobs_left = sum(count for name, count in left.items() if name.startswith("job"))

    def _bounds(self) -> Bounds:
        faults, plan = self._faults, self._plan
        at_points = sum(1 for what in faults.counts.elements() if what.endswith(CALLBACK_POINTS))
        # A crash takes back claims that were not on disk yet.
        others = faults.long_pauses + at_points + faults.counts["crash database"]
        # Whoever dies or is late in the middle of calls has them made again: so many at most.
        callers = faults.kills_of("worker callbacks") + others
        return Bounds(
            webhook_secret=self._secret,
            duplicates=callers * CALLS_UNDER_WAY,
            worker_faults=faults.kills_of("worker") + others,
            early=faults.long_pauses
            + sum(n for what, n in faults.counts.items() if what.startswith("hang at"))
            + faults.counts["crash database"] * CALLS_UNDER_WAY,
            only_allowed_decisions=plan.faultless,
        )

    def _figures(self, records: Records) -> dict[str, float]:
        callbacks = len(records.arrivals)
        return {
            "requests accepted": len({each.request_id for each in records.posts if each.outcome == "200"}),
            "requests stored": len(records.requests),
            "requests delivered": sum(each.state == "delivered" for each in records.requests),
            "requests failed": sum(each.state == "failed" for each in records.requests),
            "requests expired": sum(each.state == "expired" for each in records.requests),
            "callbacks received": callbacks,
            "callbacks answered badly": sum(each.answer != "204" for each in records.arrivals),
            "late results discarded": sum(each.type == "LateResultDiscarded" for each in records.events),
            "accepted per second": round(self._load.accepted / max(1.0, self._seconds["load and faults"]), 1),
            **(
                {"kills": self._faults.kills, "kills of callback workers": self._faults.kills_of("worker callbacks")}
                if self._plan.kills
                else {}
            ),
        }

    def _checks(self) -> list[Check]:
        plan, faults = self._plan, self._faults
        drained = self._seconds["draining"]
        checks = [
            Check("accepted", self._load.accepted, f"at least {plan.accepted:,}", self._load.accepted >= plan.accepted),
            Check(
                "seconds to drain", round(drained, 1), f"at most {plan.drain_seconds:g}", drained <= plan.drain_seconds
            ),
            Check("exit status of the supervisor", _number(self._exit_status), "0", self._exit_status == 0),
        ]
        if plan.kills:
            checks.append(Check("kills", faults.kills, f"at least {plan.kills:,}", faults.kills >= plan.kills))
            for name in plan.victims:
                found = faults.kills_of(name)
                checks.append(
                    Check(f"kills of {name}", found, f"at least {plan.kills_of_each}", found >= plan.kills_of_each)
                )
            for what, wanted in plan.faults(self._deployment.faults).items():
                checks.append(Check(what, faults.counts[what], f"at least {wanted}", faults.counts[what] >= wanted))
        if plan.failpoint_repeats:
            points = self._failpoints
            checks.append(Check("failpoints reached", points.done, f"{points.total}", points.done == points.total))
        return checks

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = time.monotonic() - began


async def _both(load: asyncio.Task[None], chaos: asyncio.Task[None] | None, seconds: float) -> None:
    """Both, or as much of them as fits into `seconds`: an API that never comes back is a finding, too."""
    tasks = [load, chaos] if chaos else [load]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds)
    finally:
        await _cancel(*tasks)
    for task in done:
        task.result()


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    """And wait until they have ended; nothing happens to those that have."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _number(status: int | None) -> float:
    return -1 if status is None else status


def new_seed() -> int:
    return int.from_bytes(os.urandom(4))
