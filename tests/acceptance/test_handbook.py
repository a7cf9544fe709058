"""The handbook's own commands, run as an operator would, each in the trouble it is for."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import pytest
from deployment import ROOT, STATION, Deployment
from servers import AuthorizationStub, Receiver

HANDBOOK = (ROOT / "docs" / "handbook.md").read_text()
EXAMPLE_ID = "req-0199c0ffee00a1b2c3d4e5f60718293a"
EXAMPLE_KEY = "3f9a01c2b7d4"
NOT_RUN = {
    "sudo sh -c": "needs root and the user chargeapp",
    "git fetch": "would change this very checkout",
}
DRIVER = "driver-token-of-the-handbook-1"

# Stand for systemd, which is not there: what they do to the processes is real.
SYSTEMCTL = """#!/bin/bash
set -eu
stop() {
    [ -e pid ] || return 0
    kill "$(cat pid)"
    while grep -q '^State:.[^Z]' "/proc/$(cat pid)/status" 2>/dev/null; do sleep 0.05; done
    rm pid
}
start() {
    set -a; . etc/env; set +a
    : > started
    setsid chargeapp up --no-demo >> started 2>> journal < /dev/null & echo $! > pid
    for _ in $(seq 600); do grep -q ^Ready started && return 0; sleep 0.05; done
    exit 1
}
[ "$2" = chargeapp.target ]
case $1 in stop) stop ;; start) start ;; restart) stop; start ;; esac
"""
DOUBLES = {"systemctl": SYSTEMCTL, "sudo": '#!/bin/sh\nexec "$@"\n', "journalctl": "#!/bin/sh\ncat journal\n"}


def blocks(heading: str) -> list[tuple[str, str]]:
    """The fenced blocks of one section, also those within lists."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", HANDBOOK, re.MULTILINE | re.DOTALL)
    return fenced(section)


def fenced(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^ *```(\S*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


class Operator:
    """Works in a folder that has what a server has: settings, backups, a journal."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self._folder = folder
        for name in ("etc", "backups", "bin"):
            (folder / name).mkdir()
        for name, script in DOUBLES.items():
            (folder / "bin" / name).write_text(script)
            (folder / "bin" / name).chmod(0o755)

    def configure(self, **settings: str) -> None:
        secrets = self._bash("chargeapp secrets generate", settings=False).splitlines()
        given = {**self.deployment.settings, "CHARGEAPP_CONFIG": os.devnull, **settings}
        lines = [*secrets, *(f"{name}='{value}'" for name, value in given.items())]
        self.env_file.write_text("\n".join(lines) + "\n")

    @property
    def env_file(self) -> Path:
        return self._folder / "etc" / "env"

    def systemctl(self, verb: str) -> None:
        self._bash(f"systemctl {verb} chargeapp.target", settings=False)

    def follow(self, heading: str, **examples: str) -> list[str]:
        """What each of the section's commands prints; all must succeed."""
        return [self.run(content, examples) for language, content in blocks(heading) if language == "bash"]

    def run(self, block: str, examples: dict[str, str], *, expected: int = 0) -> str:
        places = {"/etc/chargeapp/env": "etc/env", "/backups": "backups", EXAMPLE_ID: examples.get("id", EXAMPLE_ID)}
        places[EXAMPLE_KEY] = examples.get("key", EXAMPLE_KEY)
        for theirs, ours in places.items():
            block = block.replace(theirs, ours)
        return self._bash(block, expected=expected)

    def _bash(self, script: str, *, settings: bool = True, expected: int = 0) -> str:
        path = os.pathsep.join([str(self._folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"set -a; . etc/env; set +a\n{script}" if settings else script],
            cwd=self._folder,
            env={"PATH": path, "HOME": str(self._folder)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == expected, f"{script}\n{done.stdout}\n{done.stderr}\n{self.journal()[-3000:]}"
        return done.stdout

    def journal(self) -> str:
        journal = self._folder / "journal"
        return journal.read_text() if journal.exists() else ""


@contextmanager
def on_duty(data_dir: Path, folder: Path, **settings: str) -> Iterator[Operator]:
    with Deployment(data_dir) as deployment:
        operator = Operator(deployment, folder)
        operator.configure(**settings)
        operator.systemctl("start")
        try:
            deployment.until(lambda: deployment.health()["status"] == "UP", "not healthy")
            yield operator
        finally:
            operator.systemctl("stop")


@pytest.fixture
def operator(data_dir: Callable[[], Path], tmp_path: Path) -> Iterator[Operator]:
    with on_duty(data_dir(), tmp_path) as found:
        yield found


def failed_request(operator: Operator, receiver: Receiver) -> tuple[str, str]:
    """Its id, and where its callback goes: the first time to one who never wants to hear again."""
    path = receiver.path(410, 204)
    request_id = operator.deployment.submit(DRIVER, receiver.url(path))
    operator.deployment.wait_until(request_id, state="failed")
    return request_id, path


def test_every_block_is_run_or_said_why_not() -> None:
    languages = [(language, content) for language, content in fenced(HANDBOOK) if language != "bash"]

    assert [language for language, _ in languages] == ["text"] * len(NOT_RUN)
    assert all(content.lstrip().startswith(begins) for (_, content), begins in zip(languages, NOT_RUN, strict=True))
    named = re.findall(r'(?:follow|blocks)\("([^"]+)"', Path(__file__).read_text())
    assert set(named) == set(re.findall(r"^## (.+)$", HANDBOOK, re.MULTILINE))


def test_the_daily_look(operator: Operator, receiver: Receiver) -> None:
    request_id, _ = failed_request(operator, receiver)

    status, doctor, ended, *_ = operator.follow("The daily look")

    assert status.startswith("chargeapp is healthy")
    assert "fail" not in doctor
    assert request_id in ended


def test_a_caller_says_the_callback_never_came(operator: Operator, receiver: Receiver) -> None:
    request_id, path = failed_request(operator, receiver)
    failed_request(operator, receiver)

    shown, of_station, logged, again, many = operator.follow("A caller says the callback never came", id=request_id)

    assert "reason=gone" in shown
    assert request_id in of_station
    assert {"callback_attempted", "callback_delivery_failed"} <= set(re.findall(r'"action": "(\w+)"', logged))
    assert again == "1 sent again.\n"
    assert many.splitlines()[-1].endswith("sent again.")
    receiver.wait_for(path, 2)


@pytest.mark.skipif(which("jq") is None, reason="jq is not installed")
def test_the_circuit_breaker_is_open(data_dir: Callable[[], Path], tmp_path: Path, receiver: Receiver) -> None:
    service = AuthorizationStub()
    service.answers("driver", 500)
    service.answers("nobody", "not_allowed")
    settings = {"AUTHORIZATION_SERVICE_URL": service.url, "AUTHORIZATION_MAX_RETRIES": "0"}
    try:
        with on_duty(data_dir(), tmp_path, **settings) as operator:
            path = receiver.path()
            for _ in range(6):
                operator.deployment.submit(DRIVER, receiver.url(path))
            receiver.wait_for(path, 6)
            operator.deployment.until(lambda: operator.deployment.health()["status"] == "DEGRADED", "no breaker")

            doctor, asked, decisions = operator.follow("The circuit breaker is open")
    finally:
        service.close()

    assert "circuit breaker is open" in doctor
    assert asked == '{"status": "not_allowed"}'
    assert re.search(r"\d unknown,authorization_error,authorization_service\n", decisions)


@pytest.mark.only_on("sqlite", reason="the disk of the SQLite file")
def test_the_disk_is_full(operator: Operator) -> None:
    room, dry, healthy = operator.follow("The disk is full")

    assert "chargeapp.db" in room
    assert dry.startswith("0 requests would be removed.")
    assert "chargeapp is healthy" in healthy


@pytest.mark.only_on("sqlite", reason="begins with a backup of the SQLite file")
def test_upgrade(operator: Operator, receiver: Receiver) -> None:
    request_id, _ = failed_request(operator, receiver)

    backup, healthy = operator.follow("Upgrade")

    assert "checked" in backup
    assert "chargeapp is healthy" in healthy
    assert operator.deployment.show(request_id)["state"] == "failed"


def test_key_rotation(operator: Operator, receiver: Receiver) -> None:
    request_id, path = failed_request(operator, receiver)
    old = driver_token_keys(operator)
    key = operator.run("chargeapp keys create --name 'hub, old key' --caller hub", {})

    change, seal = (content for _, content in blocks("Key rotation")[-4:-2])
    operator.run(change, {})
    old_shell = f"DRIVER_TOKEN_KEYS={old[0]}\n"
    operator.run(old_shell + seal, {}, expected=1)
    *_, sealed, _, sealed_again = operator.follow("Key rotation", key=key.split("_")[1])

    assert re.match(r"[1-9]\d* of \d+ sealed anew", sealed)
    assert re.match(r"0 of \d+ sealed anew", sealed_again)
    assert len(driver_token_keys(operator)) == 1
    assert driver_token_keys(operator) != old
    assert "revoked" in operator.run("chargeapp keys list", {})
    # The token of an old request can still be opened.
    operator.run(f"chargeapp requests redeliver {request_id}", {})
    assert receiver.wait_for(path, 2)[-1].json["driver_token"] == DRIVER


@pytest.mark.slow
@pytest.mark.only_on("sqlite", reason="backups of the SQLite file")
def test_backup_and_restore(operator: Operator, receiver: Receiver) -> None:
    before, _ = failed_request(operator, receiver)
    (_, backup), (_, restore) = blocks("Backup and restore")
    operator.run(backup, {})
    after, _ = failed_request(operator, receiver)

    operator.run(restore, {})

    assert operator.deployment.show(before)["requestId"] == before
    assert operator.deployment.get(f"/api/v1/charging-session/{after}").status_code == 404


@pytest.mark.skipif(which("jq") is None, reason="jq is not installed")
def test_growing(operator: Operator, receiver: Receiver) -> None:
    failed_request(operator, receiver)

    (figures,) = operator.follow("Growing")

    assert figures.splitlines()[-1] == "1"


def test_the_station_of_the_handbook_is_that_of_the_tests() -> None:
    """Else a list of its requests would be empty here, and prove nothing."""
    assert STATION in HANDBOOK


def driver_token_keys(operator: Operator) -> list[str]:
    (value,) = re.findall(r"^DRIVER_TOKEN_KEYS=(.*)$", operator.env_file.read_text(), re.MULTILINE)
    return str(value).split(",")
