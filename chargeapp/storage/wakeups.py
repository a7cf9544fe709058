"""Tells a process that rows are due. A lost ring costs at most the next look, so nothing here is durable."""

from contextlib import AbstractContextManager
from typing import Protocol


class Bell(Protocol):
    """One listener's."""

    def ring(self) -> None:
        """By another thread of the listener's own process; never waits."""

    def wait(self, seconds: float) -> bool:
        """True once it was rung; any number of rings before the call count as one."""


class Wakeups(Protocol):
    def ring(self, queue: str) -> bool:
        """Wake the jobs that wait for more of this queue, or else the relay; False if nobody heard it."""

    def ring_early(self, queue: str) -> bool:
        """At the end of a transaction that others wait for: a job that hears it wakes up meanwhile, and finds its rows.

        If none hears it, ring after the commit.
        """

    def attended(self, queue: str) -> bool:
        """Whether a job waits for more of this queue."""

    def listen(self, name: str) -> AbstractContextManager[Bell]:
        """To rings for the queue of this name, or as the `relay`."""
