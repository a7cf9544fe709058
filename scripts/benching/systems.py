"""chargeapp and its peers, each started in a folder of its own and ended afterwards."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from drilling.deployment import ROOT, Deployment, free_port
from drilling.stores import SqliteFile, Store

from benching.programs import HOST, START_SECONDS, family, running, wait_for_port, wait_until
from benching.workbench import Workbench
from chargeapp.clock import utcnow
from chargeapp.pipeline import STAGES
from chargeapp.storage import heartbeats
from chargeapp.transport.embedded_redis import find_redis_server

PEERS = Path(__file__).with_name("peers")
# The limit on undecided requests would end a saturated load; everything else is as by default.
UNLIMITED = {"QUEUE_MAX_SIZE": "1000000"}
# A backlog waits for longer than callers do: otherwise it would be decided by its deadline, and not be asked for.
PATIENT = {**UNLIMITED, "AUTHORIZATION_TIMEOUT_MILLIS": "3600000", "REQUEST_TTL_SECONDS": "86400"}


@dataclass(frozen=True)
class System:
    """Something that listens, and tells its processes by kind."""

    port: int
    kinds: Callable[[], dict[int, str]]


LATELY = timedelta(seconds=30)
KINDS = {"web worker": "web", "redis-server": "redis", "": "other"}

Starter = Callable[[Workbench], AbstractContextManager[System]]


@contextmanager
def chargeapp(bench: Workbench) -> Iterator[System]:
    with deployment(bench.new_folder(), {**UNLIMITED, **authorization(bench)}) as system:
        yield system


def authorization(bench: Workbench) -> dict[str, str]:
    return {"AUTHORIZATION_SERVICE_URL": bench.stubs.authorization_url}


@contextmanager
def deployment(
    data_dir: Path, settings: dict[str, str], store: Store | None = None, workers: int = 1, relays: int = 1
) -> Iterator[System]:
    """All of it, as `chargeapp up --no-demo` starts it; with more workers of each queue, or relays, beside it.

    SQLite without a `store`, which is the caller's to stop.
    """
    file = SqliteFile(data_dir)
    store = store or file
    ours = Deployment(data_dir, free_port(), store, settings)
    try:
        asyncio.run(ours.start())
        ours.keep_relays(relays - 1)
        ours.add_workers(workers - 1)
        wait_until(lambda: _workers(store) == workers * len(STAGES), "workers did not start", START_SECONDS)
        yield System(
            ours.port,
            lambda: {each.pid: KINDS.get(each.kind, each.kind) for each in ours.processes()} | ours.beside(),
        )
    finally:
        ours.stop()
        file.stop()


def environment(data_dir: Path, settings: dict[str, str]) -> dict[str, str]:
    """For a command beside a deployment on SQLite."""
    return Deployment(data_dir, free_port(), SqliteFile(data_dir), settings).environment


def _workers(store: Store) -> int:
    with store.database.reading() as session:
        return len(heartbeats.since(session, "worker ", utcnow() - LATELY))


@contextmanager
def web_alone(data_dir: Path, settings: dict[str, str]) -> Iterator[System]:
    """Only the API: what it accepts waits in the database."""
    ours = Deployment(data_dir, free_port(), SqliteFile(data_dir), settings)
    chargeapp = [sys.executable, "-m", "chargeapp"]
    with ours.log.open("ab") as log:
        subprocess.run(  # noqa: S603 - our own program
            [*chargeapp, "db", "upgrade"], cwd=ROOT, env=ours.environment, stdout=log, stderr=log, check=True
        )
    with running([*chargeapp, "web"], ours.log, ours.environment, ROOT) as web:
        wait_for_port(web, ours.port, ours.log)
        yield System(ours.port, lambda: dict.fromkeys(family(web.pid), "web"))


@contextmanager
def bare_flask(bench: Workbench, *options: str) -> Iterator[System]:
    with _gunicorn(bench, "bare", {}, bench.new_folder(), *options) as system:
        yield system


@contextmanager
def least_durable(bench: Workbench, *options: str) -> Iterator[System]:
    folder = bench.new_folder()
    with _gunicorn(bench, "durable", {"DATABASE_FILE": str(folder / "requests.db")}, folder, *options) as system:
        yield system


@contextmanager
def celery(bench: Workbench) -> Iterator[System]:
    with _queue(bench, "on_celery", "celery", "-A", "on_celery:queue", "worker", "-c", "2") as system:
        yield system


@contextmanager
def dramatiq(bench: Workbench) -> Iterator[System]:
    with _queue(bench, "on_dramatiq", "dramatiq", "on_dramatiq", "-p", "2", "-t", "8") as system:
        yield system


PEERS_OF_OURS: dict[str, Starter] = {"Dramatiq": dramatiq, "Celery": celery}
ALL: dict[str, Starter] = {"chargeapp": chargeapp, **PEERS_OF_OURS}


@contextmanager
def _queue(bench: Workbench, module: str, program: str, *words: str) -> Iterator[System]:
    folder = bench.new_folder()
    log = folder / "processes.log"
    port = free_port()
    environment = {"REDIS_URL": f"redis://{HOST}:{port}/0", **authorization(bench)}
    options = ("--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder))
    with running([find_redis_server(), *options], log) as redis:
        wait_for_port(redis, port, log)
        with (
            _gunicorn(bench, module, environment, folder) as web,
            running([bench.peers / program, *words], log, _environment(bench, environment), PEERS) as workers,
        ):
            yield System(
                web.port,
                lambda: {redis.pid: "redis", **web.kinds(), **dict.fromkeys(family(workers.pid), "worker")},
            )


@contextmanager
def _gunicorn(
    bench: Workbench, module: str, environment: dict[str, str], folder: Path, *options: str
) -> Iterator[System]:
    port = free_port()
    log = folder / "processes.log"
    command: list[str | Path] = [
        bench.peers / "gunicorn",
        "-w",
        "2",
        "-b",
        f"{HOST}:{port}",
        "--no-control-socket",
        *options,
    ]
    with running([*command, f"{module}:app"], log, _environment(bench, environment), PEERS) as web:
        wait_for_port(web, port, log)
        yield System(port, lambda: dict.fromkeys(family(web.pid), "web"))


def _environment(bench: Workbench, more: dict[str, str]) -> dict[str, str]:
    """Without what makes Python find our packages instead of theirs."""
    path = f"{bench.peers}:{os.environ.get('PATH', '')}"
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**ours, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **more}
