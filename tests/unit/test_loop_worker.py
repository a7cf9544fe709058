"""The API's processes share what comes."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from gevent.pool import Pool

from chargeapp.commands.loop_worker import SharingServer


class Noted(SharingServer):  # type: ignore[misc]
    def __init__(self, *given: Any, **named: Any) -> None:
        self.did: list[str] = []
        super().__init__(*given, **named)

    def start_accepting(self) -> None:
        self.did.append("accepts")
        super().start_accepting()

    def stop_accepting(self) -> None:
        self.did.append("pauses")
        super().stop_accepting()


@pytest.mark.parametrize(
    ("shares", "expected"),
    [(True, ["accepts", "pauses", "accepts", "pauses", "accepts", "pauses"]), (False, ["accepts", "pauses"])],
    ids=["leaves the next one to others", "the only process, until it leaves"],
)
def test_who_has_connections_and_accepts_one_more_pauses(shares: bool, expected: list[str]) -> None:
    def serve() -> list[str]:
        server = Noted(("127.0.0.1", 0), lambda connection, address: connection.recv(1), spawn=Pool(10))
        server.shares = shares
        server.start()
        with ExitStack() as opened:
            for number in range(3):
                opened.enter_context(socket.create_connection(server.address))
                until(lambda number=number: len(server.pool) > number)  # type: ignore[misc]
        until(lambda: server.did[-1] == "accepts")
        server.leave()
        did = list(server.did)
        server.stop(timeout=1)
        return did

    with ThreadPoolExecutor(1) as thread:
        did = thread.submit(serve).result(10)

    assert did == expected


def test_who_leaves_does_not_accept_again() -> None:
    def serve() -> list[str]:
        server = Noted(("127.0.0.1", 0), lambda connection, address: connection.recv(1), spawn=Pool(10))
        server.start()
        with socket.create_connection(server.address), socket.create_connection(server.address):
            until(lambda: len(server.pool) == 2)
            server.leave()
            server._accept_again()
        did = list(server.did)
        server.stop(timeout=1)
        return did

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(serve).result(10)[-1] == "pauses"


def until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(5):
        while not condition():
            gevent.sleep(0.001)
