"""RQ's view of Redis for somebody who only looks: nothing is changed, and nothing is unpacked that could be code."""

from typing import Any

from redis import Redis
from redis.client import Pipeline
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from chargeapp.transport.rq_transport import unavailable

LOOKS = {
    "EXISTS",
    "HGET",
    "HGETALL",
    "LLEN",
    "LRANGE",
    "SMEMBERS",
    "XREVRANGE",
    "ZCARD",
    "ZRANGE",
    "ZSCORE",
}


class ReadingRedis(Redis):
    """RQ tidies up where it only should look: to that, the answer is that there was nothing to do."""

    def execute_command(self, *words: Any, **options: Any) -> Any:
        if words[0] not in LOOKS:
            return 0
        with unavailable():
            return super().execute_command(*words, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *_: Any, **__: Any) -> Any:
        return ReadingPipeline(self.connection_pool, self.response_callbacks, transaction=False, shard_hint=None)


class ReadingPipeline(Pipeline):
    def execute_command(self, *words: Any, **options: Any) -> Any:
        if words[0] not in LOOKS:
            return self
        return super().execute_command(*words, **options)  # type: ignore[no-untyped-call]

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with unavailable():
            return super().execute(raise_on_error)


class SeenJob(Job):
    """What is stored of its call and result may be anybody's, and ours have a description that says all."""

    def __init__(self, id: str | None = None, connection: Redis | None = None, serializer: Any = None) -> None:
        super().__init__(id, connection, JSONSerializer)

    def restore(self, raw_data: Any) -> Any:
        return super().restore({**raw_data, b"data": b"", b"meta": b"", b"result": b""})

    def get_meta(self, refresh: bool = True) -> dict[str, Any]:
        return {}

    def get_call_string(self) -> str:
        return self.description or self.id


class SeenQueue(Queue):
    job_class = SeenJob


class SeenWorker(Worker):
    job_class = SeenJob
    queue_class = SeenQueue

    def _set_connection(self, connection: Redis) -> Redis:
        """RQ's own would have everybody who shares the connection wait as long as a worker does."""
        return connection
