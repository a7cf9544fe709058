"""Runs jobs of one stage, whatever brought them here, and wakes whoever goes on."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from chargeapp import failpoints
from chargeapp.errors import TemporaryFailure
from chargeapp.logs import get_logger
from chargeapp.pipeline import Stage
from chargeapp.runtime import Runtime
from chargeapp.storage.outbox import Ticket
from jobs.authorization import Authorization
from jobs.callbacks import Callbacks
from jobs.consumer import Consumer
from jobs.delivery_events import DeliveryEvents
from jobs.work import Work

log = get_logger()


class StageJobs:
    def __init__(self, runtime: Runtime, stage: Stage) -> None:
        self._runtime = runtime
        self._work: Work[Any, Any] = _work(runtime, stage)
        self._threads = runtime.settings.queue_consumer_threads
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=stage.queue)

    def run(self, job_id: str, tickets: Sequence[Ticket], stopping: Callable[[], bool]) -> datetime | None:
        """Returns when the earliest retry among this job's rows is due, None if there is none."""
        failpoints.reach("job.dequeued")
        consumer: Consumer[Any, Any] = Consumer(
            self._work,
            job_id=job_id,
            database=self._runtime.database,
            wakeups=self._runtime.wakeups,
            pool=self._pool,
            threads=self._threads,
            stopping=stopping,
            after_commit=self._hand_over,
        )
        retry_at = consumer.run(tickets)
        self._wake(self._work.stage)
        return retry_at

    def _hand_over(self) -> None:
        if self._work.next_stage:
            self._wake(self._work.next_stage)

    def _wake(self, stage: Stage) -> None:
        """Wake whoever takes rows of `stage`; where cron is the only relay, be the relay for them."""
        if self._runtime.wakeups.ring(stage.queue):
            return
        try:
            self._runtime.relay.publish_due(stage)
        except TemporaryFailure as error:
            # The rows stay due. The job must go on: calls are under way whose results it has to record.
            log.warning("Rows are left to the relay", action="relay_hindered", error=str(error))


def _work(runtime: Runtime, stage: Stage) -> Work[Any, Any]:
    works: dict[str, type[Any]] = {work.stage.queue: work for work in (Authorization, Callbacks, DeliveryEvents)}
    work: Work[Any, Any] = works[stage.queue](runtime)
    return work
