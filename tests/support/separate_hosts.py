"""Hosts with a network of their own on this machine (Linux network namespaces), joined by a bridge that can be cut."""

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
SUBNET = "10.77.0.0/24"
NEEDED = "needs root on Linux, and iproute2: sudo apt-get install iproute2"
numbers = count()
libc = ctypes.CDLL(None, use_errno=True)


class SeparateHost:
    """What a thread starts or connects `inside` is on this host; sockets and processes stay there."""

    def __init__(self, number: int) -> None:
        self.name = f"chargeapp-test-{os.getpid()}-{next(numbers)}"
        self.address = f"10.77.0.{number}"
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")

    @contextmanager
    def inside(self) -> Iterator[None]:
        with Path(f"/proc/self/task/{threading.get_native_id()}/ns/net").open() as before:
            self.enter()
            try:
                yield
            finally:
                _join(before.fileno())

    def enter(self) -> None:
        """For a thread that stays."""
        with Path(f"/run/netns/{self.name}").open() as network:
            _join(network.fileno())

    def remove(self) -> None:
        ip("netns", "delete", self.name)


class Switch(SeparateHost):
    """The host in the middle, to which the others are wired."""

    def __init__(self) -> None:
        super().__init__(1)
        ip("-n", self.name, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "bridge")
        ip("-n", self.name, "link", "set", "bridge", "up")

    def wire(self, host: SeparateHost) -> None:
        port = self._port(host)
        ends = ("type", "veth", "peer", "name", "wire", "netns", host.name)
        ip("link", "add", port, "netns", self.name, *ends)
        ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "wire")
        ip("-n", host.name, "link", "set", "wire", "up")
        ip("-n", self.name, "link", "set", port, "up")
        self.heal(host)

    def cut(self, host: SeparateHost) -> None:
        """Nobody is told: whatever is sent vanishes."""
        ip("-n", self.name, "link", "set", self._port(host), "nomaster")

    def heal(self, host: SeparateHost) -> None:
        ip("-n", self.name, "link", "set", self._port(host), "master", "bridge")

    def _port(self, host: SeparateHost) -> str:
        return f"port{host.address.rpartition('.')[2]}"


@contextmanager
def separate_hosts(count: int) -> Iterator[tuple[Switch, list[SeparateHost]]]:
    if os.geteuid() != 0 or shutil.which("ip") is None or _refused():
        pytest.skip(f"Separate hosts: {NEEDED}")
    made: list[SeparateHost] = []
    try:
        made.append(switch := Switch())
        for number in range(count):
            made.append(host := SeparateHost(number + 2))
            switch.wire(host)
        yield switch, made[1:]
    finally:
        for each in made:
            each.remove()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _refused() -> bool:
    """Root in a container may not be allowed to."""
    name = f"chargeapp-try-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return True
    ip("netns", "delete", name)
    return False


def _join(descriptor: int) -> None:
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
