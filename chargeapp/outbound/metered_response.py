"""An HTTP answer that cannot fill the memory, and that knows whether any byte of it came."""

import http.client
import io
import socket

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024


class HeadTooLong(http.client.HTTPException):
    """Status line and headers went on for more than MAX_HEAD_BYTES."""


class _Meter(io.RawIOBase):
    """Counts what a socket yields, and stops at `limit` if there is one."""

    def __init__(self, source: io.RawIOBase) -> None:
        self.received = 0
        self.limit: int | None = MAX_HEAD_BYTES
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        count = self._source.readinto(buffer)
        self.received += count or 0
        if self.limit is not None and self.received > self.limit:
            raise HeadTooLong
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


class MeteredResponse(http.client.HTTPResponse):
    """http.client alone would take 100 headers of 64 KiB, and any number of `100 Continue`."""

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self._meter = _Meter(self.fp.detach())
        self.fp = io.BufferedReader(self._meter)

    def begin(self) -> None:
        super().begin()
        if self.status < 200:
            # Only 100 is skipped; after another 1xx the real answer would be taken for that of the next request.
            raise http.client.UnknownProtocol("1xx")
        self._meter.limit = None

    def read_capped(self) -> bytes:
        """The body, cut after MAX_BODY_BYTES; `complete` tells whether that was all."""
        pieces, size = [], 0
        # Not read(): a chunk of size -1 would make it read until the memory is full.
        while size <= MAX_BODY_BYTES and not self.complete and (piece := self.read1(MAX_BODY_BYTES + 1 - size)):
            pieces.append(piece)
            size += len(piece)
        if size <= MAX_BODY_BYTES and self.length:
            raise http.client.IncompleteRead(b"", self.length)
        return b"".join(pieces)[:MAX_BODY_BYTES]

    @property
    def complete(self) -> bool:
        return self.isclosed() or self.length == 0
