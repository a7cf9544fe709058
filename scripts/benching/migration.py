"""A long history moves to PostgreSQL while requests come in: how long does that take, and what do callers notice?"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from drilling.deployment import ROOT
from drilling.load import Ambiguous, Client, Refused
from sqlalchemy import text

from benching.arrivals import Arrivals
from benching.figures import percentile
from benching.growth import grow
from benching.load import DRIVER, STATION, new_tag
from benching.postgres import postgresql
from benching.result import Result, Table, Target
from benching.systems import UNLIMITED, authorization, deployment, environment
from benching.workbench import Workbench

RATE = 20.0
MIB = 2**20
SIZE = text("SELECT pg_database_size(current_database())")
AGAIN_SECONDS = 0.1
AROUND_SECONDS = 5.0
MOST_MILLIS = 2_000.0


def measure(bench: Workbench) -> Result:
    settings = {**UNLIMITED, **authorization(bench)}
    data_dir = bench.new_folder()
    with bench.display.phase("history", bench.plan.history) as phase:
        grow(bench, data_dir, settings, lambda done: phase.show(done, "finished requests made"))
    tag = new_tag()
    arrivals = Arrivals(bench.stubs.arrivals, tag)
    stopping = threading.Event()
    with postgresql() as (store, _), deployment(data_dir, settings) as system, ThreadPoolExecutor(1) as pool:
        posting = pool.submit(
            lambda: asyncio.run(
                keep_posting(system.port, lambda each: f"{bench.stubs.callback_url}{tag}{each}", stopping)
            )
        )
        try:
            time.sleep(AROUND_SECONDS)
            with bench.display.phase("migration", 1) as phase:
                phase.show(0, "chargeapp migrate-store")
                done = subprocess.run(  # noqa: S603 - our own program
                    [sys.executable, "-m", "chargeapp", "migrate-store", "--to", store.url, "--json"],
                    cwd=ROOT,
                    env=environment(data_dir, settings),
                    capture_output=True,
                    text=True,
                    check=True,
                )
                phase.show(1)
            time.sleep(AROUND_SECONDS)
        finally:
            stopping.set()
        waited = posting.result()
        arrivals.wait(len(waited), bench.plan.drain_seconds)
        with store.database.reading() as session:
            size = session.scalar(SIZE) or 0
    sizes = {"SQLite": (data_dir / "chargeapp.db").stat().st_size / MIB, "PostgreSQL": size / MIB}
    return report(json.loads(done.stdout), sizes, waited, len(arrivals.first), arrivals.repeated)


async def keep_posting(port: int, callback_url: Callable[[int], str], stopping: threading.Event) -> list[float]:
    """Milliseconds until each was accepted; what is not is sent again at once, under the same key."""
    client, waited = Client(port), []

    async def post(number: int) -> None:
        body = {"stationId": STATION, "driverToken": DRIVER, "callbackUrl": callback_url(number)}
        began = time.monotonic()
        while not await accepted(client, body, body["callbackUrl"]):
            await asyncio.sleep(AGAIN_SECONDS)
        waited.append((time.monotonic() - began) * 1000)

    began, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while not stopping.is_set():
            group.create_task(post(number))
            number += 1
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
    client.close()
    return waited


async def accepted(client: Client, body: dict[str, str], key: str) -> bool:
    try:
        return (await client.post(body, key)).outcome == "200"
    except (Refused, Ambiguous):
        return False


def report(told: dict[str, Any], sizes: dict[str, float], waited: list[float], called_back: int, twice: int) -> Result:
    """`told` is what `migrate-store --json` said; `sizes` in MiB, `waited` in milliseconds."""
    before, after = told["before"], told["after"]
    rows = (
        ("rows moved", f"{sum(before.values()):,}"),
        ("requests among them", f"{before['charging_session_requests']:,}"),
        ("size, all together", ", ".join(f"{name} {mib:,.0f} MiB" for name, mib in sizes.items())),
        ("seconds it took", f"{told['seconds']:,}"),
        ("counts of all tables equal", "yes" if before == after else "NO"),
        ("nothing could be written for", f"{told['pauseMillis']:,} ms"),
        ("requests posted meanwhile", f"{len(waited):,} at {RATE:g}/s"),
        (
            "until one was accepted: p50, p99, longest",
            f"{percentile(waited, 0.5):,.0f}, {percentile(waited, 0.99):,.0f}, {max(waited):,.0f} ms",
        ),
        ("of these, called back", f"{called_back:,}, {twice} of them twice"),
    )
    return Result(
        name="migration",
        title="Moving to PostgreSQL",
        method=(
            f"`chargeapp migrate-store` with {RATE:g} requests a second coming in. PostgreSQL runs on the same "
            "machine, with its own defaults. Who is not accepted posts again after 0.1 s, under the same key."
        ),
        targets=[
            Target(
                "migration-pause",
                "Moving to PostgreSQL: no caller waits for more than 2 s",
                max(waited),
                MOST_MILLIS,
                "ms",
                at_most=True,
            )
        ],
        tables=[Table(("", ""), list(rows))],
        figures={
            **told,
            "mib": sizes,
            "posted": len(waited),
            "longest_millis": max(waited),
            "called_back": called_back,
        },
    )
