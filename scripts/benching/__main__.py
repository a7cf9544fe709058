"""The command line of the bench."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from drilling.deployment import ROOT
from drilling.progress import Display

from benching import backlog, databases, growth, intake, latency, migration, pages, saturated, slow_destination, start
from benching.machine import describe
from benching.plans import FULL, QUICK
from benching.report import Report
from benching.result import Result
from benching.workbench import Workbench, check_programs, workbench


@dataclass(frozen=True)
class Measurement:
    name: str
    help: str
    measure: Callable[[Workbench], Result]
    programs: frozenset[str] = frozenset({"nginx", "wrk"})
    lasting: bool = False
    """Takes so long that `all` leaves it out."""


MEASUREMENTS = (
    Measurement("saturated", "As much as goes in: rate end to end, beside Dramatiq and Celery.", saturated.measure),
    Measurement("latency", "From POST to callback at 10/s and 100/s, beside Dramatiq and Celery.", latency.measure),
    Measurement("intake", "Accepting alone, beside a bare Flask view.", intake.measure),
    Measurement("growth", "With a million finished requests stored, beside an empty database.", growth.measure),
    Measurement(
        "pages", "Every page with a million requests stored, beside a thousand.", pages.measure, programs=frozenset()
    ),
    Measurement("backlog", "100,000 accepted, then worked on: how evenly, and in how much memory.", backlog.measure),
    Measurement(
        "slow-destination", "Twenty destinations, one of them slow.", slow_destination.measure, programs=frozenset()
    ),
    Measurement("databases", "SQLite and PostgreSQL, with more workers and relays.", databases.measure),
    Measurement(
        "migration",
        "A million finished requests move to PostgreSQL while others come in.",
        migration.measure,
        programs=frozenset(),
        lasting=True,
    ),
    Measurement("start", "scripts/up and chargeapp --help, beside bare imports.", start.measure, programs=frozenset()),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure chargeapp beside its peers on this machine.

    Everything runs on free ports of 127.0.0.1 and in a folder of its own, and ends with the bench. Nothing else should
    be running meanwhile. Most measurements need nginx-light and wrk; the peers are installed into .bench, with their
    versions pinned. The exit status says whether measuring worked, not whether targets are met.

    \b
    Examples:
      scripts/bench all                    everything, about 25 minutes on two cores; writes docs/performance.md
      scripts/bench saturated              rate end to end
      scripts/bench latency --json         POST to callback
      scripts/bench intake                 accepting alone
      scripts/bench growth                 with a million finished requests
      scripts/bench pages                  every page with a million requests
      scripts/bench backlog                draining 100,000
      scripts/bench slow-destination       whether others wait for it
      scripts/bench databases              SQLite and PostgreSQL, with more workers
      scripts/bench migration              a million requests to PostgreSQL, with traffic; not in all
      scripts/bench start                  how long until it is ready
      scripts/bench all --quick            everything in small: does the bench itself work?
    """
    # The orderly way out, so that nothing stays behind.
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def add(name: str, help_: str, wanted: tuple[Measurement, ...], default_out: Path | None = None) -> None:
    @main.command(name, help=help_)
    @click.option("--quick", is_flag=True, help="In small, to see that it works; the figures mean nothing.")
    @click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        help="Write performance.md and its charts here." + (" Default: docs, unless --quick." if default_out else ""),
    )
    @click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
    def command(quick: bool, out: Path | None, as_json: bool) -> None:
        check_programs(set().union(*(each.programs for each in wanted)))
        try:
            report = run(wanted, quick)
        except KeyboardInterrupt:
            click.echo("Stopped, and everything it had started with it.", err=True)
            sys.exit(130)
        out = out or (None if quick else default_out)
        if out and report.results:
            report.write(out)
        click.echo(report.as_json() if as_json else report.as_text())
        sys.exit(bool(report.failures))


def run(wanted: tuple[Measurement, ...], quick: bool) -> Report:
    began = time.monotonic()
    display = Display()
    with workbench(QUICK if quick else FULL, display) as bench:
        machine = describe(bench.new_folder())
        results: list[Result] = []
        failures: dict[str, str] = {}
        for number, each in enumerate(wanted, start=1):
            display.say(f"{number} of {len(wanted)}: {each.name}, after {time.monotonic() - began:.0f} s")
            try:
                results.append(each.measure(bench))
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                # The others are measured all the same: a run takes long.
                failures[each.name] = str(error)
                display.say(f"{each.name} failed: {error}")
    return Report(f"{datetime.now(UTC):%Y-%m-%d}", time.monotonic() - began, quick, machine, results, failures)


for each in MEASUREMENTS:
    add(each.name, each.help, (each,))
add(
    "all",
    "Everything but migration, one after the other.",
    tuple(each for each in MEASUREMENTS if not each.lasting),
    default_out=ROOT / "docs",
)

if __name__ == "__main__":
    main(prog_name="scripts/bench")
