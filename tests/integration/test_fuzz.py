"""Whatever is sent, the API never answers 500, and every error has the one shape.

Run as a program it does the same for as long as you like, on all processors, and differently each time:

    python tests/integration/test_fuzz.py 20000
"""

import json
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
import schemathesis
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.callers import API, BODY, api_of
from support.redis_server import RedisServer

CHECKS = [
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
FROM_DOCUMENT = 250
HOSTILE = 800
BATCH = 500

Ask = Callable[[Any], int]


class Target(NamedTuple):
    """What can be sent, and how: the answer's status code comes back once it was looked at."""

    requests: st.SearchStrategy[Any]
    ask: Ask


def has_the_one_shape(status: int, content: bytes) -> bool:
    body = json.loads(content)
    required = {"status", "message", "timestamp"}
    return status < 500 and required <= body.keys() <= required | {"errors"} and body.get("errors") != {}


# What the document allows, and what it forbids


def from_document(client: FlaskClient) -> Target:
    document: Any = client.get("/openapi.json").json
    for path in document["paths"].values():
        for operation in path.values():
            # Else each request would bring some key: here nobody needs one.
            del operation["security"]
    schema = schemathesis.openapi.from_dict(document)
    schema.app = called_from_this_machine(client.application)
    schema.config.update(base_url="http://localhost/")
    strategies = [
        result.ok().as_strategy(generation_mode=mode)
        for result in schema.get_all_operations()
        for mode in GenerationMode
    ]

    def ask(case: Case) -> int:
        response = case.call()
        # Schemathesis does not take 413 for a refusal of what the document forbids.
        too_large = response.status_code == 413
        case.validate_response(response, checks=CHECKS, excluded_checks=[negative_data_rejection] if too_large else [])
        if response.status_code >= 400:
            assert has_the_one_shape(response.status_code, response.content), response.text
        return response.status_code

    return Target(st.one_of(strategies), ask)


def called_from_this_machine(app: Any) -> Any:
    def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return app(environ | {"REMOTE_ADDR": "127.0.0.1"}, start_response)  # type: ignore[no-any-return]

    return wsgi


# What no document would allow


PATHS = ["/", API, f"{API}/req-{'0' * 32}", f"{API}/x/redelivery", "/internal/v1/authorize", "/health", "/health/live"]
PATHS += ["/requests", "/requests?driver=x&since=x&before=x"]
PATHS += ["/login", "/login", "/logout", "/queues", "/requests/x", "/requests/x/redelivery"]
PATHS += ["/failed", "/failed/redelivery", "/failed/redelivered", "/dead-letters", "/dead-letters/replay", "/settings"]
PATHS += ["/access-list", "/access-list/search", "/access-list/entry", "/access-list/removal"]
PATHS += ["/rq/", "/rq/0/data/jobs/x/queued/8/asc/1.json", "/rq/0/view/job/x"]
PATHS += ["/keys", "/keys/revocation", "/secrets", "/secrets/retirement"]
PATHS += ["/health/ready", "/metrics", "/openapi.json", "/docs", "/static/console.css", "/static/../app.py", "/static/"]
METHODS = ["GET", "POST", "POST", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW", ""]
CONTENT_TYPES = ["application/json", "application/json", "application/json; charset=utf-16", "text/plain", "", "a/b;c"]
CONTENT_TYPES += ["application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=x", "%"]
HEADERS = [
    "ACCEPT",
    "AUTHORIZATION",
    "COOKIE",
    "HOST",
    "IDEMPOTENCY_KEY",
    "IF_NONE_MATCH",
    "IF_MODIFIED_SINCE",
    "RANGE",
]
HEADERS += ["ORIGIN", "ACCESS_CONTROL_REQUEST_METHOD", "TRANSFER_ENCODING", "X_FORWARDED_FOR", "CONTENT_ENCODING"]
NASTY = [
    "",
    "\x00",
    "\x7f",
    "\xff",
    "\xc3\x28",
    "Basic :",
    "Basic ====",
    "Bearer",
    "Bearer cak__",
    "bytes=9-1",
    "*",
    "-1",
]
NASTY += ["chunked", "gzip", "a=\x80", "localhost:99999999", "[::", "application/openmetrics-text;q=x", "9" * 400]
WORDS = [*BODY, "station_id", "driver_token", "callback_url", "ttlSeconds", "ttl_seconds", "__proto__", "\ud800", ""]
VALUES = [
    *BODY.values(),
    10**400,
    -(10**30),
    1e308,
    float("nan"),
    float("inf"),
    "\ud800",
    "\x00" * 30,
    "http://[",
    True,
]
VALUES += ["http://" + "a." * 900, "http://a:0/", "http://\u2488/", "//", "\u0661" * 30, "{" * 40, {}, [], None]

latin = st.text(st.characters(max_codepoint=255), max_size=60)
values = st.recursive(
    st.sampled_from(VALUES) | st.text(max_size=40) | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(WORDS), values, max_size=6).map(lambda each: {**BODY, **each})
documents = (objects | values).map(json.dumps)
encoded = st.builds(
    lambda text, encoding: text.encode(encoding, "surrogatepass"),
    documents,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-7"]),
)
nested = st.builds(
    lambda opening, depth: (opening * depth).encode(), st.sampled_from(["[", '{"a":']), st.integers(1, 3000)
)
cut = st.builds(lambda content, at: content[:at], encoded, st.integers(0, 200))
bodies = encoded | cut | nested | st.binary(max_size=300) | st.integers(16_300, 16_500).map(lambda size: b" " * size)
names = st.sampled_from(["state", "stationId", "cursor", "limit", "format", "x"])
pairs = st.lists(
    st.tuples(names, st.text(max_size=20) | st.sampled_from(["1", "delivered", "-1", "1_0", " 7"])), max_size=4
)
queries = st.just("") | pairs.map(lambda pairs: urlencode(pairs, errors="surrogatepass")) | latin


@st.composite
def hostile_requests(draw: st.DrawFn) -> dict[str, Any]:
    """The environment of a WSGI call, as a server may hand it on."""
    base = draw(st.sampled_from(PATHS))
    path = draw(st.just(base) | latin.map(lambda tail: base + tail) | latin.map(lambda text: f"/{text}"))
    headers = draw(st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(NASTY) | latin, max_size=3))
    environ: dict[str, Any] = {f"HTTP_{name}": value for name, value in headers.items()}
    environ |= {"REQUEST_METHOD": draw(st.sampled_from(METHODS)), "PATH_INFO": path, "QUERY_STRING": draw(queries)}
    environ["CONTENT_TYPE"] = draw(st.sampled_from(CONTENT_TYPES) | latin)
    body = draw(bodies)
    length = draw(st.sampled_from([str(len(body)), str(len(body)), str(len(body)), "", "-1", "x", "99999999999"]))
    return environ | {"CONTENT_LENGTH": length, "body": body}


def hostile(client: FlaskClient) -> Target:
    def ask(environ: dict[str, Any]) -> int:
        changed = {name: value for name, value in environ.items() if name != "body"}
        with client.open("/", data=environ["body"], environ_overrides=changed) as response:
            content = response.get_data()
        assert response.status_code < 500, content
        if response.status_code >= 400 and environ["REQUEST_METHOD"] != "HEAD":
            assert response.mimetype == "application/json", content
            assert has_the_one_shape(response.status_code, content), content
        return response.status_code

    return Target(hostile_requests(), ask)


# Running them


KINDS = {"document": from_document, "hostile": hostile}


@contextmanager
def target_of(kind: str, directory: Path) -> Iterator[Target]:
    quiet = {"log_level": "error", "log_format": "json"}
    with (
        RedisServer() as redis,
        api_of(directory, queue_max_size=1_000_000, redis_url=redis.url, **quiet) as (_, client),
    ):
        yield KINDS[kind](client)


def fuzz(target: Target, number: int, seed_: int | None = None) -> Counter[int]:
    """How often each status code came; raises what was found. Without a seed it is the same each time."""
    codes: Counter[int] = Counter()

    @settings(
        max_examples=number,
        derandomize=seed_ is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.requests)
    def send(request: Any) -> None:
        codes[target.ask(request)] += 1

    (send if seed_ is None else seed(seed_)(send))()
    return codes


@pytest.mark.parametrize(
    ("kind", "number", "expected"),
    [("document", FROM_DOCUMENT, {200, 400, 404}), ("hostile", HOSTILE, {200, 400, 404, 405})],
)
def test_nothing_that_is_sent_makes_it_fail(kind: str, number: int, expected: set[int], tmp_path: Path) -> None:
    with target_of(kind, tmp_path) as target:
        codes = fuzz(target, number)

    assert codes.total() >= number / 2
    assert codes.keys() >= expected


def batch(job: tuple[str, int]) -> tuple[str, Counter[int]]:
    kind, seed_ = job
    with tempfile.TemporaryDirectory() as directory, target_of(kind, Path(directory)) as target:
        return kind, fuzz(target, BATCH, seed_)


def main(number: int) -> None:
    """Half of what is sent comes from the document."""
    start = int.from_bytes(os.urandom(4))
    sent: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    print(f"seed {start}")
    with multiprocessing.Pool() as pool:
        jobs = ((kind, start + turn) for turn in range(number // BATCH * 2) for kind in KINDS)
        for kind, codes in pool.imap_unordered(batch, jobs):
            sent[kind] += codes
            print(f"{sum(each.total() for each in sent.values()):>7} of {number} sent", flush=True)
            if sum(each.total() for each in sent.values()) >= number:
                break
        pool.terminate()
    for kind, codes in sent.items():
        print(
            f"{kind}: {codes.total()} requests,",
            ", ".join(f"{count} x {code}" for code, count in sorted(codes.items())),
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
