"""The reverse proxies of deploy/proxy, with TLS, in front of the real API."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from deployment import ROOT, STATION, Deployment
from requests.adapters import HTTPAdapter
from support.certificates import Authority
from support.ports import free_port

HOST = "chargeapp.example"
CADDYFILE = ROOT / "deploy" / "proxy" / "Caddyfile"
BODY = {"stationId": STATION, "driverToken": "driver-token-behind-a-proxy", "callbackUrl": "https://caller.example/"}


def installed(program: str, package: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    return found or pytest.skip(f"{program} is not installed: sudo apt-get install {package}")


class From(HTTPAdapter):
    """Requests that come from this address of the machine."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, source_address=(self._address, 0), **options)  # type: ignore[no-untyped-call]


class Proxy:
    def __init__(self, port: int, authority: Authority) -> None:
        self.port = port
        self._authority = authority

    def request(self, method: str, path: str, *, address: str = "127.0.0.1", **options: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(self._authority.certificate)
            session.mount("https://", From(address))
            return session.request(method, f"https://127.0.0.1:{self.port}{path}", timeout=30, **options)

    def answers(self) -> bool:
        try:
            return self.request("GET", "/health/live").status_code == 200
        except requests.ConnectionError:
            return False


@contextmanager
def nginx(directory: Path, deployment: Deployment) -> Iterator[Proxy]:
    """Its own configuration around ours, in which nothing but paths and ports is changed."""
    program = installed("nginx", "nginx-light")
    directory.chmod(0o755)
    authority = Authority(directory)
    certificate, key = authority.issue(HOST)
    proxy = Proxy(free_port(), authority)
    ours = (ROOT / "deploy" / "proxy" / "chargeapp.conf").read_text()
    for old, new in {
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "listen 443 ": f"listen 127.0.0.1:{proxy.port} ",
        "127.0.0.1:8080": f"127.0.0.1:{deployment.port}",
        "/etc/chargeapp/tls/chargeapp.crt": str(certificate),
        "/etc/chargeapp/tls/chargeapp.key": str(key),
    }.items():
        assert ours.count(old) == 1
        ours = ours.replace(old, new)
    places = "\n".join(
        f"{kind}_temp_path {directory / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"daemon off; pid {directory}/pid; error_log {directory}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {places}\n{ours}\n}}\n"
    )
    words = [program, "-e", str(directory / "error.log"), "-c", str(configuration)]
    checked = subprocess.run([*words, "-t"], capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr
    process = subprocess.Popen(words)
    try:
        deployment.until(proxy.answers, (directory / "error.log").read_text)
        yield proxy
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def caddy(directory: Path, deployment: Deployment) -> Iterator[Proxy]:
    """With our certificate instead of one it would fetch, and without its fixed ports."""
    program = installed("caddy", "caddy")
    authority = Authority(directory)
    certificate, key = authority.issue(HOST)
    proxy = Proxy(free_port(), authority)
    ours = CADDYFILE.read_text()
    for old, new in {
        f"\n{HOST} {{": f"\n127.0.0.1:{proxy.port} {{\ntls {certificate} {key}",
        "127.0.0.1:8080": f"127.0.0.1:{deployment.port}",
    }.items():
        assert ours.count(old) == 1
        ours = ours.replace(old, new)
    configuration = directory / "Caddyfile"
    configuration.write_text(f"{{\nadmin off\nauto_https disable_redirects\n}}\n{ours}")
    log = directory / "caddy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "run", "--adapter", "caddyfile", "--config", configuration],
            env={**os.environ, "HOME": str(directory)},
            stdout=output,
            stderr=output,
        )
    try:
        deployment.until(proxy.answers, log.read_text)
        yield proxy
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(params=[nginx, caddy], ids=lambda run: run.__name__)
def proxy(request: pytest.FixtureRequest, tmp_path: Path, data_dir: Callable[[], Path]) -> Iterator[Proxy]:
    # With Kafka there is no Redis, so each API process counts for itself.
    processes = {"WEB_WORKERS": "1"} if Deployment.stack.kafkas else {}
    with (
        Deployment(data_dir(), TRUSTED_PROXIES="1", RATE_LIMIT="3/hour", **processes) as deployment,
        request.param(tmp_path, deployment.up()) as started,
    ):
        yield started


def test_a_client_is_known_by_its_own_address_and_not_by_what_it_claims(proxy: Proxy) -> None:
    def codes(address: str) -> list[int]:
        claims = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(4)]
        return [
            proxy.request("GET", "/api/v1/charging-session", address=address, headers=claim).status_code
            for claim in claims
        ]

    assert codes("127.0.0.1") == [200, 200, 200, 429]
    assert codes("127.0.0.2") == [200, 200, 200, 429]


def test_requests_are_accepted_and_too_large_ones_are_not(proxy: Proxy) -> None:
    accepted = proxy.request("POST", "/api/v1/charging-session", json=BODY)
    large = proxy.request("POST", "/api/v1/charging-session", json=BODY | {"x": "x" * 20_000})
    huge = proxy.request("POST", "/api/v1/charging-session", json=BODY | {"x": "x" * 80_000})

    assert accepted.status_code == 200
    assert accepted.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert (large.status_code, large.json()["status"]) == (413, "payload_too_large")
    # The proxy cuts this one off; Caddy 2.6 calls that a bad gateway.
    assert (huge.status_code in (413, 502), "payload_too_large" in huge.text) == (True, False)


def test_what_is_for_the_inside_is_not_there(proxy: Proxy) -> None:
    for path in ("/metrics", "/internal/v1/authorize", "/internal/../metrics", "//metrics", "/%6detrics"):
        assert proxy.request("GET", path).status_code == 404


def test_caddy_accepts_its_file_and_finds_nothing_to_change() -> None:
    program = installed("caddy", "caddy")
    validated = subprocess.run(
        [program, "validate", "--adapter", "caddyfile", "--config", CADDYFILE],
        capture_output=True,
        text=True,
        timeout=30,
    )
    formatted = subprocess.run([program, "fmt", CADDYFILE], capture_output=True, text=True, timeout=30)

    assert (validated.returncode, '"level":"warn"' in validated.stderr) == (0, False), validated.stderr
    assert formatted.stdout == re.sub(r"\n+\Z", "\n", CADDYFILE.read_text())
