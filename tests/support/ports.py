"""Ports that nobody uses."""

import contextlib
import random
import socket


def free_port() -> int:
    """Below the range from which the kernel takes ports for outgoing connections, so that it stays free."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
