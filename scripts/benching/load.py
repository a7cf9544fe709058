"""Load: as much as goes in, by wrk, or so many a second, whatever becomes of them."""

import asyncio
import json
import os
import resource
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drilling.load import PATH, STATION, Ambiguous, Client, Refused

from benching.arrivals import Arrivals
from benching.programs import HOST, running
from benching.stubs import Stubs

DRIVER = "bench-driver-allowed-0001"
REQUESTS = Path(__file__).with_name("requests.lua")
WARM_UP = 40
WARM_UP_SECONDS = 60.0


class NothingAccepted(RuntimeError):  # noqa: N818 - says what happened
    """What is measured answers, but accepts nothing."""


@dataclass(frozen=True)
class Posted:
    """What wrk says: of answered requests; milliseconds; how much CPU it took itself."""

    accepted: int
    refused: int
    seconds: float
    p50: float
    p99: float
    client_cpu_seconds: float


@dataclass(frozen=True)
class Paced:
    """Milliseconds from POST to callback of each delivered request, and of each answer."""

    to_callback: list[float]
    to_answer: list[float]
    sent: int
    failed: int


def new_tag() -> str:
    return f"{uuid.uuid4().hex[:8]}-"


def post_with_wrk(
    port: int,
    callback_url: str,
    *,
    tag: str,
    seconds: int,
    connections: int,
    folder: Path,
    answers: Path | None = None,
) -> Posted:
    """`answers` gets the epoch seconds of each answer 200."""
    environment = {**os.environ, "CALLBACK": callback_url, "TAG": tag}
    if answers:
        environment["ANSWERS"] = str(answers)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = folder / f"{tag}wrk.log"
    command: list[str | Path] = [
        shutil.which("wrk") or "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}",
        "-s",
        REQUESTS,
    ]
    with running([*command, f"http://{HOST}:{port}{PATH}"], log, environment) as wrk:
        wrk.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = next((each for each in log.read_text().splitlines() if each.startswith("FIGURES ")), None)
    if line is None:
        raise RuntimeError(f"wrk gave no figures:\n{log.read_text()[-2000:]}")
    figures: dict[str, Any] = json.loads(line.removeprefix("FIGURES "))
    if figures["answers"] <= figures["refused"]:
        raise NothingAccepted
    return Posted(
        accepted=figures["answers"] - figures["refused"],
        refused=figures["refused"],
        seconds=figures["seconds"],
        p50=figures["p50"],
        p99=figures["p99"],
        client_cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


def pace(port: int, stubs: Stubs, rate: float, seconds: float, patience: float) -> Paced:
    """Raises TimeoutError if accepted requests have had no callback within `patience` seconds, and NothingAccepted."""
    tag = new_tag()
    arrivals = Arrivals(stubs.arrivals, tag)
    posts = asyncio.run(
        post_at_a_rate(port, lambda number: f"{stubs.callback_url}{tag}{number}", rate, round(rate * seconds))
    )
    if not posts.accepted:
        raise NothingAccepted
    arrivals.wait(len(posts.accepted), patience)
    return Paced(
        [(arrivals.first[f"{tag}{number}"] - at) * 1000 for number, at in posts.accepted.items()],
        posts.to_answer,
        sent=round(rate * seconds),
        failed=posts.failed,
    )


def warm_up(port: int, stubs: Stubs) -> None:
    """Until requests go all the way through it."""
    pace(port, stubs, rate=WARM_UP, seconds=1, patience=WARM_UP_SECONDS)


class Posts:
    """When each accepted request was sent, by its number, in epoch seconds."""

    def __init__(self) -> None:
        self.accepted: dict[int, float] = {}
        self.to_answer: list[float] = []
        self.failed = 0


async def post_at_a_rate(
    port: int, callback_url: Callable[[int], str], rate: float, total: int, key: str | None = None
) -> Posts:
    """With a `key`, each has an Idempotency-Key that begins so."""
    posts = Posts()
    client = Client(port)

    async def post(number: int) -> None:
        body = {"stationId": STATION, "driverToken": DRIVER, "callbackUrl": callback_url(number)}
        at = time.time()
        try:
            answer = await client.post(body, key and f"{key}{number}")
        except (Refused, Ambiguous):
            posts.failed += 1
            return
        if answer.outcome == "200":
            posts.accepted[number] = at
            posts.to_answer.append((time.time() - at) * 1000)
        else:
            posts.failed += 1

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(total):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            group.create_task(post(number))
    client.close()
    return posts
