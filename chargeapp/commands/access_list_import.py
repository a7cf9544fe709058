"""Importing an access list: checked as a whole first, then stored in batches."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import click

from chargeapp.clock import utcnow
from chargeapp.commands.access_list_entries import entry_of
from chargeapp.commands.access_list_file import Line, Row, read_lines
from chargeapp.commands.printing import progress
from chargeapp.errors import ChargeappError
from chargeapp.runtime import Runtime
from chargeapp.services.access_list import put_entries

LINES_PER_TRANSACTION = 1_000


class FileRefusedError(ChargeappError):
    """Some lines are wrong, so nothing was imported."""


def import_file(runtime: Runtime, file: BinaryIO, *, skip_bad: bool) -> tuple[int, int]:
    """How many lines were stored, and how many were bad and skipped.

    Raises FileRefusedError, with every bad line reported and nothing stored, unless bad lines are to be skipped.
    """
    stored = bad = 0
    with _rewindable(file, runtime.settings.chargeapp_data_dir) as source:
        if not skip_bad:
            for batch in _batches(runtime, source, "Checking"):
                bad += _report_bad(batch)
            if bad:
                raise FileRefusedError(
                    f"{bad:,} bad lines, so nothing was imported. Mend them, or leave them out with --skip-bad."
                )
        for batch in _batches(runtime, source, "Importing"):
            bad += _report_bad(batch)
            rows = [line.row for line in batch if line.row is not None]
            _store(runtime, rows)
            stored += len(rows)
    return stored, bad


def _batches(runtime: Runtime, source: BinaryIO, task: str) -> Iterator[list[Line]]:
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    lines = read_lines(source, runtime.settings.driver_token_min_length)
    with progress(task, size) as advance:
        while batch := list(islice(lines, LINES_PER_TRANSACTION)):
            yield batch
            advance(sum(line.size for line in batch))


def _report_bad(batch: list[Line]) -> int:
    bad = [line for line in batch if line.error is not None]
    for line in bad:
        click.echo(f"line {line.number}: {line.error}.", err=True)
    return len(bad)


def _store(runtime: Runtime, rows: list[Row]) -> None:
    entries = [entry_of(runtime.vault, row) for row in rows]
    with runtime.database.writing() as session:
        put_entries(session, entries, utcnow())


@contextmanager
def _rewindable(file: BinaryIO, data_dir: Path) -> Iterator[BinaryIO]:
    """What comes through a pipe can be read once only, so it is kept in a file without a name for as long as needed."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile(dir=data_dir) as kept:
        shutil.copyfileobj(file, kept)
        yield kept
