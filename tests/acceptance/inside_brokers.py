"""The jobs in Redis or Kafka as bytes: to put some there that are not ours, and to look for traces in them."""

import json
import zlib
from itertools import count
from typing import Any, Protocol

import redis
from confluent_kafka import Producer
from deployment import Deployment
from traces import Search, Trace

from chargeapp.pipeline import Stage
from chargeapp.transport.embedded_redis import embedded_redis_url
from chargeapp.transport.kafka_client import EVENTS_TOPIC, topic_of

numbers = count()


class InsideBroker(Protocol):
    def put(self, stage: Stage, data: bytes) -> None:
        """A job that nobody can run."""

    def traces(self, search: Search) -> list[Trace]: ...

    def put_canaries(self, token: str) -> set[str]:
        """As jobs really hold things; returns where a search has to find them."""

    def close(self) -> None: ...


class InsideRedis:
    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)

    def put(self, stage: Stage, data: bytes) -> None:
        job_id = f"not-ours-{next(numbers)}"
        self._client.hset(f"rq:job:{job_id}", mapping={"data": data, "origin": stage.queue})
        self._client.rpush(f"rq:queue:{stage.queue}", job_id)

    def traces(self, search: Search) -> list[Trace]:
        return search.redis(self._client)

    def put_canaries(self, token: str) -> set[str]:
        self._client.hset("rq:job:canary", "data", zlib.compress(json.dumps([token]).encode()))
        self._client.xadd("rq:results:canary", {"exc": token.encode().hex()})
        self._client.zadd("rq:canary", {token: 1})
        return {f"Redis {key!r}" for key in (b"rq:canary", b"rq:job:canary", b"rq:results:canary")}

    def close(self) -> None:
        self._client.close()


class InsideKafka:
    def __init__(self, address: str) -> None:
        self._address = address
        self._producer = Producer({"bootstrap.servers": address, "log_level": 0})

    def put(self, stage: Stage, data: bytes) -> None:
        self._send(topic_of(stage), value=data)

    def traces(self, search: Search) -> list[Trace]:
        return search.kafka(self._address)

    def put_canaries(self, token: str) -> set[str]:
        self._send(EVENTS_TOPIC, value=json.dumps([token]))
        self._send(EVENTS_TOPIC, key=token)
        self._send(EVENTS_TOPIC, headers={"ce_subject": token.encode().hex()})
        return {f"{part} in {EVENTS_TOPIC}" for part in ("key", "value", "header")}

    def _send(self, topic: str, **message: Any) -> None:
        self._producer.produce(topic, **message)
        assert self._producer.flush(10) == 0

    def close(self) -> None:
        self._producer.purge()


def inside_broker(deployment: Deployment) -> InsideBroker:
    if deployment.broker == "kafka":
        return InsideKafka(deployment.settings["KAFKA_BOOTSTRAP_SERVERS"])
    return InsideRedis(embedded_redis_url(deployment.data_dir))
