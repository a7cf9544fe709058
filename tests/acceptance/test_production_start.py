"""Production starts only where nobody gets in without a key and the secrets are the operator's own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deployment import ROOT, STOP_SECONDS, Deployment

from chargeapp.security.secrets_file import new_secrets

PRODUCTION = {"CHARGEAPP_ENV": "production", "RATE_LIMIT": "1000/minute"}
COMMANDS = [["web"], ["up", "--no-demo"]]


def run(deployment: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    """A command that is expected to end soon."""
    return subprocess.run(
        [sys.executable, "-m", "chargeapp", *words],
        cwd=ROOT,
        env=deployment.environment,
        capture_output=True,
        text=True,
        timeout=STOP_SECONDS,
    )


@pytest.fixture
def without_secrets(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(data_dir(), **PRODUCTION) as deployment:
        yield deployment


@pytest.fixture
def with_secrets(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(data_dir(), **PRODUCTION, **new_secrets()) as deployment:
        yield deployment


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_secrets_it_says_how_to_make_them(without_secrets: Deployment, command: list[str]) -> None:
    ended = run(without_secrets, *command)

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "chargeapp: WEBHOOK_SECRET, DRIVER_TOKEN_KEYS, DRIVER_TOKEN_HASH_KEY must be set in production."
        " `chargeapp secrets generate` prints new ones."
    )
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_keys_it_says_how_to_make_one(with_secrets: Deployment, command: list[str]) -> None:
    ended = run(with_secrets, *command)

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "chargeapp: The API does not start in production without an API key."
        " Make one: chargeapp keys create --name NAME"
    )
    assert "Traceback" not in ended.stderr


def test_a_server_of_ones_own_does_not_start_without_keys_either(with_secrets: Deployment) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import wsgi"],
        cwd=ROOT,
        env=with_secrets.environment,
        capture_output=True,
        text=True,
        timeout=STOP_SECONDS,
    )

    assert ended.returncode == 1
    assert "Make one: chargeapp keys create --name NAME" in ended.stderr


def test_in_development_an_address_that_others_reach_needs_a_key_too(data_dir: Callable[[], Path]) -> None:
    with Deployment(data_dir(), HOST="0.0.0.0") as deployment:
        ended = run(deployment, "web")

    assert ended.returncode == 1
    assert "does not start on 0.0.0.0, where others may reach it, without an API key" in ended.stderr


def test_what_it_says_is_all_there_is_to_do(with_secrets: Deployment) -> None:
    made = run(with_secrets, "keys", "create", "--name", "hub", "--scope", "submit", "--scope", "read")
    key = {"Authorization": f"Bearer {made.stdout.strip()}"}
    body = {
        "stationId": "123e4567-e89b-12d3-a456-426614174000",
        "driverToken": "driver-token-of-production-1",
        "callbackUrl": "https://caller.example/callback",
    }

    with_secrets.up()
    accepted = with_secrets.post(json=body, headers=key)
    refused = with_secrets.post(json=body)
    request_id = accepted.json()["requestId"]
    page = f"/api/v1/charging-session/{request_id}"

    assert (accepted.status_code, refused.status_code) == (200, 401)
    assert (with_secrets.get(page, headers=key).status_code, with_secrets.get(page).status_code) == (200, 401)
    assert [with_secrets.get(each).status_code for each in ("/", "/metrics", "/health")] == [401, 401, 200]
    # Every gunicorn process hears of it with the very next request.
    assert run(with_secrets, "keys", "revoke", made.stdout.split("_")[1]).returncode == 0
    assert {with_secrets.get(page, headers=key).status_code for _ in range(20)} == {401}
    assert made.stdout.strip() not in with_secrets.output()


def test_with_a_key_an_address_that_others_reach_is_served(data_dir: Callable[[], Path]) -> None:
    with Deployment(data_dir(), HOST="0.0.0.0") as deployment:
        key = run(deployment, "keys", "create", "--name", "hub", "--scope", "read").stdout.strip()
        deployment.up()
        codes = [
            deployment.get("/api/v1/charging-session", headers=headers).status_code
            for headers in ({}, {"Authorization": f"Bearer {key}"})
        ]

    assert codes == [401, 200]
