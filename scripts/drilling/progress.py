"""How far the drill is: bars on a terminal, otherwise a line every ten seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 10.0


class Display:
    """Writes to standard error; the result goes to standard output."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._last_line = 0.0

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def phase(self, name: str, total: float) -> Iterator["Phase"]:
        if self._console.is_terminal:
            with Progress(
                TextColumn("{task.description:<14}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            ) as bar:
                yield Phase(self, name, total, bar)
        else:
            yield Phase(self, name, total, None)


class Phase:
    def __init__(self, display: Display, name: str, total: float, bar: Progress | None) -> None:
        self._display = display
        self._name = name
        self._total = total
        self._bar = bar
        self._task = bar.add_task(name, total=total, note="") if bar else None
        self._next_line = time.monotonic()

    def show(self, done: float, note: str = "") -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            print(f"{self._name}: {done:g} of {self._total:g}  {note}", file=sys.stderr, flush=True)
