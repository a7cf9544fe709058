"""`chargeapp top`: the same as status, again and again."""

import json
import sys
from typing import TYPE_CHECKING

import click

from chargeapp.commands.opened import closing_runtime

if TYPE_CHECKING:
    from chargeapp.commands.overview import Overview


@click.command()
@click.option(
    "--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="Print one frame and end, as where the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print each frame as a line of JSON.")
def top(interval: float, once: bool, as_json: bool) -> None:
    """Watch who is at work, what waits and what is done, until `q` or Ctrl-C.

    Rates are those since the frame before.

    \b
    Examples:
      chargeapp top
      chargeapp top --interval 0.5
      chargeapp top --once
      chargeapp top --json --interval 60 >> overview.jsonl
    """
    from chargeapp.commands.live_screen import frames, watch
    from chargeapp.commands.overview_screen import console, described, screen
    from chargeapp.config import load_settings

    with closing_runtime(load_settings()) as runtime:
        found = frames(runtime)

        def as_line(frame: "tuple[Overview, dict[str, float]]") -> str:
            return json.dumps(described(frame[0]) | {"perSecond": frame[1]})

        if as_json:
            watch(lambda: print(as_line(next(found)), flush=True), interval, once=once)
        elif once or not sys.stdout.isatty():
            console().print(screen(*next(found)))
        else:
            from rich.live import Live

            with Live(screen(*next(found)), console=console(), screen=True, auto_refresh=False) as live:
                watch(lambda: live.update(screen(*next(found)), refresh=True), interval)
