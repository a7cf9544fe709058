"""The deployment under drill: `chargeapp up` with a data directory of its own; only its processes are ever touched."""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from sqlalchemy import func, select

from chargeapp.config import ALIASES, Settings
from chargeapp.pipeline import STAGES
from chargeapp.storage.models import EventRecord, SessionRequest
from drilling.brokers import Broker, BrokerSilent, EmbeddedRedis
from drilling.receiver import ALLOWED_HOST
from drilling.records import EVENTS, count_rows, still_open
from drilling.stores import Store

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
# As the kernel knows the programs of `chargeapp up`: by the first 15 bytes of their names.
KINDS = {name[:15]: name for name in ("relay", "redis-server", *(f"worker {stage.queue}" for stage in STAGES))}


@dataclass(frozen=True)
class Process:
    """`kind` is `web`, `web worker`, `relay`, `redis-server`, `worker <queue>`, or empty where it is none of these."""

    pid: int
    parent: int
    kind: str


class Deployment:
    def __init__(
        self, data_dir: Path, port: int, store: Store, settings: dict[str, str], broker: Broker | None = None
    ) -> None:
        self.data_dir = data_dir
        self.port = port
        self.log = data_dir / "processes.log"
        self.store = store
        self.broker = broker or EmbeddedRedis(data_dir)
        self._relays: list[subprocess.Popen[bytes]] = []
        self._workers: dict[subprocess.Popen[bytes], str] = {}
        ours = {each.name.upper() for each in fields(Settings)} | set(ALIASES) | {"PYTHONPATH"}
        self.environment = {name: value for name, value in os.environ.items() if name not in ours} | {
            "PORT": str(port),
            "CHARGEAPP_DATA_DIR": str(data_dir),
            "CHARGEAPP_CONFIG": os.devnull,
            "DATABASE_URL": store.url,
            "CALLBACK_ALLOWED_NETWORKS": f"{ALLOWED_HOST}/32",
            "LOG_FORMAT": "json",
            **self.broker.settings(),
            **settings,
        }

    @property
    def faults(self) -> dict[str, Callable[[], bool]]:
        """What can be done to its broker and its database."""
        return {**self.broker.faults, **self.store.faults}

    async def start(self) -> None:
        self._supervisor = self._spawn("up", "--no-demo")
        async with asyncio.timeout(READY_SECONDS):
            while not await asyncio.to_thread(self._healthy):
                if self._supervisor.poll() is not None:
                    raise RuntimeError(f"The deployment did not start:\n{self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.2)

    def keep_relays(self, count: int) -> None:
        """So many beside the supervisor's own; those that were killed are started again."""
        self._relays = [each for each in self._relays if each.poll() is None]
        self._relays += [self._spawn("relay") for _ in range(count - len(self._relays))]

    def add_workers(self, count: int) -> None:
        """So many of each queue beside the supervisor's own; nobody starts them again."""
        for stage in STAGES * count:
            self._workers[self._spawn("worker", stage.queue)] = f"worker {stage.queue}"

    def beside(self) -> dict[int, str]:
        """The kinds of what runs beside the supervisor's own."""
        return {
            **{each.pid: "relay" for each in self._relays},
            **{each.pid: kind for each, kind in self._workers.items()},
        }

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "chargeapp", *words],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{ALLOWED_HOST}:{self.port}/health", timeout=5) as answer:
                return bool(json.load(answer)["status"] == "UP")
        except (OSError, ValueError, KeyError):
            return False

    def stop(self) -> int | None:
        """The supervisor's exit status, None if it had to be killed."""
        for process in (*self._relays, *self._workers):
            _end(process)
        return _end(self._supervisor)

    # Who is who

    def processes(self) -> list[Process]:
        """Everything the supervisor runs at the moment, and gunicorn's workers below it."""
        found = []
        for pid in children_of(self._supervisor.pid):
            below = children_of(pid)
            found.append(Process(pid, self._supervisor.pid, "web" if below else KINDS.get(name_of(pid), "")))
            found += [Process(each, pid, "web worker") for each in below]
        return found

    def signal(self, process: Process, number: signal.Signals) -> bool:
        """False if it has gone meanwhile; never reaches a stranger that got its number."""
        with self._handle(process) as handle:
            return handle is not None and send(handle, number)

    @contextmanager
    def paused(self, process: Process) -> Iterator[bool]:
        """Stopped meanwhile; False if it had gone. It goes on afterwards, whoever its parent is by then."""
        with self._handle(process) as handle:
            stopped = handle is not None and send(handle, signal.SIGSTOP)
            try:
                yield stopped
            finally:
                if handle is not None:
                    send(handle, signal.SIGCONT)

    @contextmanager
    def _handle(self, process: Process) -> Iterator[int | None]:
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield handle if parent_of(process.pid) == process.parent else None
        finally:
            os.close(handle)

    # What is left to do

    def unfinished(self) -> dict[str, int]:
        """Requests without an end, open outbox rows and jobs in queues; empty once all is done."""
        counts: dict[str, int] = {}
        with self.store.database.reading() as session:
            counts["requests"] = count_rows(session, SessionRequest, SessionRequest.ended_at.is_(None))
            for stage in STAGES:
                counts[stage.outbox.__tablename__] = count_rows(session, stage.outbox, still_open(stage.outbox))
        try:
            counts |= {f"jobs in {queue}": count for queue, count in self.broker.jobs().items()}
        except BrokerSilent:
            counts["broker that does not answer"] = 1
        return {name: count for name, count in counts.items() if count}

    def events_so_far(self, up_to: int | None = None) -> tuple[int, str]:
        """The newest event's number, and a digest of all up to it: must never change afterwards."""
        digest = hashlib.sha256()
        with self.store.database.reading() as session:
            last = up_to if up_to is not None else session.scalar(select(func.max(EventRecord.id))) or 0
            for row in session.execute(EVENTS.where(EventRecord.id <= last)):
                digest.update(repr(row).encode())
        return last, digest.hexdigest()


def send(handle: int, number: signal.Signals) -> bool:
    """By a pidfd, which never means another process; False if it has ended."""
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> int | None:
    if process.poll() is None:
        process.terminate()
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in children_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None
    return process.returncode


def children_of(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def free_port() -> int:
    """Below the range from which the kernel takes ports for outgoing connections: the API binds it again and again."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((ALLOWED_HOST, port))
            return port
