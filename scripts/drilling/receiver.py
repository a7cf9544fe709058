"""The other side, as a process of its own: callers' endpoints, an authorization service, and a canary.

It prints its ports as one JSON line, notes every callback in a file, and ends with whoever started it. The canary
listens on an address that callbacks may not reach; whoever connects to it was led astray.
"""

import asyncio
import hashlib
import json
import socket
import struct
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

ALLOWED_HOST = "127.0.0.1"
FORBIDDEN_HOST = "127.0.0.2"
MARK = "drill-"


@dataclass(frozen=True)
class Manners:
    """How often it answers badly; `silence_seconds` is longer than the callback timeout."""

    seed: int
    errors: float
    timeouts: float
    resets: float
    authorization_errors: float
    silence_seconds: float = 3.0


class Receiver:
    def __init__(self, manners: Manners, log: TextIO) -> None:
        self._manners = manners
        self._log = log
        self._arrivals: Counter[str] = Counter()
        self._connections = 0
        self._asked = 0
        self.canary_port = 0

    async def run(self) -> None:
        callbacks = await asyncio.start_server(self._serve_callbacks, ALLOWED_HOST, 0, backlog=512)
        authorization = await asyncio.start_server(self._serve_authorization, ALLOWED_HOST, 0, backlog=512)
        canary = await asyncio.start_server(self._serve_canary, FORBIDDEN_HOST, 0)
        self.canary_port = _port(canary)
        ports = {"callbacks": _port(callbacks), "authorization": _port(authorization), "canary": self.canary_port}
        print(json.dumps(ports), flush=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.read)
        self._log.flush()

    async def _serve_callbacks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        connection, served = self._connections, 0
        while (found := await _read_request(reader)) is not None:
            path, headers, body = found
            served += 1
            answer = self._choose(path)
            self._note(path, headers, body, answer=answer, connection=connection, served=served)
            if answer == "timeout":
                await asyncio.sleep(self._manners.silence_seconds)
                break
            if answer == "reset":
                _reset(writer)
                return
            location = f"Location: http://{FORBIDDEN_HOST}:{self.canary_port}/\r\n" if answer == "302" else ""
            length = "" if answer == "204" else "Content-Length: 0\r\n"
            writer.write(f"HTTP/1.1 {answer} Drill\r\n{location}{length}\r\n".encode())
        writer.close()

    def _choose(self, path: str) -> str:
        """By the seed, the path and how often it came there: a drill with the same seed has the same answers."""
        self._arrivals[path] += 1
        digest = hashlib.sha256(f"{self._manners.seed} {path} {self._arrivals[path]}".encode()).digest()
        chance = int.from_bytes(digest[:6]) / 2**48
        for answer, share in (
            ("reset", self._manners.resets),
            ("timeout", self._manners.timeouts),
            ("302", self._manners.errors / 10),
            ("500", self._manners.errors * 9 / 10),
        ):
            if chance < share:
                return answer
            chance -= share
        return "204"

    def _note(self, path: str, headers: dict[str, str], body: bytes, **more: Any) -> None:
        note = {
            "at": time.time(),
            "path": path,
            "host": headers.get("host", ""),
            "id": headers.get("webhook-id", ""),
            "timestamp": headers.get("webhook-timestamp", ""),
            "signature": headers.get("webhook-signature", ""),
            "body": body.decode(errors="replace"),
            **more,
        }
        self._log.write(json.dumps(note) + "\n")

    async def _serve_authorization(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (found := await _read_request(reader)) is not None:
            self._asked += 1
            digest = hashlib.sha256(f"{self._manners.seed} authorization {self._asked}".encode()).digest()
            fails = int.from_bytes(digest[:6]) / 2**48 < self._manners.authorization_errors
            token = json.loads(found[2])["driver_token"]
            content = b"" if fails else json.dumps({"status": decision_for(token)}).encode()
            status = "500 Drill" if fails else "200 OK"
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            writer.write(head.encode() + content)
        writer.close()

    async def _serve_canary(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._note("canary", {}, b"", answer="canary", connection=0, served=0)
        writer.close()


def decision_for(token: str) -> str:
    """Tokens of the drill carry what is to be decided about them: `drill-not_allowed-…`."""
    return token.removeprefix(MARK).partition("-")[0]


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes] | None:
    """None once the other side has gone, in the middle of a request too: its process may have been killed."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return head[0].split(" ")[1], headers, body


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


class ReceiverProcess:
    """Starts one and ends it; `ports` are known once started."""

    def __init__(self, manners: Manners, log: Path) -> None:
        self.log = log
        self.ports: dict[str, int] = {}
        self._manners = manners

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "drilling.receiver",
            json.dumps(asdict(self._manners)),
            str(self.log),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.ports = json.loads(await self._process.stdout.readline())

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    def url(self, path: str) -> str:
        return f"http://{ALLOWED_HOST}:{self.ports['callbacks']}{path}"

    @property
    def authorization_url(self) -> str:
        return f"http://{ALLOWED_HOST}:{self.ports['authorization']}/authorize"

    @property
    def canary_url(self) -> str:
        return f"http://{FORBIDDEN_HOST}:{self.ports['canary']}/"


def main() -> None:
    manners = Manners(**json.loads(sys.argv[1]))
    with Path(sys.argv[2]).open("w", buffering=1) as log:
        asyncio.run(Receiver(manners, log).run())


if __name__ == "__main__":
    main()
