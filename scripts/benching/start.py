"""Start: how long until it is ready, and until the command line answers?"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from drilling.deployment import ROOT, Deployment, free_port
from drilling.stores import SqliteFile

from benching.figures import spread
from benching.programs import START_SECONDS, DidNotStart, has_ended, running, wait_until
from benching.result import Result, Table, Target
from benching.svg import bars
from benching.workbench import Workbench

FIRST, AGAIN, IMPORTS = "`scripts/up`, first start", "`scripts/up`, later start", "`python -c 'import flask, …'`"
HELP, CLICK = "`chargeapp --help`", "`python -c 'import click'`"


def measure(bench: Workbench) -> Result:
    # Beside this very interpreter, so that it is the same environment's.
    chargeapp = str(Path(sys.executable).with_name("chargeapp"))
    used = bench.new_folder()
    _up(used)
    ways: dict[str, Callable[[], float]] = {
        FIRST: lambda: _up(bench.new_folder()),
        AGAIN: lambda: _up(used),
        IMPORTS: lambda: _command(sys.executable, "-c", "import flask, sqlalchemy, rq"),
        HELP: lambda: _command(chargeapp, "--help"),
        CLICK: lambda: _command(sys.executable, "-c", "import click"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with bench.display.phase("start", bench.plan.start_runs) as phase:
        for number in range(bench.plan.start_runs):
            phase.show(number)
            for name, run in ways.items():
                seconds[name].append(run())
        phase.show(bench.plan.start_runs)
    return report(seconds)


def _command(*words: str) -> float:
    began = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)  # noqa: S603 - our own programs
    return time.monotonic() - began


def _up(data_dir: Path) -> float:
    """Until it says that it is ready; it is stopped afterwards."""
    log = data_dir / "up.log"
    log.write_text("")
    environment = Deployment(data_dir, free_port(), SqliteFile(data_dir), {}).environment
    began = time.monotonic()
    with running([ROOT / "scripts" / "up"], log, environment) as up:

        def is_ready() -> bool:
            if has_ended(up):
                raise DidNotStart(f"scripts/up ended:\n{log.read_text()[-2000:]}")
            return "\nReady" in log.read_text()

        wait_until(is_ready, "scripts/up was not ready", START_SECONDS, pause=0.005)
        return time.monotonic() - began


def report(seconds: dict[str, list[float]]) -> Result:
    millis = {name: 1000 * median(each) for name, each in seconds.items()}
    return Result(
        name="start",
        title="Start",
        method=(
            "Several runs in turn. `scripts/up` in an installed checkout, from the command to the line that says "
            "Ready; the first start makes tables and secrets. The imports are `import flask, sqlalchemy, rq`."
        ),
        targets=[
            Target(
                "start-up",
                "First start of `scripts/up` at most 4 times the imports",
                millis[FIRST],
                4.0,
                "ms",
                peer=millis[IMPORTS],
                at_most=True,
            ),
            Target(
                "start-help",
                "`chargeapp --help` at most 3 times `import click`",
                millis[HELP],
                3.0,
                "ms",
                peer=millis[CLICK],
                at_most=True,
            ),
        ],
        tables=[
            Table(
                ("", "ms"),
                [(name, spread([1000 * value for value in each])) for name, each in seconds.items()],
                f"Median of {len(seconds[FIRST])} runs, and the range",
            )
        ],
        charts={"start": bars("Start", "ms", {name.replace("`", ""): value for name, value in millis.items()})},
        figures=dict(seconds.items()),
    )
