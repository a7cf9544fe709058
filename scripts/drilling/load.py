"""Posts requests at a fixed rate, whatever becomes of them, and notes every answer."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from drilling.plans import Plan
from drilling.receiver import ALLOWED_HOST, MARK

PATH = "/api/v1/charging-session"
STATION = "123e4567-e89b-12d3-a456-426614174000"
ANSWER_SECONDS = 10.0
PAUSE_SECONDS = 0.5
# Callers who wait for an API that is away do not become more and more.
OPEN_AT_MOST = 150
DECISIONS = ("allowed", "allowed", "allowed", "not_allowed", "invalid")


class Refused(Exception):  # noqa: N818 - says what is certain
    """No connection was made: the request was certainly not accepted."""


class Ambiguous(Exception):  # noqa: N818 - says what is not certain
    """The connection ended or fell silent before an answer: it may have been accepted."""


@dataclass(frozen=True)
class Answer:
    """`outcome` is a status, `reset` (perhaps accepted) or `refused` (certainly not)."""

    outcome: str
    request_id: str = ""
    replayed: bool = False


class Client:
    """Keeps connections alive, and never repeats a request by itself."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, body: dict[str, Any], key: str | None) -> Answer:
        """Raises Refused or Ambiguous."""
        reader, writer = await self._connect()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                content = json.dumps(body).encode()
                extra = f"Idempotency-Key: {key}\r\n" if key else ""
                writer.write(
                    f"POST {PATH} HTTP/1.1\r\nHost: {ALLOWED_HOST}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(content)}\r\n{extra}\r\n".encode()
                    + content
                )
                answer, reusable = await _read_answer(reader)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            writer.close()
            raise Ambiguous from error
        if reusable:
            self._idle.append((reader, writer))
        else:
            writer.close()
        return answer

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.open_connection(ALLOWED_HOST, self._port)
        except (OSError, TimeoutError) as error:
            raise Refused from error

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = head[0].split(" ")[1]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = json.loads(await reader.readexactly(int(headers["content-length"])))
    answer = Answer(status, body.get("requestId", ""), headers.get("idempotency-replayed") == "true")
    return answer, headers.get("connection", "").lower() != "close"


class Load:
    """`accepted` and the like are for the progress bar; the log is what counts."""

    def __init__(self, plan: Plan, seed: int, port: int, callback_url: Callable[[str], str], log: TextIO) -> None:
        self.accepted = self.ambiguous = self.posted = 0
        self.refused_for_now = 0
        self._plan = plan
        self._seed = seed
        self._client = Client(port)
        self._callback_url = callback_url
        self._log = log
        self._open = 0

    async def run(self, until: Callable[[], bool] | None = None) -> None:
        """Until the plan's number is accepted, or for as long as `until` is false."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            number = slot = 0
            while not (until() if until else self.accepted >= self._plan.accepted):
                slot += 1
                await asyncio.sleep(max(0.0, began + slot / self._plan.rate - time.monotonic()))
                if self._open < OPEN_AT_MOST and (until or self.accepted + self._open < self._plan.accepted):
                    number += 1
                    self._open += 1
                    group.create_task(self._submit(number))
        self._client.close()

    async def probe(self, url: str) -> None:
        """A callback address that must be refused."""
        with contextlib.suppress(Refused, Ambiguous):
            answer = await self._client.post(_body(_token("allowed", 0), url), None)
            self._note(0, None, _token("allowed", 0), answer)

    async def _submit(self, number: int) -> None:
        # Not one generator for all: their order would depend on the answers.
        chance = random.Random(f"{self._seed} {number}")
        key = f"drill-{self._seed}-{number}" if chance.random() < self._plan.keyed_share else None
        token = _token(chance.choice(DECISIONS), number)
        repeats = 1 if key and chance.random() < self._plan.replayed_share else 0
        body = _body(token, self._callback_url(f"/callback/{number}"))
        self.posted += 1
        first = True
        while True:
            try:
                answer = await self._client.post(body, key)
            except Refused:
                self._note(number, key, token, Answer("refused"))
            except Ambiguous:
                self._note(number, key, token, Answer("reset"))
                if key is None:
                    # Nobody can know, and to ask again might be to ask twice.
                    self.ambiguous += 1
                    break
            else:
                self._note(number, key, token, answer)
                if answer.outcome == "200":
                    self.accepted += first
                    first = False
                    if not repeats:
                        break
                    repeats -= 1
                elif answer.outcome != "503":
                    break
            self.refused_for_now += first
            await asyncio.sleep(PAUSE_SECONDS)
        self._open -= 1

    def _note(self, number: int, key: str | None, token: str, answer: Answer) -> None:
        note = {"at": time.time(), "number": number, "key": key, "token": token, **asdict(answer)}
        self._log.write(json.dumps(note) + "\n")


def _token(decision: str, number: int) -> str:
    return f"{MARK}{decision}-{number:012}"


def _body(token: str, url: str) -> dict[str, Any]:
    return {"stationId": STATION, "driverToken": token, "callbackUrl": url}
