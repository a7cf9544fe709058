"""One deployment's real processes: a free port and a data directory of their own; all of them end with the test."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import func, select
from stacks import Stack, delete_topics
from support.ports import free_port

from chargeapp.clock import utcnow
from chargeapp.config import load_settings
from chargeapp.runtime import Runtime
from chargeapp.security.driver_tokens import mask
from chargeapp.services.access_list import ANY, Entry, put_entries
from chargeapp.storage import heartbeats, schema
from chargeapp.storage.models import EventRecord

ROOT = Path(__file__).resolve().parents[2]
STATION = "123e4567-e89b-12d3-a456-426614174000"
DEADLINE_SECONDS = 30.0
STOP_SECONDS = 30.0
RECENTLY = timedelta(minutes=1)
REDIS = "import sys; from pathlib import Path; from chargeapp.transport import embedded_redis as e;" + (
    "e.run_embedded_redis(Path(sys.argv[1]))"
)


class Deployment:
    """A context manager. `settings` are environment variables; what is not given is as by default, on this `stack`."""

    stack = Stack()
    live: list["Deployment"] = []  # noqa: RUF012 - whose logs are shown when a test fails

    def __init__(self, data_dir: Path, stack: Stack | None = None, **settings: str) -> None:
        self.data_dir = data_dir
        self.log = data_dir / "processes.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {
            "PORT": str(self.port),
            "CHARGEAPP_DATA_DIR": str(data_dir),
            "CALLBACK_ALLOWED_NETWORKS": "127.0.0.0/8",
            "LOG_FORMAT": "json",
            **settings,
        }
        self._ending = contextlib.ExitStack()
        self.stack = stack or self.stack
        self.processes: list[subprocess.Popen[bytes]] = []
        self._http = requests.Session()
        self._http.trust_env = False

    def __enter__(self) -> "Deployment":
        ground = self._ending.enter_context(self.stack.ground())
        self._kafka = ground.kafka
        self.settings = ground.settings | self.settings
        self.environment = {**os.environ, **self.settings, "CHARGEAPP_CONFIG": os.devnull}
        self.runtime = Runtime(load_settings(environ=self.settings, config_file=Path(os.devnull)))
        self.live.append(self)
        schema.upgrade(self.runtime.database)
        return self

    def __exit__(self, *_: object) -> None:
        with self._ending:
            try:
                self._http.close()
                self.runtime.close_transport()
                self.runtime.database.close()
                for process in reversed(self.processes):
                    stop(process)
            finally:
                self.live.remove(self)

    # Processes

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """`chargeapp words…`, in the background."""
        return self._spawn(sys.executable, "-m", "chargeapp", *words)

    @property
    def broker(self) -> str:
        """Its name among the components of `health`."""
        return "kafka" if self._kafka else "redis"

    def start_broker(self) -> None:
        """What `up` would bring along."""
        if not self._kafka:
            self._spawn(sys.executable, "-c", REDIS, str(self.data_dir))

    def run_cron(self) -> None:
        """As cron does: from another directory, and with whatever Python comes first."""
        done = subprocess.run(
            ["python3", ROOT / "scripts" / "relay.py"],
            cwd="/",
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=STOP_SECONDS,
        )
        assert done.returncode == 0, done.stderr

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        return process

    def up(self) -> "Deployment":
        """Everything, as `chargeapp up --no-demo` starts it."""
        supervisor = self.start("up", "--no-demo")
        self.until(lambda: supervisor.poll() is not None or "\nReady" in self.output(), "no line begins with Ready")
        self.until(lambda: self.health()["status"] == "UP", "not healthy")
        return self

    @property
    def supervisor(self) -> subprocess.Popen[bytes]:
        return self.processes[0]

    def pid_of(self, program: str) -> int:
        """A child of `chargeapp up`: `redis`, `worker authorization`, …; or `kafka`, which is none."""
        if program == "kafka":
            assert self._kafka
            return self._kafka.pid
        children = children_of(self.supervisor.pid)
        if program == "redis":
            return next(pid for pid in children if "redis-server" in Path(f"/proc/{pid}/cmdline").read_text())
        with self.runtime.database.reading() as session:
            alive = {
                int(each.process.split()[-1]) for each in heartbeats.since(session, f"{program} ", utcnow() - RECENTLY)
            }
        return next(iter(alive & set(children)))

    def kill(self, program: str) -> int:
        pid = self.pid_of(program)
        os.kill(pid, signal.SIGKILL)
        return pid

    @contextmanager
    def nothing_restarts(self) -> Iterator[None]:
        """The supervisor is held still, so that what was killed stays away."""
        os.kill(self.supervisor.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.supervisor.pid, signal.SIGCONT)

    @contextmanager
    def without_broker(self) -> Iterator[None]:
        """Redis or Kafka is killed, and comes back afterwards."""
        if not self._kafka:
            with self.nothing_restarts():
                self.kill("redis")
                yield
            return
        self._kafka.stop()
        try:
            yield
        finally:
            self._kafka.start()

    def empty_broker(self) -> None:
        """Every job in it is gone."""
        if self._kafka:
            delete_topics(self._kafka)
        else:
            self.runtime.redis.flushall()

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # What a caller does

    def post(self, path: str = "", **options: Any) -> requests.Response:
        return self._http.post(f"{self.url}/api/v1/charging-session{path}", timeout=DEADLINE_SECONDS, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self._http.get(f"{self.url}{path}", timeout=DEADLINE_SECONDS, **options)

    def submit(self, driver_token: str, callback_url: str, **more: Any) -> str:
        """The id of an accepted request."""
        body = {"stationId": STATION, "driverToken": driver_token, "callbackUrl": callback_url, **more}
        answer = self.post(json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["requestId"])

    def show(self, request_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/api/v1/charging-session/{request_id}").json()
        return found

    def health(self) -> dict[str, Any]:
        """As if DOWN while nobody answers."""
        try:
            found: dict[str, Any] = self.get("/health").json()
        except requests.ConnectionError:
            return {"status": "DOWN"}
        return found

    def wait_until(self, request_id: str, deadline_seconds: float = DEADLINE_SECONDS, **wanted: Any) -> dict[str, Any]:
        """The request, once all that is `wanted` of it is so."""
        shown: dict[str, Any] = {}

        def so() -> bool:
            shown.update(self.show(request_id))
            return all(shown[name] == value for name, value in wanted.items())

        self.until(so, lambda: f"{request_id} did not come to {wanted}: {shown}", deadline_seconds)
        return shown

    def until(
        self,
        condition: Callable[[], bool],
        otherwise: str | Callable[[], str],
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        deadline = time.monotonic() + deadline_seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
            time.sleep(0.05)

    # What an operator does or sees

    def allow(self, *driver_tokens: str, blocked: bool = False) -> None:
        vault = self.runtime.vault
        entries = [Entry(vault.hash(token), mask(token), ANY, blocked=blocked) for token in driver_tokens]
        with self.runtime.database.writing() as session:
            put_entries(session, entries, utcnow())

    def terminal_events(self, request_id: str) -> list[str]:
        with self.runtime.database.reading() as session:
            return list(
                session.scalars(
                    select(EventRecord.type).where(EventRecord.request_id == request_id, EventRecord.terminal)
                )
            )

    def requests_with_events(self, type_: str) -> int:
        with self.runtime.database.reading() as session:
            statement = select(func.count(EventRecord.request_id.distinct())).where(EventRecord.type == type_)
            return session.scalar(statement) or 0


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def stop(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    """Ask it to end, in the end by force; returns its exit status."""
    if process.poll() is None:
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(STOP_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait(STOP_SECONDS)
