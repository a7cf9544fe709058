"""A worker of one stage that reads its topic: the same jobs as under RQ, in a loop of our own."""

import signal
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from chargeapp.clock import utcnow
from chargeapp.errors import DatabaseUnavailable
from chargeapp.logs import get_logger
from chargeapp.pipeline import Stage
from chargeapp.runtime import Runtime
from chargeapp.storage import outbox, planned_retries
from chargeapp.storage.outbox import Ticket
from chargeapp.transport.broker import BrokerUnavailable
from chargeapp.transport.cloud_events import Command
from chargeapp.transport.kafka_look import new_run_id
from chargeapp.transport.kafka_subscription import Offsets, Subscription
from chargeapp.transport.kafka_topics import prepare
from jobs.stage_jobs import StageJobs

log = get_logger()

READ_SECONDS = 0.5
# Due for so long, a row was not brought here and not begun with elsewhere: its message is lost, waits behind a busy
# worker's, or Kafka is away. Whoever is idle takes it.
LEFT_LYING = timedelta(seconds=1)
# Tickets of more messages than these are let go: their rows are found in the database.
MOST_TICKETS = 1000


class KafkaWorker:
    def __init__(self, runtime: Runtime, stage: Stage) -> None:
        self._runtime = runtime
        self._stage = stage
        self._jobs = StageJobs(runtime, stage)
        self._subscription = Subscription(runtime.kafka, stage)
        self._commands: list[Command] = []
        self._offsets: Offsets = {}
        self._look_at = 0.0
        self._stop = threading.Event()

    def work(self) -> None:
        """Until `stop`."""
        try:
            prepare(self._runtime.kafka)
        except BrokerUnavailable as error:
            # The relay makes them, too.
            log.warning("Topics cannot be used yet", action="kafka_awaited", error=str(error))
        with self._subscription:
            while not self._stop.is_set():
                self._read(READ_SECONDS)
                if self._commands or self._offsets or self._any_left_lying():
                    self._run()

    def stop(self) -> None:
        """A job under way ends in order; its group goes on without this worker at once."""
        self._stop.set()

    def _run(self) -> None:
        """One job, for all that was read. Its messages are done once the database has what came of them."""
        commands, offsets = self._commands, self._offsets
        self._commands, self._offsets = [], {}
        job_id = new_run_id(self._stage)
        try:
            self._jobs.run(job_id, tickets(commands), self._stopping)
            self._leave_retries({job_id} | {each.job_id for each in commands})
        except Exception:
            # The rows are due again when their lease ends.
            log.exception("A job failed", action="job_failed", queue=self._stage.queue)
        self._subscription.done(offsets)

    def _stopping(self) -> bool:
        """Asked several times a second while a job runs: who stops reading loses its place in the group."""
        self._read(0)
        return self._stop.is_set()

    def _read(self, seconds: float) -> None:
        commands, offsets = self._subscription.read(seconds)
        self._commands += commands[: MOST_TICKETS - len(self._commands)]
        self._offsets |= offsets

    def _any_left_lying(self) -> bool:
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + LEFT_LYING.total_seconds()
        try:
            with self._runtime.database.reading() as session:
                return outbox.any_to_take(session, self._stage.outbox, utcnow() - LEFT_LYING)
        except DatabaseUnavailable:
            return False

    def _leave_retries(self, job_ids: set[str]) -> None:
        """Kafka brings nothing back later, so the relay publishes them in time."""
        try:
            with self._runtime.database.writing(durable=False) as session:
                planned_retries.leave_to_relay(session, self._stage.outbox, job_ids, utcnow())
        except DatabaseUnavailable as error:
            log.warning("Retries will be a little late", action="job_hindered", error=str(error))


def run_kafka_worker(runtime: Runtime, stage: Stage) -> None:
    """Until SIGTERM or SIGINT."""
    worker = KafkaWorker(runtime, stage)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.work()


def tickets(commands: Sequence[Command]) -> list[Ticket]:
    """Each row once, with its newest number."""
    newest: dict[int, int] = {}
    for each in commands:
        newest[each.ticket.row_id] = max(each.ticket.seq, newest.get(each.ticket.row_id, 0))
    return [Ticket(row_id, seq) for row_id, seq in newest.items()]
