"""Everything on this machine, from one warm process."""

import dataclasses
import http.client
import ipaddress
import json
import socket
import time
from collections.abc import Callable

from chargeapp.clock import utcnow
from chargeapp.commands.demo_receiver import run_demo_receiver
from chargeapp.commands.gunicorn_server import run_web
from chargeapp.commands.processes import check_web_may_start, run_relay
from chargeapp.commands.supervisor import Program, Supervisor
from chargeapp.config import Settings, load_settings
from chargeapp.errors import MisconfiguredError, TemporaryFailure
from chargeapp.logs import configure_logging
from chargeapp.pipeline import STAGES, Stage
from chargeapp.runtime import Runtime
from chargeapp.security.driver_tokens import mask
from chargeapp.services.access_list import ANY, Entry, count_entries, put_entries
from chargeapp.storage import schema
from chargeapp.transport.embedded_redis import run_embedded_redis
from jobs.worker import run_worker

READY_SECONDS = 60
DEMO_STATION = "123e4567-e89b-12d3-a456-426614174000"
DEMO_DRIVER = "demo-driver-allowed-0001"
DEMO_BLOCKED_DRIVER = "demo-driver-blocked-0001"


def run_everything(*, demo: bool) -> None:
    """Until SIGINT or SIGTERM; the demo is left out in production."""
    settings = load_settings()
    demo = demo and not settings.production
    if not settings.production and not settings.callback_allowed_networks:
        # So that the demo receiver, and a developer's own, can be reached.
        loopback = (ipaddress.ip_network("127.0.0.0/8"),)
        settings = dataclasses.replace(settings, callback_allowed_networks=loopback)
    configure_logging(settings, "up")
    check_port_is_free(settings.host, settings.port, "PORT")
    if demo:
        check_port_is_free("127.0.0.1", settings.port + 1, "PORT, whose next one the demo receiver needs,")
    secret = prepare(settings, demo=demo)
    programs = (
        []
        if settings.redis_url or settings.uses_kafka
        else [Program("redis", lambda: run_embedded_redis(settings.chargeapp_data_dir), stop_last=True)]
    )
    programs.append(Program("web", as_process("web", settings, lambda: run_web(settings))))
    programs.append(Program("relay", as_process("relay", settings, lambda: run_relay(Runtime(settings)))))
    programs += [Program(f"worker {stage.queue}", worker_process(settings, stage)) for stage in STAGES]
    if demo:
        programs.append(
            Program("demo receiver", lambda: run_demo_receiver(settings.port + 1, secret, example_curl(settings)))
        )
    programs.append(Program("announcement", lambda: announce(settings, demo=demo), once=True))
    Supervisor(programs).run()


def as_process(name: str, settings: Settings, run: Callable[[], None]) -> Callable[[], None]:
    def process() -> None:
        configure_logging(settings, name)
        run()

    return process


def worker_process(settings: Settings, stage: Stage) -> Callable[[], None]:
    return as_process(f"worker {stage.queue}", settings, lambda: run_worker(Runtime(settings), stage))


def prepare(settings: Settings, *, demo: bool) -> str:
    """Tables, secrets and demo drivers; leaves no connection open, because the children are forked from here."""
    runtime = Runtime(settings).verify()
    schema.upgrade(runtime.database)
    if demo:
        now = utcnow()
        with runtime.database.writing() as session:
            if not count_entries(session):
                put_entries(
                    session,
                    [
                        Entry(runtime.vault.hash(token), mask(token), ANY, blocked=blocked)
                        for token, blocked in ((DEMO_DRIVER, False), (DEMO_BLOCKED_DRIVER, True))
                    ],
                    now,
                )
    check_web_may_start(runtime)
    runtime.database.close()
    return runtime.secrets.webhook_secret


def check_port_is_free(host: str, port: int, name: str) -> None:
    """Said now in one line, instead of later by gunicorn in many."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise MisconfiguredError(
                f"{name} {port}: {error.strerror}. Try another one: PORT=9000 scripts/up"
            ) from error


def announce(settings: Settings, *, demo: bool) -> None:
    """Wait until a request would be accepted and worked on, then say what to do next."""
    base = f"http://{settings.host}:{settings.port}"
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready(settings.host, settings.port):
        if time.monotonic() > deadline:
            raise TemporaryFailure(f"{base} does not accept requests after {READY_SECONDS} s; the lines above say why")
        time.sleep(0.05)
    lines = [f"  API and console   {base}/"]
    if demo:
        lines += [f"  Demo receiver     http://127.0.0.1:{settings.port + 1}/   shows each callback as it arrives"]
    lines += [f"  Data              {settings.chargeapp_data_dir}", ""]
    if demo:
        lines += ["Paste this, and watch the demo receiver:", "", example_curl(settings), ""]
    lines.append(f"Ready: {base} accepts requests. Ctrl-C stops everything.")
    print("\n".join(["", *lines]), flush=True)


def is_ready(host: str, port: int) -> bool:
    """Whether the API answers at all; it listens only once it can."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def example_curl(settings: Settings) -> str:
    body = {
        "stationId": DEMO_STATION,
        "driverToken": DEMO_DRIVER,
        "callbackUrl": f"http://127.0.0.1:{settings.port + 1}/callback",
    }
    return (
        f"curl -X POST http://{settings.host}:{settings.port}/api/v1/charging-session \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d '{json.dumps(body)}'"
    )
