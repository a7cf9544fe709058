"""What was measured on, and with which versions."""

import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from statistics import median

from drilling.report import machine as basics
from pysqlite3 import dbapi2 as sqlite

from benching.figures import percentile
from benching.peers_venv import pinned
from benching.stubs import find_nginx
from chargeapp.storage.sqlite import file_system_of
from chargeapp.transport.embedded_redis import find_redis_server

SYNCS = 200
PEERS = ("celery", "dramatiq", "redis", "flask", "gunicorn", "requests")


def describe(folder: Path) -> dict[str, str]:
    """`folder` is where the databases were."""
    syncs = _fsync_millis(folder)
    found = {name: str(value) for name, value in basics().items()}
    return {
        "cores": found["cores"],
        "processor": _processor(),
        "memory": f"{found['memory GiB']} GiB",
        "disk": f"{file_system_of(folder)}; 4 KiB and fsync: median {median(syncs):.2f} ms, p99 "
        f"{percentile(syncs, 0.99):.2f} ms",
        "kernel": f"{found['kernel']}, {found['architecture']}",
        "load before the run": ", ".join(f"{value:.2f}" for value in os.getloadavg()),
        "chargeapp": f"{found['chargeapp']}, Python {found['Python']}, SQLite {sqlite.sqlite_version}, Redis "
        f"{_version(find_redis_server(), '--version')}",
        "peers": ", ".join(f"{name} {pinned()[name]}" for name in PEERS) + "; the same Python and Redis",
        "stubs and client": f"nginx {_version(find_nginx(), '-v')}, wrk {_version(shutil.which('wrk'), '-v')}",
    }


def _processor() -> str:
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.processor() or "unknown"


def _fsync_millis(folder: Path) -> list[float]:
    took = []
    path = folder / "fsync"
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            os.fsync(file.fileno())
            took.append(1000 * (time.perf_counter() - began))
    path.unlink()
    return took


def _version(program: str | Path | None, option: str) -> str:
    """Some say it with an exit status of 1, some where errors go."""
    if program is None:
        return "not installed"
    done = subprocess.run([program, option], capture_output=True, text=True, timeout=10)  # noqa: S603, PLW1510 - ours
    found = re.search(r"\d+\.\d+[\d.]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"
