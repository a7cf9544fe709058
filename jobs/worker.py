"""One RQ worker for one queue: long-lived, preloaded, and deaf to anything that is not one of our jobs."""

import math
import re
import time
import zlib
from datetime import datetime
from typing import Any

import redis
from rq import Queue, SimpleWorker
from rq.job import Job, Retry
from rq.serializers import JSONSerializer
from rq.worker_registration import clean_worker_registry

from chargeapp.clock import utcnow
from chargeapp.garbage import spare_what_stays
from chargeapp.logs import get_logger
from chargeapp.pipeline import Stage
from chargeapp.runtime import Runtime
from chargeapp.transport.message import PoisonMessage, unpack
from chargeapp.transport.redis_client import connect_worker
from chargeapp.transport.rq_transport import FAILED_JOB_KEPT_SECONDS, JOB_TIMEOUT_SECONDS
from jobs.heart import Heart
from jobs.stage_jobs import StageJobs

log = get_logger()

# Rows count their attempts themselves; this only keeps a job from coming back for ever.
RETRIES_PER_JOB = 1000
WORKER_TTL_SECONDS = 90
# All that is read of a job: its message, and how often it came back.
DATA = "data"
FIELDS = (DATA, "number_of_retries")
# 1,000 rows take 30 KiB.
MAX_MESSAGE_BYTES = 64 * 1024
JOB_ID = re.compile(rb"[A-Za-z0-9_-]{1,200}")
NO_JOB = b"no-job"


class StageWorker(SimpleWorker):
    """Runs jobs in its own process: a fork for each would cost more than the work."""

    def __init__(self, runtime: Runtime, stage: Stage) -> None:
        self._stage = stage
        self._jobs = StageJobs(runtime, stage)
        connection = connect_worker(runtime.redis_url)
        job_class = type("StageJob", (StageJob,), {"worker": self})
        super().__init__(
            [PoisonProofQueue(stage.queue, connection, job_class=job_class, serializer=JSONSerializer)],
            connection=connection,
            job_class=job_class,
            queue_class=PoisonProofQueue,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_SECONDS,
            log_job_description=False,
        )
        self.log_result_lifespan = False

    @property
    def stage(self) -> Stage:
        return self._stage

    def subscribe(self) -> None:
        """RQ's commands are not heard: whoever may publish in Redis could stop workers with them."""

    def run_maintenance_tasks(self) -> None:
        """What RQ remembers of jobs ends in time; RQ would read those jobs. The database finds lost ones again."""
        self.last_cleaned_at = utcnow()  # type: ignore[assignment]  # RQ declares it as None
        (stage_queue,) = self.queues
        clean_up(self.connection, stage_queue, utcnow())

    def consume(self, job_id: str, message: Any) -> Retry | None:
        """One job. What it has to try again later, RQ brings back to it."""
        retry_at = self._jobs.run(job_id, unpack(message), lambda: bool(self._stop_requested))
        if retry_at is None:
            return None
        # RQ counts whole seconds, and 0 would mean at once.
        pause = math.ceil((retry_at - utcnow()).total_seconds())
        return Retry(max=RETRIES_PER_JOB, interval=[max(1, pause)])

    def set_shutdown_requested_date(self) -> None:
        """RQ's own asks Redis in a signal handler: while Redis is away that would end the job in the middle."""


def clean_up(connection: redis.Redis, queue: Queue, now: datetime) -> None:
    """Jobs that a worker left behind when it was killed vanish in an hour; lists of them are emptied."""
    started, taken = queue.started_job_registry.key, queue.intermediate_queue_key
    abandoned: Any = connection.zrangebyscore(started, 0, now.timestamp())
    abandoned += connection.lrange(taken, 0, -1)
    with connection.pipeline() as pipeline:
        for entry in abandoned:
            job_id, _, _ = entry.partition(b":")
            if JOB_ID.fullmatch(job_id):
                pipeline.expire(Job.key_for(job_id.decode()), FAILED_JOB_KEPT_SECONDS)
        for registry in (started, queue.failed_job_registry.key, queue.finished_job_registry.key):
            pipeline.zremrangebyscore(registry, 0, now.timestamp())
        pipeline.delete(taken)
        pipeline.execute()
    try:
        clean_worker_registry(queue)
    except ValueError:
        log.error("Message refused", action="message_refused", queue=queue.name, error="no worker name")


class StageJob(Job):
    """Whatever a message in Redis says, only the worker's own stage is run; nothing is imported by name.

    Of what is stored of a job, two fields are read. RQ would import callbacks by name, post to webhooks, follow groups,
    dependencies, repetitions and rate limits, and unpack whatever it finds: none of it is ever fetched.
    """

    worker: StageWorker

    def _execute(self) -> Any:
        if self.func_name != self.worker.stage.job or self.instance is not None or self.kwargs or len(self.args) != 1:
            raise PoisonMessage("Not a job of this queue")
        return self.worker.consume(self.id, self.args[0])

    def refresh(self) -> None:
        """Raises PoisonMessage for what is too large to be one of our messages, without fetching it."""
        with self.connection.pipeline() as pipeline:
            for name in FIELDS:
                pipeline.hstrlen(self.key, name)
            sizes = pipeline.execute()
        if max(sizes) > MAX_MESSAGE_BYTES:
            raise PoisonMessage("Too large")
        self.restore(dict(zip(FIELDS, self.connection.hmget(self.key, FIELDS), strict=True)))

    def restore(self, raw_data: Any) -> Any:
        kept = {name: raw_data[name] for name in FIELDS if raw_data.get(name)}
        if DATA in kept:
            kept[DATA] = _decompressed(kept[DATA])
        result = super().restore({name.encode(): value for name, value in kept.items()})
        self.origin = self.worker.stage.queue
        self.timeout, self.result_ttl, self.failure_ttl = JOB_TIMEOUT_SECONDS, 0, FAILED_JOB_KEPT_SECONDS
        return result


def _decompressed(data: bytes) -> bytes:
    """Not more than a message of ours can be: a few bytes may stand for many gigabytes."""
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(data, MAX_MESSAGE_BYTES)
    except zlib.error as error:
        raise PoisonMessage("Not compressed") from error
    if not unpacking.eof:
        raise PoisonMessage("Too large")
    return found


class PoisonProofQueue(Queue):
    @classmethod
    def lmove(cls, connection: Any, queue_key: str, timeout: int | None) -> Any:
        """An id that is none would end RQ's worker."""
        found = super().lmove(connection, queue_key, timeout)
        if found is not None and not JOB_ID.fullmatch(found[1]):
            log.error("Message refused", action="message_refused", queue=queue_key, error="no job id")
            return queue_key, NO_JOB
        return found

    @classmethod
    def _fetch_dequeued_job(cls, connection: Any, queue_key: str, job_id: str, *args: Any, **options: Any) -> Any:
        """A job that cannot even be read is dropped with a line in the log; RQ's worker would end."""
        try:
            found = super()._fetch_dequeued_job(connection, queue_key, job_id, *args, **options)
            if found is not None:
                found[0].args  # noqa: B018 - decodes the message
        except redis.ConnectionError:
            raise
        except Exception as error:
            log.error("Message refused", action="message_refused", queue=queue_key, error=type(error).__name__)
            return None
        return found

    def move_dependents_to_ready(self, job: Job, *args: Any, **options: Any) -> dict[str, list[str]]:
        """No job of ours has any."""
        return {}

    def enqueue_dependents(self, job: Job, *args: Any, **options: Any) -> dict[str, list[str]]:
        return {}


def run_worker(runtime: Runtime, stage: Stage) -> None:
    """Until SIGTERM."""
    try:
        if runtime.settings.uses_kafka:
            # Optional, and slow to import.
            from jobs.kafka_worker import run_kafka_worker

            spare_what_stays()
            with Heart(runtime, stage):
                run_kafka_worker(runtime, stage)
        else:
            _run_rq_worker(runtime, stage)
    finally:
        runtime.tracing.flush()


def _run_rq_worker(runtime: Runtime, stage: Stage) -> None:
    """Waits for Redis at the start; ends when RQ does, for a supervisor to start it again."""
    while True:
        try:
            worker = StageWorker(runtime, stage)
            break
        except redis.RedisError as error:
            log.warning("Waiting for Redis", action="redis_awaited", error=str(error))
            time.sleep(1)
    spare_what_stays()
    with Heart(runtime, stage):
        worker.work(logging_level=None)
