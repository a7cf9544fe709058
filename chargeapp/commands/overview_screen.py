"""An overview as tables and colours, and as JSON."""

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from chargeapp.commands.overview import Health, Overview
from chargeapp.commands.printing import PIPED_WIDTH, printable, short_time
from chargeapp.domain.charging_session import Decision, State
from chargeapp.reports import Backlog

COLOURS = {Health.HEALTHY: "green", Health.DEGRADED: "yellow", Health.DOWN: "red"}
COUNTED = {
    "accepted": "requests",
    **{f"decided {decision}": f"decisions_{decision}" for decision in Decision},
    "callbacks answered 2xx": "callbacks_succeeded",
    "callbacks failed": "callbacks_failed",
    **{f"ended {state}": f"requests_{state}" for state in State if state.terminal},
}


def console() -> Console:
    """One line a row where it is piped."""
    found = Console()
    return found if found.is_terminal else Console(width=PIPED_WIDTH)


def screen(overview: Overview, rates: dict[str, float] | None = None) -> Group:
    """`rates`: per second, by the names of COUNTED's figures."""
    headline = Text.assemble(
        "chargeapp is ", (overview.health.value, f"bold {COLOURS[overview.health]}"), f" at {short_time(overview.at)}"
    )
    found: list[Text | Table] = [headline, Text(), _parts(overview)]
    if overview.backlogs:
        found += [Text(), _queues(overview), Text(), _counts(overview, rates)]
    return Group(*found)


def _parts(overview: Overview) -> Table:
    table = _table("PART", "STATE", "FOUND")
    for part in overview.parts:
        table.add_row(part.name, Text(part.health, COLOURS[part.health]), printable(part.found))
    return table


def _queues(overview: Overview) -> Table:
    table = _table("QUEUE", "WAITING", "OLDEST DUE FOR", "DEAD LETTERS", numbers=True)
    for each in overview.backlogs:
        due = f"{_due_seconds(each, overview):,.0f} s" if each.oldest_due_at else ""
        table.add_row(each.queue, f"{each.waiting:,}", due, Text(f"{each.dead:,}", "yellow" if each.dead else ""))
    return table


def _counts(overview: Overview, rates: dict[str, float] | None) -> Table:
    table = _table("COUNTED", *(["PER SECOND"] if rates is not None else []), "LAST HOUR", "TODAY (UTC)", numbers=True)
    for words, name in COUNTED.items():
        now = [f"{rates.get(name, 0.0):,.1f}"] if rates is not None else []
        table.add_row(words, *now, f"{overview.last_hour[name]:,}", f"{overview.today[name]:,}")
    return table


def _table(first: str, *others: str, numbers: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, min_width=22, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    return table


def described(overview: Overview) -> dict[str, Any]:
    return {
        "status": overview.health,
        "at": overview.at.isoformat(),
        "parts": {part.name: {"status": part.health, "found": part.found} for part in overview.parts},
        "oldestWaitingSeconds": round(overview.oldest_waiting_seconds, 1),
        "queues": {
            each.queue: {
                "waiting": each.waiting,
                "oldestDueSeconds": round(_due_seconds(each, overview), 1),
                "deadLetters": each.dead,
            }
            for each in overview.backlogs
        },
        "lastHour": overview.last_hour,
        "today": overview.today,
    }


def _due_seconds(backlog: Backlog, overview: Overview) -> float:
    return (overview.at - backlog.oldest_due_at).total_seconds() if backlog.oldest_due_at else 0.0
