"""Twenty callers' endpoints and an authorization service, small enough to be served by the bench itself."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from benching.programs import HOST

DECISION = b'{"status": "allowed"}'
ANSWERS = {
    "callback": b"HTTP/1.1 204 No Content\r\n\r\n",
    "authorization": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(DECISION), DECISION),
}


class Destinations:
    """`first` has the epoch seconds of each callback's first arrival, by the number at the end of its address."""

    def __init__(self, slow_seconds: float) -> None:
        self.first: dict[int, float] = {}
        self.ports: list[int] = []
        self.authorization_url = ""
        self._slow_seconds = slow_seconds
        self._open: set[asyncio.Task[None]] = set()

    def url(self, number: int) -> str:
        """The next request goes to the next destination; number 0 is the slow one, if one is."""
        return f"http://{HOST}:{self.ports[number % len(self.ports)]}/callback/{number}"

    async def serve(self, count: int, closing: AsyncExitStack) -> None:
        for index in range(count):
            self.ports.append(await self._listen("callback", self._slow_seconds if index == 0 else 0.0, closing))
        self.authorization_url = f"http://{HOST}:{await self._listen('authorization', 0.0, closing)}/authorize"

    async def _listen(self, kind: str, delay: float, closing: AsyncExitStack) -> int:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._answer(reader, writer, kind, delay))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

        server = await asyncio.start_server(connected, HOST, 0, backlog=512)
        closing.push_async_callback(self._close, server)
        return int(server.sockets[0].getsockname()[1])

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str, delay: float
    ) -> None:
        # Who calls may go at any time: it has a deadline, and in the end it is stopped.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?i)^content-length: *(\d+)", head, re.MULTILINE)
                await reader.readexactly(int(length[1]) if length else 0)
                if number := re.match(r"POST /callback/(\d+) ", head):
                    self.first.setdefault(int(number[1]), time.time())
                await asyncio.sleep(delay)
                writer.write(ANSWERS[kind])
                await writer.drain()
        writer.close()

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


@asynccontextmanager
async def destinations(count: int, slow_seconds: float) -> AsyncIterator[Destinations]:
    async with AsyncExitStack() as closing:
        there = Destinations(slow_seconds)
        await there.serve(count, closing)
        yield there
