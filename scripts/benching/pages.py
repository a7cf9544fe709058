"""Pages: does each take as long with a million requests stored as with a thousand?"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import quote

from flask.testing import FlaskClient
from sqlalchemy import text

from benching.programs import running, wait_until
from benching.result import Result, Table, Target
from benching.stored import STATION, fill
from benching.svg import bars
from benching.workbench import Workbench
from chargeapp.app import create_app
from chargeapp.config import load_settings
from chargeapp.logs import configure_logging
from chargeapp.runtime import Runtime
from chargeapp.transport.embedded_redis import find_redis_server

BOUND = 3.0
HTML, PROMETHEUS = "text/html", "text/plain;version=1.0.0"
SHOWN = 8


@dataclass
class Store:
    name: str
    client: FlaskClient
    key: str
    pages: dict[str, str]
    """Addresses by the name of the page."""
    millis: dict[str, list[float]] = field(default_factory=dict)

    def ask(self, name: str) -> float:
        """CPU time: others on the machine do not change it much."""
        headers = {"Authorization": f"Bearer {self.key}", "Accept": PROMETHEUS if "Prometheus" in name else HTML}
        began = time.process_time()
        with self.client.get(self.pages[name], headers=headers) as answer:
            answer.get_data()
        millis = 1000 * (time.process_time() - began)
        if answer.status_code != 200:
            raise RuntimeError(f"{self.pages[name]} answered {answer.status_code}")
        return millis


def measure(bench: Workbench) -> Result:
    counts = (bench.plan.pages_few, bench.plan.history)
    with ExitStack() as closing:
        redis_url = closing.enter_context(redis(bench.new_folder()))
        stores = []
        with bench.display.phase("stores", sum(counts)) as phase:
            for count in counts:
                folder = bench.new_folder()
                settings = load_settings(
                    environ={"CHARGEAPP_DATA_DIR": str(folder), "REDIS_URL": redis_url, "LOG_LEVEL": "error"},
                    config_file=Path(os.devnull),
                )
                configure_logging(settings, "bench")
                runtime = Runtime(settings)
                key = fill(runtime, count, lambda done: phase.show(done, "requests made"))
                stores.append(Store(f"{count:,}", create_app(settings).test_client(), key, pages(runtime)))
                runtime.database.close()
        names = list(stores[0].pages)
        with bench.display.phase("pages", len(names)) as phase:
            for done, name in enumerate(names):
                phase.show(done, name)
                for store in stores:
                    store.ask(name)
                    store.millis[name] = []
                # In turn, so that a machine that drifts hits both alike.
                for _ in range(bench.plan.pages_rounds):
                    for store in stores:
                        store.millis[name].append(store.ask(name))
            phase.show(len(names))
    return report(*stores)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    socket = folder / "redis.sock"
    command = [find_redis_server(), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    with running(command, folder / "redis.log"):
        wait_until(socket.exists, "Redis did not start", 10)
        yield f"unix://{socket}"


def pages(runtime: Runtime) -> dict[str, str]:
    with runtime.database.reading() as session:
        newest, failed = (
            session.scalar(text(f"SELECT id FROM charging_session_requests {which} ORDER BY id DESC LIMIT 1"))  # noqa: S608
            for which in ("", "WHERE state = 'failed'")
        )
        driver = session.scalar(text("SELECT token_masked FROM charging_session_requests LIMIT 1"))
        listed = session.scalar(text("SELECT token_hash FROM access_list WHERE station_id = '*' LIMIT 1"))
    api = "/api/v1/charging-session"
    return {
        "overview": "/",
        "list of requests": "/requests",
        "list: failed": "/requests?state=failed",
        "list: one station": f"/requests?station={STATION}",
        "list: one driver": f"/requests?driver={quote(str(driver))}",
        "list: unknown, delivered": "/requests?state=delivered&decision=unknown",
        "timeline of a request": f"/requests/{newest}",
        "timeline of a failed one": f"/requests/{failed}",
        "failed": "/failed",
        "failed: one station": f"/failed?station={STATION}",
        "failed: one reason": "/failed?reason=gone",
        "failed: dry run for all": "/failed/redelivery?which=all",
        "failed: sent": f"/failed/redelivered?which=all&sent=3&before={failed}",
        "dead letters": "/dead-letters",
        "access list": "/access-list",
        "access list: one driver": f"/access-list?driver={listed}",
        "access list: one entry": f"/access-list/entry?driver={listed}&station=*",
        "API keys": "/keys",
        "webhook secrets": "/secrets",
        "settings": "/settings",
        "queues": "/queues",
        "login": "/login",
        "docs": "/docs",
        "OpenAPI": "/openapi.json",
        "figures as JSON": "/metrics",
        "figures for Prometheus": "/metrics",
        "health": "/health",
        "live": "/health/live",
        "ready": "/health/ready",
        "API: list": api,
        "API: list of failed": f"{api}?state=failed",
        "API: one request": f"{api}/{newest}",
    }


def report(few: Store, many: Store) -> Result:
    medians = {name: (median(few.millis[name]), median(many.millis[name])) for name in few.pages}
    ratios = {name: most / least for name, (least, most) in medians.items()}
    ordered = sorted(ratios, key=ratios.__getitem__, reverse=True)
    worst = ordered[0]
    return Result(
        name="pages",
        title="Pages with many requests stored",
        method=(
            f"Every page, asked {len(few.millis[worst])} times in the process, with {few.name} and with {many.name} "
            "requests of the last 20 hours and as many entries of the access list. 2 in 100 requests failed, and 1 in "
            "1,000 has a dead letter. CPU time of the whole process, the two stores in turn."
        ),
        targets=[
            Target(
                "pages",
                f"Pages: with {many.name} requests none takes more than {BOUND:g} times what it takes with {few.name} "
                f"(most: {worst})",
                medians[worst][1],
                BOUND,
                "ms",
                peer=medians[worst][0],
                at_most=True,
            )
        ],
        tables=[
            Table(
                ("", f"CPU ms with {few.name}", f"with {many.name}", "ratio"),
                [
                    (name, f"{least:.1f}", f"{most:.1f}", f"{ratios[name]:.2f}")
                    for name, (least, most) in medians.items()
                ],
                "Medians",
            )
        ],
        charts={
            "pages": bars(
                f"The {SHOWN} pages that grow most, with {many.name} requests",
                "times",
                {name: ratios[name] for name in ordered[:SHOWN]},
            )
        },
        figures={store.name: store.millis for store in (few, many)},
    )
