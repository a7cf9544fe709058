"""The README's own blocks, run as a newcomer would: against `chargeapp up`, on ports that are free."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import requests
from deployment import ROOT, STATION, Deployment, stop
from servers import Answer, AuthorizationStub, Receiver

pytestmark = pytest.mark.only_on("sqlite", reason="the README starts on SQLite and Redis")
README = (ROOT / "README.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\S*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
BASH = [content for language, content in BLOCKS if language == "bash"]
EXAMPLE_SECRET = re.findall(r"`(whsec_[^`]+)`", README)[-1]

NOT_RUN = {
    "scripts/up\n": "installs first; what it starts then is what is started here",
    "scripts/test\n": "runs this very test",
}
LANGUAGES = {
    "bash": "run here",
    "python": "run here",
    "json": "compared here",
    "http": "compared here",
    "toml": "loaded by the test of the documents",
    "mermaid": "checked by the test of the documents",
    "text": "would close the open development mode that the other blocks use; tests of keys run the command",
    "crontab": "cron is not run; the acceptance tests run its script",
}
DRIVER = "driver-token-of-the-readme-1"


class Newcomer:
    """Somebody with two terminals: one runs everything, the other the README's commands."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self._folder = folder
        self._http = requests.Session()
        self._http.trust_env = False

    def run(self, block: str) -> str:
        """What the block prints; it must succeed as a whole."""
        ours = {"8080": str(self.deployment.port), "8081": str(self.deployment.port + 1)}
        script = re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda port: ours[port[0]], block)
        bin_ = Path(sys.executable).parent
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._folder,
            env={**self.deployment.environment, "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def callbacks(self) -> list[dict[str, Any]]:
        """What the demo receiver shows."""
        url = f"http://127.0.0.1:{self.deployment.port + 1}/callbacks.json"
        found: list[dict[str, Any]] = self._http.get(url, timeout=10).json()["callbacks"]
        return found

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def newcomer(data_dir: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    if which("curl") is None:
        pytest.skip("curl is not installed")
    # Without a setting for callbacks: that the demo can be reached is what `up` sees to.
    with with_a_neighbour(lambda: Deployment(data_dir(), CALLBACK_ALLOWED_NETWORKS="")) as deployment:
        supervisor = deployment.start("up")
        deployment.until(
            lambda: supervisor.poll() is not None or "\nReady" in deployment.output(), "no line begins with Ready"
        )
        newcomer = Newcomer(deployment, tmp_path_factory.mktemp("second-terminal"))
        yield newcomer
        newcomer.close()
        assert stop(supervisor) == 0
        assert "Traceback" not in deployment.output()


def with_a_neighbour(make: Callable[[], Deployment]) -> Deployment:
    """The demo receiver needs the next port."""
    while True:
        deployment = make()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", deployment.port + 1)) != 0:
                return deployment


@pytest.fixture(scope="module")
def first_call(newcomer: Newcomer) -> dict[str, Any]:
    """The acknowledgement of the README's first curl."""
    (block,) = [block for block in BASH if "curl -X POST" in block]
    acknowledgement: dict[str, Any] = json.loads(newcomer.run(block))
    return acknowledgement


def test_every_block_is_run_or_said_why_not() -> None:
    assert {language for language, _ in BLOCKS} == set(LANGUAGES)
    assert set(NOT_RUN) <= set(BASH)


def test_the_first_call_is_acknowledged_as_shown(first_call: dict[str, Any]) -> None:
    shown = json.loads(block_of("json", 0))

    assert {name: type(value) for name, value in first_call.items()} == {
        name: type(value) for name, value in shown.items()
    }
    assert (first_call["status"], first_call["message"]) == (shown["status"], shown["message"])


def test_the_demo_receiver_shows_the_callback(newcomer: Newcomer, first_call: dict[str, Any]) -> None:
    newcomer.deployment.until(lambda: bool(newcomer.callbacks()), "no callback")

    (callback,) = newcomer.callbacks()
    assert (callback["status"], callback["signature"]) == ("allowed", "valid")
    assert callback["request_id"] == first_call["requestId"]


def test_up_prints_the_same_curl(newcomer: Newcomer) -> None:
    (block,) = [block for block in BASH if "curl -X POST" in block]
    port = newcomer.deployment.port

    assert block.replace(":8080", f":{port}").replace(":8081", f":{port + 1}") in newcomer.deployment.output()


@pytest.mark.parametrize("number", [number for number, block in enumerate(BASH) if block not in NOT_RUN])
def test_every_other_command_works(newcomer: Newcomer, first_call: dict[str, Any], number: int) -> None:
    newcomer.deployment.wait_until(first_call["requestId"], state="delivered")

    assert newcomer.run(BASH[number])


@pytest.fixture(scope="module")
def receiver_of_the_readme() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def callback(newcomer: Newcomer, receiver_of_the_readme: Receiver) -> tuple[dict[str, str], bytes]:
    """Headers and body as they came; the demo receiver keeps only masked ones."""
    path = receiver_of_the_readme.path()
    request_id = newcomer.deployment.submit(DRIVER, receiver_of_the_readme.url(path))
    (arrival,) = receiver_of_the_readme.wait_for(path)
    newcomer.deployment.wait_until(request_id, state="delivered")
    return arrival.headers, arrival.body


def test_the_callback_has_the_headers_and_the_body_shown(callback: tuple[dict[str, str], bytes]) -> None:
    headers, body = callback
    shown_headers, shown_body = shown_callback()

    assert list(headers) == list(shown_headers)
    for name in ("accept-encoding", "content-type", "user-agent"):
        assert headers[name] == shown_headers[name]
    assert shown_headers["content-length"] == str(len(shown_body))
    assert list(json.loads(body)) == list(json.loads(shown_body))
    assert body == json.dumps(json.loads(body), separators=(",", ":")).encode()


def test_the_verifier_accepts_a_real_callback_and_no_other(
    newcomer: Newcomer, callback: tuple[dict[str, str], bytes]
) -> None:
    headers, body = callback
    secret = newcomer.deployment.runtime.secrets.webhook_secret
    is_genuine = verifier()["is_genuine"]

    assert is_genuine(secret, headers, body)
    assert not is_genuine(secret, headers, body.replace(b"not_allowed", b"allowed"))
    assert not is_genuine(EXAMPLE_SECRET, headers, body)
    assert not is_genuine(secret, headers | {"webhook-id": "req-of-somebody-else"}, body)
    assert not is_genuine(secret, headers | {"webhook-timestamp": str(int(time.time()) - 3600)}, body)
    assert not is_genuine(secret, headers | {"webhook-timestamp": "now"}, body)


def test_the_callback_shown_is_signed_with_the_secret_shown() -> None:
    headers, body = shown_callback()
    namespace = verifier()

    class ThatDay:
        @staticmethod
        def time() -> float:
            return float(headers["webhook-timestamp"])

    namespace["time"] = ThatDay
    assert namespace["is_genuine"](EXAMPLE_SECRET, headers, body)


def test_no_driver_token_is_in_the_log(newcomer: Newcomer, callback: tuple[dict[str, str], bytes]) -> None:
    assert DRIVER.encode() in callback[1]
    assert DRIVER not in newcomer.deployment.output()


def test_an_authorization_service_is_asked_and_may_answer_as_shown(
    data_dir: Callable[[], Path], receiver_of_the_readme: Receiver
) -> None:
    question, answer = json.loads(block_of("json", 1)), json.loads(block_of("json", 2))
    service = AuthorizationStub()
    service.answers(question["driver_token"], Answer(200, json.dumps(answer).encode()))
    try:
        with Deployment(data_dir(), AUTHORIZATION_SERVICE_URL=service.url) as deployment:
            deployment.up()
            path = receiver_of_the_readme.path()
            deployment.submit(question["driver_token"], receiver_of_the_readme.url(path))
            (told,) = receiver_of_the_readme.wait_for(path)
    finally:
        service.close()

    assert [asked.json for asked in service.arrivals] == [question]
    assert question["station_id"] == STATION
    assert {name: told.json[name] for name in answer} == answer


def block_of(wanted: str, number: int) -> str:
    return [content for language, content in BLOCKS if language == wanted][number]


def shown_callback() -> tuple[dict[str, str], bytes]:
    head, _, body = block_of("http", 0).partition("\n\n")
    lines = (line.partition(": ") for line in head.splitlines()[1:])
    return {name.lower(): value for name, _, value in lines}, body.rstrip("\n").encode()


def verifier() -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(block_of("python", 0), namespace)
    return namespace
