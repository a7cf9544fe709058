"""One RQ worker for one queue: long-lived, preloaded, and deaf to anything that is not one of our jobs."""

import contextlib
import math
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from rq import Queue, SimpleWorker
from rq.job import Job, Retry
from rq.serializers import JSONSerializer

from chargeapp import failpoints
from chargeapp.clock import utcnow
from chargeapp.logs import get_logger
from chargeapp.pipeline import Stage
from chargeapp.runtime import Runtime
from chargeapp.storage import heartbeats
from chargeapp.storage.database import DatabaseUnavailable
from chargeapp.transport.message import PoisonMessage, unpack
from jobs.authorization import Authorization
from jobs.callbacks import Callbacks
from jobs.consumer import Consumer
from jobs.delivery_events import DeliveryEvents
from jobs.work import Work

log = get_logger()

# Rows count their attempts themselves; this only keeps a job from coming back for ever.
RETRIES_PER_JOB = 1000
WORKER_TTL_SECONDS = 90


class StageWorker(SimpleWorker):
    """Runs jobs in its own process: a fork for each would cost more than the work."""

    def __init__(self, runtime: Runtime, stage: Stage) -> None:
        self._runtime = runtime
        self._stage = stage
        self._work_of_stage = _work(runtime, stage)
        threads = runtime.settings.queue_consumer_threads
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=stage.queue)
        connection = redis.Redis.from_url(runtime.redis_url, protocol=2)
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

    def consume(self, job_id: str, message: Any) -> Retry | None:
        """One job. What it has to try again later, RQ brings back to it."""
        tickets = unpack(message)
        failpoints.reach("job.dequeued")
        consumer: Consumer[Any, Any] = Consumer(
            self._work_of_stage,
            job_id=job_id,
            database=self._runtime.database,
            wakeups=self._runtime.wakeups,
            pool=self._pool,
            threads=self._threads,
            stopping=lambda: bool(self._stop_requested),
            after_commit=self._hand_over,
        )
        retry_at = consumer.run(tickets)
        self._wake(self._stage)
        if retry_at is None:
            return None
        # RQ counts whole seconds, and 0 would mean at once.
        pause = math.ceil((retry_at - utcnow()).total_seconds())
        return Retry(max=RETRIES_PER_JOB, interval=[max(1, pause)])

    def _hand_over(self) -> None:
        if self._work_of_stage.next_stage:
            self._wake(self._work_of_stage.next_stage)

    def _wake(self, stage: Stage) -> None:
        """Wake whoever takes rows of `stage`; where cron is the only relay, be the relay for them."""
        if not self._runtime.wakeups.ring(stage.queue):
            self._runtime.relay.publish_due(stage)


class StageJob(Job):
    """Whatever a message in Redis says, only the worker's own stage is run; nothing is imported by name."""

    worker: StageWorker

    def _execute(self) -> Any:
        if self.func_name != self.worker.stage.job or self.instance is not None or self.kwargs or len(self.args) != 1:
            raise PoisonMessage("Not a job of this queue")
        return self.worker.consume(self.id, self.args[0])

    def restore(self, raw_data: Any) -> Any:
        result = super().restore(raw_data)
        # RQ would import and call these by name, or post to any address.
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []
        return result


class PoisonProofQueue(Queue):
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


def _work(runtime: Runtime, stage: Stage) -> Work[Any, Any]:
    works: dict[str, type[Any]] = {work.stage.queue: work for work in (Authorization, Callbacks, DeliveryEvents)}
    work: Work[Any, Any] = works[stage.queue](runtime)
    return work


def run_worker(runtime: Runtime, stage: Stage) -> None:
    """Until SIGTERM. Waits for Redis at the start; ends when RQ does, for a supervisor to start it again."""
    while True:
        try:
            worker = StageWorker(runtime, stage)
            break
        except redis.RedisError as error:
            log.warning("Waiting for Redis", action="redis_awaited", error=str(error))
            time.sleep(1)
    with Heart(runtime, stage):
        worker.work(logging_level=None)


class Heart:
    """Says every few seconds that this worker lives, and how its circuit breaker stands."""

    def __init__(self, runtime: Runtime, stage: Stage) -> None:
        self._runtime = runtime
        self._process = f"worker {stage.queue} {socket.gethostname()} {os.getpid()}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(DatabaseUnavailable), self._runtime.database.writing() as session:
            heartbeats.leave(session, self._process)

    def _beat(self) -> None:
        while True:
            with contextlib.suppress(DatabaseUnavailable), self._runtime.database.writing() as session:
                heartbeats.beat(session, self._process, utcnow(), self._runtime.circuit_state())
            if self._stop.wait(heartbeats.BEAT_SECONDS):
                return
