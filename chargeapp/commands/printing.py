"""How commands show tables and progress."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

PIPED_WIDTH = 240


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One line a row where it is piped, so that grep and cut see it whole; folded to the width of a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


def printable(cell: object) -> str:
    """What came from outside must not steer the terminal."""
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return short_time(cell)
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(cell))


def short_time(moment: datetime | None) -> str:
    """In UTC, to the second."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else ""


def stop_output() -> None:
    """After standard output failed: what is still buffered would be tried once more at the end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress(task: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, shown on a terminal only; yields what moves it on by so much."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        number = bar.add_task(task, total=total)
        yield lambda amount: bar.advance(number, amount)
