"""The least that keeps the promise: JSON checked, one row for each request on disk before the answer, and nothing else.

No key, no limit, no sealed token, no outbox. One thread commits for all that wait, as chargeapp's does, for gunicorn's
worker on gevent.
"""

import fcntl
import os
import sqlite3
import uuid
from functools import cache

import gevent
from flask import Flask, request
from gevent.event import Event
from request_body import RequestBody

Row = tuple[str, str, str, str]
FILE = os.environ["DATABASE_FILE"]

app = Flask(__name__)
schema = RequestBody()
waiting: list[tuple[Row, Event]] = []
committing = False

with sqlite3.connect(FILE) as made:
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, station TEXT, token TEXT, url TEXT)")


@app.post("/api/v1/charging-session")
def accept() -> dict[str, str]:
    global committing  # noqa: PLW0603 - one for each process
    wanted = schema.load(request.get_json())
    on_disk = Event()
    row = (uuid.uuid4().hex, str(wanted["stationId"]), wanted["driverToken"], wanted["callbackUrl"])
    waiting.append((row, on_disk))
    if not committing:
        committing = True
        gevent.spawn(commit_all)
    on_disk.wait()
    return {"status": "accepted"}


def commit_all() -> None:
    global committing  # noqa: PLW0603
    while waiting:
        gevent.sleep(0)  # those who were just answered may post again, and come along
        for on_disk in gevent.get_hub().threadpool.apply(commit_waiting):
            on_disk.set()
    committing = False


def commit_waiting() -> list[Event]:
    """In a thread, one at a time. Processes take turns in the order of asking."""
    fcntl.flock(turn(), fcntl.LOCK_EX)
    try:
        together = [waiting.pop() for _ in range(len(waiting))]
        database().execute("BEGIN IMMEDIATE")
        database().executemany("INSERT INTO requests VALUES (?, ?, ?, ?)", [row for row, _ in together])
        database().execute("COMMIT")
    finally:
        fcntl.flock(turn(), fcntl.LOCK_UN)
    return [on_disk for _, on_disk in together]


@cache
def turn() -> int:
    return os.open(f"{FILE}.turn", os.O_RDWR | os.O_CREAT, 0o600)


@cache
def database() -> sqlite3.Connection:
    opened = sqlite3.connect(FILE, isolation_level=None, check_same_thread=False)
    opened.execute("PRAGMA synchronous=FULL")
    opened.execute("PRAGMA wal_autocheckpoint=20000")
    return opened
