"""A day's kinds of traffic over the real processes, then a search for every driver token and every secret.

Where they belong is left out: `secrets.json`, which exists to hold the generated ones; what `/internal/v1/authorize`
answers, which repeats the question by contract; and what `keys create` and `secrets rotate` print, which is shown once.
Here no secret is configured by environment variable: those are in a process's environment by nature.
"""

import base64
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from deployment import STATION, Deployment
from inside_brokers import inside_broker
from servers import Answer, AuthorizationStub, Receiver
from sqlalchemy import select, update
from traces import Search, Trace

from chargeapp.pipeline import STAGES
from chargeapp.security.driver_tokens import mask
from chargeapp.storage.models import AuthorizationDecisionCallbackOutbox, SessionRequest

numbers = count()
SETTINGS = {
    "LOG_LEVEL": "debug",
    "CALLBACK_RETRY_DELAY_MILLIS": "100",
    "CALLBACK_TIMEOUT_MILLIS": "700",
    "CALLBACK_ROUNDS_SECONDS": "1",
    "CALLBACK_MAX_RETRIES": "1",
    "AUTHORIZATION_TIMEOUT_MILLIS": "3000",
    "AUTHORIZATION_MAX_RETRIES": "1",
    "AUTHORIZATION_CIRCUIT_BREAKER_ENABLED": "false",
    "REQUEST_TTL_SECONDS": "6",
}
ENDED_SECONDS = 40.0
# The day takes 40 seconds alone, and took four times as long beside others on a slow machine.
pytestmark = pytest.mark.timeout(420)
URL_SAFE = str.maketrans("+/", "-_")


class Day:
    """What happened: all tokens used, all requests accepted, and every answer that anybody got."""

    def __init__(self, deployment: Deployment, receiver: Receiver, stub: AuthorizationStub) -> None:
        self.deployment = deployment
        self.receiver = receiver
        self.stub = stub
        self.tokens: list[str] = []
        self.accepted: list[str] = []
        self.answers: list[bytes] = []
        self.secrets: dict[str, str] = {}
        self.inside_broker = inside_broker(deployment)

    def token(self, kind: str) -> str:
        self.tokens.append(f"{kind}-driver-token-{next(numbers):06}")
        return self.tokens[-1]

    def heard(self, answer: requests.Response) -> requests.Response:
        self.answers.append(f"{answer.headers}".encode() + answer.content)
        return answer

    def ask(self, token: str, url: str, **options: Any) -> requests.Response:
        body = {"stationId": STATION, "driverToken": token, "callbackUrl": url}
        answer = self.heard(self.deployment.post(json={**body, **options.pop("more", {})}, **options))
        if answer.status_code == 200:
            self.accepted.append(answer.json()["requestId"])
        return answer

    def run(self, *words: str, given: str = "") -> str:
        """A command as an operator runs it; what it says is searched too."""
        done = subprocess.run(
            [sys.executable, "-m", "chargeapp", *words],
            env=self.deployment.environment,
            input=given.encode(),
            capture_output=True,
            timeout=60,
        )
        self.answers.append(done.stdout + done.stderr)
        return done.stdout.decode()

    def made(self, *words: str) -> str:
        """What a command makes and shows this once; the rest of what it says is searched."""
        done = subprocess.run(
            [sys.executable, "-m", "chargeapp", *words],
            env=self.deployment.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        self.answers.append(done.stderr.encode())
        return done.stdout.strip()

    def search(self) -> Search:
        kept = json.loads((self.deployment.data_dir / "secrets.json").read_text()) | self.secrets
        needles: dict[str, str | bytes] = {f"token {each}": each for each in self.tokens}
        for name, secret in kept.items():
            # The secret part of a key is base64 for URLs, which has underscores of its own.
            plain = secret.split("_", 2)[2] if secret.startswith("cak_") else secret.removeprefix("whsec_")
            needles[name] = plain
            needles[f"raw {name}"] = base64.urlsafe_b64decode(plain.translate(URL_SAFE) + "==")
        return Search(needles)


@pytest.fixture(scope="module")
def day(data_dir: Callable[[], Path]) -> Iterator[Day]:
    receiver, stub = Receiver(), AuthorizationStub()
    try:
        with Deployment(data_dir(), AUTHORIZATION_SERVICE_URL=stub.url, **SETTINGS) as deployment:
            happened = Day(deployment.up(), receiver, stub)
            with contextlib.closing(happened.inside_broker):
                callers_and_operators(happened)
                yield happened
    finally:
        receiver.close()
        stub.close()


def callers_and_operators(day: Day) -> None:
    callers_with_keys(day)
    decisions(day)
    refusals(day)
    odd_services(day)
    odd_receivers(day)
    poison(day)
    operators(day)
    day.deployment.until(lambda: all_ended(day), lambda: f"not ended: {unended(day)}", ENDED_SECONDS)
    redeliveries(day)
    broken_rows(day)
    everybody_looks(day)


def callers_with_keys(day: Day) -> None:
    """From here on every call carries the first key; the wrong ones are refused and logged."""
    scopes = [word for scope in ("submit", "read", "operate") for word in ("--scope", scope)]
    for name in ("first key", "revoked key"):
        day.secrets[name] = day.made("keys", "create", "--name", name, "--caller", "hub", *scopes)
    day.run("keys", "revoke", day.secrets["revoked key"].split("_")[1])
    day.run("keys", "list")
    good = day.secrets["first key"]
    for wrong in (day.secrets["revoked key"], good[:-1], good[:-43] + "x" * 43):
        for header in (f"Bearer {wrong}", f"Basic {base64.b64encode(wrong.encode()).decode()}", wrong):
            day.heard(day.deployment.get("/api/v1/charging-session", headers={"Authorization": header}))
    day.deployment._http.headers["Authorization"] = f"Bearer {good}"


def decisions(day: Day) -> None:
    for status in ("allowed", "not_allowed", "unknown", "invalid"):
        token = day.token(status)
        day.stub.answers(token, status)
        day.ask(token, day.receiver.url(day.receiver.path()))
    token = day.token("idempotent")
    day.stub.answers(token, "allowed")
    url = day.receiver.url(day.receiver.path())
    for more in ({}, {}, {"ttlSeconds": 5}):
        day.ask(token, url, headers={"Idempotency-Key": "key-of-the-day"}, more=more)


def refusals(day: Day) -> None:
    url = day.receiver.url("/never")
    wrong = day.token("wrong")
    for token in (wrong[:10], wrong * 5, wrong + " é", wrong + "\x00"):
        assert day.ask(token, url).status_code == 400
    day.ask(wrong, url, more={"stationId": wrong})
    day.ask(wrong, url, more={"driver_token": wrong})
    day.ask(wrong, url, more={"ttlSeconds": wrong, "token": wrong})
    for bad in ("http://10.0.0.1/", "http://169.254.169.254/", f"http://{wrong}@example.com/", "http://[::1]/", wrong):
        assert day.ask(wrong, bad).status_code == 400
    for body, kind in (
        (f'{{"driverToken": "{wrong}"', "application/json"),
        (f'["{wrong}"]', "application/json"),
        (f"driverToken={wrong}", "application/x-www-form-urlencoded"),
        (f'{{"driverToken": "{wrong}{"x" * 20_000}"}}', "application/json"),
    ):
        answer = day.deployment.post(data=body, headers={"Content-Type": kind})
        assert day.heard(answer).status_code >= 400
    for path in (f"/api/v1/charging-session/{wrong}", f"/{wrong}", f"/api/v1/charging-session?state={wrong}"):
        assert day.heard(day.deployment.get(path, headers={"X-Driver": wrong})).status_code >= 400
    day.heard(day.deployment.post(f"/{wrong}/redelivery"))
    path = b"/api/v1/charging-session"
    token = wrong.encode()
    for raw in (
        b"POST %s HTTP/1.1\r\nX-Driver %s\r\n\r\n" % (path, token),
        b"POST %s HTTP/1.1\r\n%s\x00: x\r\n\r\n" % (path, token),
        b"POST %s?driverToken=%s HTTP/9.9\r\n\r\n" % (path, token),
        b"POST %s %s\r\n\r\n" % (path, token),
        b"%s %s HTTP/1.1\r\n\r\n" % (token, path),
        b"(%s) %s HTTP/1.1\r\n\r\n" % (token, path),
        b"POST %s?%s HTTP/1.1\r\n\r\n" % (path, token * 300),
        b"POST %s HTTP/1.1\r\nX-Driver: %s\r\n\r\n" % (path, token * 1000),
        b"POST %s HTTP/1.1\r\nContent-Length: %s\r\n\r\n" % (path, token),
        b"POST %s HTTP/1.1\r\nTransfer-Encoding: %s\r\n\r\n" % (path, token),
        b"POST %s HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n" % (path, token),
    ):
        day.answers.append(say(day.deployment.port, raw))


def say(port: int, raw: bytes) -> bytes:
    """What no HTTP library would send."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(65_536):
                heard += more
    return heard


def odd_services(day: Day) -> None:
    """They fail, are slow, talk nonsense, and repeat what they were asked."""
    token = day.token("service")
    named = json.dumps({"status": "not_allowed", "reason": f"contract of {token}-named has ended"}).encode()
    for name, answers in {
        "named": [Answer(200, named)],
        "failing": [Answer(500, token.encode())],
        "nonsense": [Answer(200, f'{{"status": "{token}"}}'.encode())],
        "no-json": [Answer(200, token.encode(), {"X-Echo": token})],
        "refusing": [Answer(422, token.encode())],
        "slow": [Answer(200, b"{}", delay_seconds=4)],
        "dropping": [Answer(dropped=True)],
    }.items():
        day.stub.answers(f"{token}-{name}", *answers)
        day.tokens.append(f"{token}-{name}")
        day.ask(f"{token}-{name}", day.receiver.url(day.receiver.path()))


def odd_receivers(day: Day) -> None:
    """They fail, are slow, go away, redirect, and repeat what they were sent."""
    token = day.token("receiver")
    day.stub.answers(token, "allowed")
    echo = {"X-Echo": token, "Retry-After": token}
    for answers in (
        [Answer(500, token.encode(), echo), 204],
        [Answer(500, token.encode())],
        [Answer(302, headers={"Location": f"http://127.0.0.1:1/{token}"})],
        [Answer(410, token.encode())],
        [Answer(429, token.encode(), {"Retry-After": "1"}), 204],
        [Answer(204, delay_seconds=2)],
        [Answer(dropped=True)],
        [Answer(200, headers={"Content-Length": token})],
    ):
        day.ask(token, day.receiver.url(day.receiver.path(*answers)))
    day.ask(token, "http://127.0.0.1:9/closed")


def poison(day: Day) -> None:
    """Jobs that are not ours; what is said of them must not quote the jobs under way beside them."""
    for stage in STAGES:
        for data in (b"\xff", b'["os.system", null, ["true"], {}]', b'["jobs.callbacks.deliver", null, [{}], {}]'):
            day.inside_broker.put(stage, data)


def operators(day: Day) -> None:
    driver = day.token("listed")
    day.run("acl", "add", "-", given=driver)
    day.run("acl", "list")
    day.run("acl", "add", "-", given=f"{driver} is no token")
    day.run("acl", "import", "-", given=f"driver_token,station_id\n{driver},nowhere\n{driver},{STATION}\n")
    day.run("tokens", "rotate")
    day.secrets["rotated secret"] = day.made("secrets", "rotate", "--caller", "hub")
    day.run("secrets", "list")
    erased = day.token("erased")
    day.run("tokens", "erase", "-", given=erased)


def redeliveries(day: Day) -> None:
    for request_id in day.accepted[:4]:
        day.heard(day.deployment.post(f"/{request_id}/redelivery"))
    day.run("requests", "redeliver", "--state", "failed", "--yes")
    day.deployment.until(lambda: nothing_under_way(day), "redeliveries go on", ENDED_SECONDS)


def broken_rows(day: Day) -> None:
    """Sealed tokens that cannot be opened: the job fails, and its log line has a traceback."""
    token = day.token("broken")
    day.stub.answers(token, "allowed")
    answer = day.ask(token, day.receiver.url(day.receiver.path(Answer(500))))
    with day.deployment.runtime.database.writing() as session:
        mine = SessionRequest.id == answer.json()["requestId"]
        session.execute(update(SessionRequest).where(mine).values(token_sealed=b"broken"))
    day.deployment.until(lambda: "row_buried" in day.deployment.output(), "no row was buried", ENDED_SECONDS)


def everybody_looks(day: Day) -> None:
    for words in (
        ("doctor",),
        ("doctor", "--json"),
        ("requests", "list"),
        ("requests", "list", "--json"),
        ("requests", "show", day.accepted[0]),
        ("requests", "show", day.accepted[-1], "--json"),
        ("dead-letters", "list"),
        ("backup", str(day.deployment.data_dir / "copy.db")),
        ("purge", "--help"),
    ):
        day.run(*words)
    for path in ("/", "/health", "/health/live", "/health/ready", "/metrics", "/metrics?format=prometheus"):
        day.heard(day.deployment.get(path))
    for path in ("", *(f"/{each}" for each in day.accepted)):
        day.heard(day.deployment.get(f"/api/v1/charging-session{path}"))


def all_ended(day: Day) -> bool:
    return not unended(day)


def unended(day: Day) -> list[str]:
    with day.deployment.runtime.database.reading() as session:
        return list(session.scalars(select(SessionRequest.id).where(SessionRequest.ended_at.is_(None))))


def nothing_under_way(day: Day) -> bool:
    with day.deployment.runtime.database.reading() as session:
        table = AuthorizationDecisionCallbackOutbox
        return not session.scalars(select(table.id).where(table.settled_at.is_(None), table.dead_at.is_(None))).all()


def everywhere(day: Day) -> list[Any]:
    search = day.search()
    return [
        *search.files(day.deployment.data_dir, besides=[day.deployment.data_dir / "secrets.json"]),
        *day.inside_broker.traces(search),
        *traces_in_postgresql(day.deployment, search),
        *search.processes(*(process.pid for process in day.deployment.processes)),
        *(trace for answer in day.answers for trace in search.within("an answer", answer)),
    ]


def traces_in_postgresql(deployment: Deployment, search: Search) -> list[Trace]:
    """SQLite is among the files."""
    server = deployment.stack.postgres
    if server is None:
        return []
    in_log = search.within("the log of PostgreSQL", server.log().encode())
    return search.postgresql(deployment.settings["DATABASE_URL"]) + in_log


@pytest.mark.slow
def test_no_driver_token_and_no_secret_is_anywhere_after_a_day(day: Day) -> None:
    assert everywhere(day) == []


@pytest.mark.slow
def test_nothing_leaks_while_requests_are_under_way(day: Day) -> None:
    token = day.token("under-way")
    day.stub.answers(token, "allowed")
    path = day.receiver.path(Answer(500, delay_seconds=0.3))
    for _ in range(20):
        day.ask(token, day.receiver.url(path))
    day.receiver.wait_for(path)

    looks = [everywhere(day) for _ in range(5)]

    assert looks == [[]] * 5


@pytest.mark.slow
def test_the_day_really_had_everything_in_it(day: Day) -> None:
    """A search through traffic that did not happen proves nothing."""
    log = day.deployment.output()
    with day.deployment.runtime.database.reading() as session:
        found = set(session.execute(select(SessionRequest.state, SessionRequest.decision, SessionRequest.reason)))
    decided = {decision for _, decision, _ in found}
    reasons = {reason for _, _, reason in found if reason}
    service_token = next(each for each in day.tokens if each.endswith("-named"))

    assert {state for state, _, _ in found} >= {"delivered", "failed"}
    assert decided >= {"allowed", "not_allowed", "unknown", "invalid"}
    assert reasons >= {"authorization_timeout", "authorization_error", f"contract of {mask(service_token)} has ended"}
    assert {action for action in ("message_refused", "row_buried") if action in log} == {
        "message_refused",
        "row_buried",
    }
    assert any(day.tokens[0].encode() in arrival.body for arrival in day.receiver.arrivals)
    assert any(len(each.headers["webhook-signature"].split()) == 2 for each in day.receiver.arrivals)
    assert len(day.accepted) > 20
    assert (day.deployment.data_dir / "secrets.json").stat().st_mode & 0o077 == 0


def put_canary_into_postgresql(deployment: Deployment, token: str) -> set[str]:
    if deployment.stack.postgres is None:
        return set()
    with psycopg.connect(deployment.settings["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE canary (content bytea)")
        connection.execute("INSERT INTO canary VALUES (%s)", [token.encode()])
    return {"table canary"}


@pytest.mark.slow
def test_the_search_finds_a_canary_wherever_one_is_put(day: Day) -> None:
    token, data_dir, search = day.tokens[0], day.deployment.data_dir, day.search()
    # As the things searched really hold it: in the middle of a file, sealed into a job, in an argument.
    (data_dir / "canary").write_bytes(b"\0" * 10_000 + base64.b64encode(b"xy" + token.encode()) + b"\0")
    in_broker = day.inside_broker.put_canaries(token)
    in_tables = put_canary_into_postgresql(day.deployment, token)
    sleeper = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with (
        subprocess.Popen([*sleeper, token], stdin=subprocess.PIPE) as in_arguments,
        subprocess.Popen(sleeper, stdin=subprocess.PIPE, env={"SECRET": token}) as in_environment,
    ):
        found = everywhere(day) + search.processes(in_arguments.pid, in_environment.pid)

    assert {trace.where for trace in found} == {
        str(data_dir / "canary"),
        *in_broker,
        *in_tables,
        f"cmdline of {in_arguments.pid}",
        f"environ of {in_environment.pid}",
    }
