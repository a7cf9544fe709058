"""How often a key, and an address without one, may call: counted in a real Redis, and without it when it is away."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from support.callers import API, BODY, api_of, bearer, make_key, open_api
from support.redis_server import RedisServer

from chargeapp.config import load_settings
from chargeapp.errors import MisconfiguredError
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope, new_key
from chargeapp.web import rate_limits
from chargeapp.web.rate_limits import FAILED_ATTEMPTS, TIMEOUT_SECONDS

READ = Scope.READ
ATTEMPTS = int(FAILED_ATTEMPTS.partition("/")[0])


@pytest.fixture
def redis(server: RedisServer) -> Iterator[RedisServer]:
    """Running and empty."""
    server.stop()
    server.start()
    yield server


def codes(api: FlaskClient, times: int, path: str = API, **options: Any) -> list[int]:
    return [api.get(path, **options).status_code for _ in range(times)]


def limited(tmp_path: Path, redis: RedisServer, limit: str = "3/hour") -> Any:
    return api_of(tmp_path, rate_limit=limit, redis_url=redis.url)


def test_beyond_its_limit_a_key_is_answered_429_and_told_when_to_come_back(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis) as (runtime, api):
        headers = bearer(make_key(runtime, READ))
        before = codes(api, 3, headers=headers)
        answer = api.get(API, headers=headers)

    body = answer.get_json()
    assert before == [200, 200, 200]
    assert (answer.status_code, body["status"]) == (429, "rate_limited")
    assert set(body) == {"status", "message", "timestamp"}
    assert 3500 < int(answer.headers["Retry-After"]) <= 3600
    assert answer.headers["Retry-After"] in body["message"]


def test_each_key_has_a_limit_of_its_own_over_all_routes(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis) as (runtime, api):
        one, two = (bearer(make_key(runtime, *Scope)) for _ in range(2))
        mixed = [
            api.post(API, json=BODY, headers=one).status_code,
            api.get("/metrics", headers=one).status_code,
            api.get(API, headers=one).status_code,
            api.get("/", headers=one).status_code,
        ]
        other = codes(api, 3, headers=two)

    assert (mixed, other) == ([200, 200, 200, 429], [200, 200, 200])


def test_nothing_is_stored_of_a_request_beyond_the_limit(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis) as (runtime, api):
        headers = bearer(make_key(runtime, *Scope))
        posted = [api.post(API, json=BODY, headers=headers).status_code for _ in range(5)]
        listed = api.get(API, headers=bearer(make_key(runtime, READ))).get_json()["requests"]

    assert posted == [200, 200, 200, 429, 429]
    assert len(listed) == 3


def test_without_a_key_each_address_has_a_limit_of_its_own(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis) as (_, api):
        one = codes(api, 4, "/login", environ_overrides={"REMOTE_ADDR": "192.0.2.1"})
        two = codes(api, 4, "/login", environ_overrides={"REMOTE_ADDR": "192.0.2.2"})

    assert one == two == [200, 200, 200, 429]


def test_probes_are_never_too_many(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis, "1/hour") as (_, api):
        exhausted = codes(api, 2, "/login")
        probed = [codes(api, 3, path) for path in ("/health", "/health/live", "/health/ready")]

    assert (exhausted, probed) == ([200, 429], [[200] * 3] * 3)


def test_behind_a_trusted_proxy_it_is_the_clients_address_that_counts(tmp_path: Path, redis: RedisServer) -> None:
    with api_of(tmp_path, rate_limit="1/hour", redis_url=redis.url, trusted_proxies=1) as (_, api):
        told = [
            api.get("/login", headers={"X-Forwarded-For": f"198.51.100.{made_up}, 192.0.2.{number}"}).status_code
            for made_up, number in ((1, 1), (2, 1), (3, 2))
        ]

    assert told == [200, 429, 200]


def test_without_a_trusted_proxy_nobody_can_claim_another_address(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis, "1/hour") as (_, api):
        told = [api.get("/login", headers={"X-Forwarded-For": f"192.0.2.{number}"}).status_code for number in (1, 2)]

    assert told == [200, 429]


def test_all_processes_count_together(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis) as (runtime, one):
        headers = bearer(make_key(runtime, READ))
        other = open_api(runtime)

        assert codes(one, 2, headers=headers) + codes(other, 2, headers=headers) == [200, 200, 200, 429]
        assert codes(one, 1, headers=headers) == [429]


def test_the_limit_ends_with_its_period(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis, "1/second") as (runtime, api):
        headers = bearer(make_key(runtime, READ))
        while api.get(API, headers=headers).status_code == 200:
            pass
        answer = api.get(API, headers=headers)
        time.sleep(int(answer.headers["Retry-After"]) + 0.1)

        assert codes(api, 1, headers=headers) == [200]


def test_while_redis_is_down_each_process_counts_for_itself(tmp_path: Path, redis: RedisServer) -> None:
    redis.stop()
    with limited(tmp_path, redis) as (runtime, one):
        headers = bearer(make_key(runtime, READ))
        other = open_api(runtime)

        assert codes(one, 4, headers=headers) == [200, 200, 200, 429]
        assert codes(other, 4, headers=headers) == [200, 200, 200, 429]
        assert int(one.get(API, headers=headers).headers["Retry-After"]) > 3500


def test_a_redis_that_goes_away_and_comes_back_fails_no_request(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis, "1000/hour") as (runtime, api):
        headers = bearer(make_key(runtime, READ))
        before = codes(api, 3, headers=headers)
        redis.stop()
        meanwhile = codes(api, 3, headers=headers)
        redis.start()
        deadline = time.monotonic() + 20
        while not redis.client.keys("LIMITS*") and time.monotonic() < deadline:
            assert codes(api, 1, headers=headers) == [200]
            time.sleep(0.1)
        counted_again = redis.client.keys("LIMITS*")

    assert before == meanwhile == [200, 200, 200]
    assert counted_again


def test_a_redis_that_hangs_holds_no_request(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis, "1000/hour") as (runtime, api):
        headers = bearer(make_key(runtime, READ))
        assert codes(api, 3, headers=headers) == [200, 200, 200]
        assert redis._process is not None
        os.kill(redis._process.pid, signal.SIGSTOP)
        try:
            took = []
            for _ in range(50):
                began = time.monotonic()
                assert api.get(API, headers=headers).status_code == 200
                took.append(time.monotonic() - began)
        finally:
            os.kill(redis._process.pid, signal.SIGCONT)

    # The one that finds out waits, for its count and perhaps for one more look; the others do not.
    assert max(took) < 4 * TIMEOUT_SECONDS
    assert sorted(took)[len(took) // 2] < TIMEOUT_SECONDS / 2


def test_redis_is_asked_beside_the_loop(tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def key() -> str:
        threads.append(threading.current_thread().name)
        return "key"

    monkeypatch.setattr(rate_limits, "key_or_address", key)
    with limited(tmp_path, redis) as (runtime, api), ThreadPoolExecutor(1, "loop") as loop:
        loop.submit(api.application.extensions["loop"].enter).result()
        headers = bearer(make_key(runtime, Scope.SUBMIT))
        answered = [loop.submit(api.post, API, json={}, headers=headers).result().status_code for _ in range(4)]

    assert answered == [400, 400, 400, 429]
    assert {name.partition("_")[0] for name in threads} == {"beside"}


def test_a_redis_without_room_fails_no_request(tmp_path: Path, redis: RedisServer) -> None:
    redis.client.config_set("maxmemory", 1)
    with limited(tmp_path, redis) as (runtime, api):
        headers = bearer(make_key(runtime, READ))

        assert codes(api, 4, headers=headers) == [200, 200, 200, 429]


def test_in_redis_there_is_the_keys_id_and_not_the_key(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis) as (runtime, api):
        key = make_key(runtime, READ)
        codes(api, 1, headers=bearer(key))
        names = b" ".join(redis.client.keys("*")).decode()

    assert key[4:16] in names
    assert key[17:] not in names


def test_failed_attempts_of_an_address_are_throttled_even_without_a_limit(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis, "off") as (runtime, api):
        good = bearer(make_key(runtime, READ))
        attempts = [api.get(API, headers=bearer(new_key())).status_code for _ in range(ATTEMPTS + 2)]
        throttled = api.get(API, headers=bearer(new_key()))
        elsewhere = codes(api, 1, headers=bearer(new_key()), environ_overrides={"REMOTE_ADDR": "192.0.2.9"})
        # Whoever has a good key gets in, although somebody else tries from behind the same proxy.
        with_good_key = codes(api, 1, headers=good)

    assert attempts == [401] * ATTEMPTS + [429] * 2
    assert 0 < int(throttled.headers["Retry-After"]) <= 60
    assert "attempts" in throttled.get_json()["message"]
    assert (elsewhere, with_good_key) == ([401], [200])


def test_whoever_brings_no_key_at_all_has_not_tried(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis, "off") as (runtime, api):
        make_key(runtime, READ)

        assert codes(api, ATTEMPTS + 5) == [401] * (ATTEMPTS + 5)


def test_failed_attempts_are_throttled_without_redis_too(tmp_path: Path, redis: RedisServer) -> None:
    redis.stop()
    with limited(tmp_path, redis, "off") as (runtime, api):
        make_key(runtime, READ)

        assert codes(api, ATTEMPTS + 1, headers=bearer(new_key()))[-2:] == [401, 429]


def test_there_is_no_limit_in_development_and_one_in_production() -> None:
    production = {"CHARGEAPP_ENV": "production"}

    assert load_settings({}, Path("no.toml")).effective_rate_limit is None
    assert load_settings(production, Path("no.toml")).effective_rate_limit == "6000/minute"
    assert load_settings(production | {"RATE_LIMIT": "off"}, Path("no.toml")).effective_rate_limit is None
    assert load_settings({"RATE_LIMIT": "5/second"}, Path("no.toml")).effective_rate_limit == "5/second"


@pytest.mark.parametrize(
    "limit", ["many", "0/minute", "-1/minute", "10", "10/fortnight", "10 per minute", "10/minute;1/day"]
)
def test_a_limit_that_is_none_stops_the_start(limit: str) -> None:
    with pytest.raises(MisconfiguredError, match="RATE_LIMIT: Must be such as 600/minute, or off"):
        load_settings({"RATE_LIMIT": limit}, Path("no.toml"))


def test_nothing_is_asked_of_redis_where_nothing_is_limited(tmp_path: Path, redis: RedisServer) -> None:
    with limited(tmp_path, redis, "off") as (runtime, api):
        codes(api, 3, headers=bearer(make_key(runtime, READ)))
        assert isinstance(runtime, Runtime)

        assert redis.client.keys("*") == []


def test_where_kafka_carries_the_jobs_and_there_is_no_redis_each_process_counts_for_itself(tmp_path: Path) -> None:
    kafka = {"broker": "kafka", "kafka_bootstrap_servers": ("nobody.example:9092",), "redis_url": None}
    with api_of(tmp_path, rate_limit="3/hour", **kafka) as (_, api):
        assert codes(api, 4, "/login") == [200, 200, 200, 429]
