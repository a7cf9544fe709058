"""Publishes claimed rows as RQ jobs, and tells which jobs Redis has lost."""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from chargeapp.logs import get_logger
from chargeapp.pipeline import STAGES, Stage
from chargeapp.storage.outbox import Ticket
from chargeapp.transport.broker import BrokerUnavailable, Jobs
from chargeapp.transport.message import pack

log = get_logger()

# Twice the longest a job goes on; only a job that hangs is ended by it.
JOB_TIMEOUT_SECONDS = 600
FAILED_JOB_KEPT_SECONDS = 3600
JOBS_AT_ONCE = 1000
ROWS_PER_JOB = 64
# Rows beyond these wait in the database, where they gather into full jobs.
JOBS_IN_QUEUE = 2


class RqTransport:
    keyed = False

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._queues = {stage.queue: Queue(stage.queue, connection, serializer=JSONSerializer) for stage in STAGES}

    def publish(self, stage: Stage, tickets: Sequence[Ticket], job_id: str, stations: Mapping[int, str]) -> None:
        """One job for all the tickets."""
        with unavailable():
            self._queues[stage.queue].enqueue(
                stage.job,
                pack(tickets),
                job_id=job_id,
                job_timeout=JOB_TIMEOUT_SECONDS,
                result_ttl=0,
                failure_ttl=FAILED_JOB_KEPT_SECONDS,
                description=f"{stage.queue}: {len(tickets)} rows",
            )

    def room(self, stage: Stage) -> int:
        """One job's rows, while fewer than two jobs wait; those being worked on are not counted."""
        with unavailable():
            return ROWS_PER_JOB if self._queues[stage.queue].count < JOBS_IN_QUEUE else 0

    def count_jobs(self) -> dict[str, Jobs]:
        """Of each queue. Only counts: what Redis holds of a job may be anybody's."""
        with unavailable():
            return {
                name: Jobs(
                    waiting=queue.count,
                    # RQ's own count would clean up first, and so change what is only to be looked at.
                    at_work=queue.started_job_registry.get_job_count(cleanup=False),
                    scheduled=queue.scheduled_job_registry.get_job_count(cleanup=False),
                    failed=queue.failed_job_registry.get_job_count(cleanup=False),
                )
                for name, queue in self._queues.items()
            }

    def lost(self, stage: Stage, job_ids: Collection[str]) -> set[str]:
        """Those of `job_ids` that Redis no longer knows."""
        ordered = sorted(job_ids)
        with unavailable():
            pipeline = self._connection.pipeline(transaction=False)
            for job_id in ordered:
                pipeline.exists(Job.key_for(job_id))
            known = pipeline.execute()
        return {job_id for job_id, exists in zip(ordered, known, strict=True) if not exists}

    def enqueue_scheduled(self) -> None:
        """Move jobs whose retry pause is over into their queue. What RQ stores of a job is not read.

        RQ's own scheduler would read it, and one job that cannot be read would stop the relay for ever.
        """
        with unavailable():
            for queue in self._queues.values():
                registry = queue.scheduled_job_registry.key
                due: Any = self._connection.zrangebyscore(registry, 0, time.time(), start=0, num=JOBS_AT_ONCE)
                for job_id in due:
                    self._bring_back(queue, registry, job_id)

    def _bring_back(self, queue: Queue, registry: str, job_id: bytes) -> None:
        ours = re.fullmatch(rf"{queue.name}-[0-9a-f]{{32}}".encode(), job_id)
        # Two relays may do this at once: of two jobs with the same tickets only one gets the rows.
        with self._connection.pipeline() as pipeline:
            pipeline.zrem(registry, job_id)
            if ours:
                pipeline.hset(Job.key_for(job_id.decode()), "status", JobStatus.QUEUED)
                pipeline.rpush(queue.key, job_id)
            pipeline.execute()
        if not ours:
            log.error("Message refused", action="message_refused", queue=queue.name, error="not scheduled by us")

    def ping(self) -> None:
        with unavailable():
            self._connection.ping()


class unavailable:  # noqa: N801 - reads as a statement
    """Every fault of Redis is one error to the rest of the program."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if isinstance(error, redis.RedisError | OSError):
            raise BrokerUnavailable(f"Redis: {error}") from error
