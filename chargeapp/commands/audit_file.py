"""Decisions as CSV or lines of JSON, written as they are read; a file appears when it is complete."""

import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from chargeapp.commands.printing import progress
from chargeapp.errors import ChargeappError
from chargeapp.runtime import Runtime
from chargeapp.services.audit import Period, count_requests, pages_of_decisions

COLUMNS = (
    "requestId",
    "caller",
    "stationId",
    "driver",
    "acceptedAt",
    "decidedAt",
    "decision",
    "reason",
    "source",
    "authorizationTries",
    "authorizationMillis",
    "callbackDestination",
    "callbackAttempts",
    "lastError",
    "state",
    "expiresAt",
    "endedAt",
)
# A spreadsheet takes what begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

Write = Callable[[list[dict[str, Any]]], None]


class FileNotWrittenError(ChargeappError):
    """The file cannot be written."""


def export_decisions(runtime: Runtime, period: Period, format_: str, output: str, *, force: bool) -> tuple[int, int]:
    """How many decisions were written, and how many requests left out because they are undecided."""
    decisions = undecided = 0
    with _opened(output, force=force) as file:
        write = _csv(file) if format_ == "csv" else _jsonl(file)
        with runtime.database.reading() as session:
            total = count_requests(session, period)
        with progress("Exporting", total) as advance:
            for page in pages_of_decisions(runtime.database, runtime.vault, period):
                write(page.decisions)
                decisions += len(page.decisions)
                undecided += page.undecided
                advance(len(page.decisions) + page.undecided)
    return decisions, undecided


def _csv(file: TextIO) -> Write:
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    return lambda rows: writer.writerows([harmless(row[name]) for name in COLUMNS] for row in rows)


def _jsonl(file: TextIO) -> Write:
    return lambda rows: file.writelines(f"{json.dumps(row)}\n" for row in rows)


def harmless(cell: object) -> object:
    """Text that is text to a spreadsheet, too."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


@contextmanager
def _opened(output: str, *, force: bool) -> Iterator[TextIO]:
    if output == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    target = Path(output).absolute()
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _check(target, force=force)
        # Readable for its owner only, from the first byte on.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _check(target, force=force)
        draft.rename(target)
    except OSError as error:
        raise FileNotWrittenError(f"{target} cannot be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _check(target: Path, *, force: bool) -> None:
    if target.exists() and not target.is_file():
        raise FileNotWrittenError(f"{target} is no file. Name a new one.")
    if target.exists() and not force:
        raise FileNotWrittenError(f"{target} exists already. Name a new file, or add --force.")
