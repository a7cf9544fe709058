"""Nothing connects to a forbidden address: in a network of its own, every address leads to a listener of ours."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.odd_addresses import ADDRESSES, ODD_HOSTS

PORT = 18099
ADDRESS_URLS = [f"http://{f'[{each}]' if ':' in each else each}:{PORT}/hook" for each, _ in ADDRESSES]
ODD_HOST_URLS = [f"http://{host}:{PORT}/hook" for host, _ in ODD_HOSTS]
NAMES = {
    "private.test": ["10.1.2.3"],
    "loopback.test": ["127.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "mixed.test": ["93.184.216.34", "192.168.1.1"],
}
NAME_URLS = [f"http://{name}:{PORT}/hook" for name in NAMES]
FORBIDDEN = [*ADDRESS_URLS, *ODD_HOST_URLS, *NAME_URLS]
PUBLIC_URL = f"http://93.184.216.34:{PORT}/hook"
REBINDING_URL = f"http://rebinding.test:{PORT}/hook"

WORLD = """
ip link set lo up
ip route add local default dev lo
ip -6 route add local default dev lo
exec "$@"
"""

# What is asked: JSON on standard input. What is answered: for each URL the addresses at which a connection arrived.
SCRIPT = r"""
import json, socket, struct, sys, threading
from chargeapp.errors import ChargeappError
from chargeapp.outbound.http_client import HttpClient
from chargeapp.security.address_policy import AddressPolicy

asked = json.load(sys.stdin)
arrived, answers = [], {name: list(found) for name, found in asked["names"].items()}
rebinding = iter(["93.184.216.34", *["127.0.0.1"] * 20])

def canary():
    server = socket.create_server(("::", asked["port"]), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    while True:
        connection, _ = server.accept()
        arrived.append(connection.getsockname()[0].removeprefix("::ffff:"))
        connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        connection.recv(65536)
        connection.close()

def name_server(server):
    while True:
        query, client = server.recvfrom(512)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += query[at] + 1
        kind, name = struct.unpack("!H", query[at + 1 : at + 3])[0], ".".join(labels)
        found = []
        if kind == 1:
            found = [next(rebinding)] if name.startswith("rebinding") else answers.get(name, [])
        record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04"
        records = b"".join(record + socket.inet_aton(each) for each in found)
        head = query[:2] + b"\x81\x80\x00\x01" + struct.pack("!H", len(found)) + b"\x00\x00\x00\x00"
        server.sendto(head + query[12 : at + 5] + records, client)

dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dns.bind(("0.0.0.0", 53))
for serve in (canary, lambda: name_server(dns)):
    threading.Thread(target=serve, daemon=True).start()

results = {}
for url in asked["urls"]:
    client, before = HttpClient(AddressPolicy(), pool_size=1), len(arrived)
    try:
        outcome = client.post(url, b"{}", {}, 3.0).status
    except (ChargeappError, UnicodeError) as error:
        outcome = type(error).__name__
    client.close()
    results[url] = [outcome, arrived[before:]]
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not (shutil.which("unshare") and shutil.which("ip")):
        pytest.skip("unshare and ip are needed to make a network of its own")
    script = tmp_path_factory.mktemp("canaries") / "world.py"
    script.write_text(SCRIPT)
    # The machine's name servers are asked as everybody asks them; here, their addresses are ours too.
    asked = {"port": PORT, "names": NAMES, "urls": [PUBLIC_URL, *FORBIDDEN, *[REBINDING_URL] * 6]}
    ran = subprocess.run(
        ["unshare", "--net", "sh", "-euc", WORLD, "world", sys.executable, str(script)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=150,
        cwd=Path(__file__).parents[2],
    )
    if "unshare failed" in ran.stderr or "Operation not permitted" in ran.stderr:
        pytest.skip(f"no right to make a network here: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_the_canary_hears_a_call_to_a_public_address(seen: dict[str, Any]) -> None:
    assert seen[PUBLIC_URL] == [204, ["93.184.216.34"]]


@pytest.mark.parametrize("url", FORBIDDEN, ids=[ascii(url)[1:60] for url in FORBIDDEN])
def test_nothing_connects_to(seen: dict[str, Any], url: str) -> None:
    outcome, arrived = seen[url]

    assert arrived == []
    assert outcome in ("CallBlocked", "CallbackUrlRefused", "CallFailed")


def test_a_name_that_is_bound_anew_leads_nowhere_else(seen: dict[str, Any]) -> None:
    _, arrived = seen[REBINDING_URL]

    assert set(arrived) <= {"93.184.216.34"}
