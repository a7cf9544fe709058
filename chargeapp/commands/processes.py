"""The long-running processes, one command each, for Procfile, systemd and cron."""

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING

import click

from chargeapp.commands.parameters import QUEUES
from chargeapp.garbage import spare_what_stays

if TYPE_CHECKING:
    from chargeapp.relay import Pass
    from chargeapp.runtime import Runtime


@click.command()
def web() -> None:
    """Run the API with gunicorn.

    \b
    Example:
      PORT=9000 chargeapp web
    """
    from chargeapp.commands.gunicorn_server import run_web
    from chargeapp.config import load_settings
    from chargeapp.logs import configure_logging
    from chargeapp.runtime import Runtime

    settings = load_settings()
    configure_logging(settings, "web")
    check_web_may_start(Runtime(settings).verify())
    run_web(settings)


@click.command()
@click.option("--once", is_flag=True, help="Move everything that is due now, then end. For cron.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print what was done as JSON.")
def relay(once: bool, as_json: bool) -> None:
    """Move due outbox rows into the queues, and find lost ones again.

    \b
    Examples:
      chargeapp relay             until SIGTERM, at once when rows become due
      chargeapp relay --once      one pass, as cron runs it
    """
    from chargeapp.config import load_settings
    from chargeapp.logs import configure_logging
    from chargeapp.runtime import Runtime

    if as_json and not once:
        raise click.UsageError("--json goes with --once.")
    settings = load_settings()
    configure_logging(settings, "relay")
    runtime = Runtime(settings).verify()
    if once:
        done = runtime.relay.once()
        click.echo(json.dumps(asdict(done)) if as_json else in_words(done))
    else:
        run_relay(runtime)


@click.command()
@click.argument("queue", type=click.Choice(QUEUES))
def worker(queue: str) -> None:
    """Run the jobs of one QUEUE. Start as many as the load needs; a supervisor restarts what ends.

    \b
    Example:
      chargeapp worker callbacks
    """
    from chargeapp.config import load_settings
    from chargeapp.logs import configure_logging
    from chargeapp.pipeline import STAGES
    from chargeapp.runtime import Runtime

    # The one place where the application names the jobs, and it is an entry point.
    from jobs.worker import run_worker

    settings = load_settings()
    configure_logging(settings, f"worker {queue}")
    run_worker(Runtime(settings).verify(), next(stage for stage in STAGES if stage.queue == queue))
    # A call that outlasts the orderly stop is left to its lease; the interpreter would wait for its thread.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def check_web_may_start(runtime: "Runtime") -> None:
    """Raises MisconfiguredError that says what to do if others could reach the API and no key was made yet."""
    from chargeapp.commands.opened import check_tables
    from chargeapp.web.auth import check_keys_exist, may_be_open

    if not may_be_open(runtime.settings):
        check_tables(runtime.database)
        check_keys_exist(runtime)


def run_relay(runtime: "Runtime") -> None:
    """Until SIGTERM or SIGINT."""
    stop = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    spare_what_stays()
    runtime.relay.run(stop.is_set)
    runtime.close_transport()


def in_words(done: "Pass") -> str:
    published = ", ".join(f"{count} to {queue}" for queue, count in done.published.items())
    return (
        f"Published {published}; {done.recovered} recovered, "
        f"{done.decided_by_deadline} decided by their deadline, {done.expired} expired."
    )
