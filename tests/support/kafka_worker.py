"""A worker on Kafka, in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import jobs.consumer
from chargeapp.pipeline import AUTHORIZATION, Stage
from chargeapp.runtime import Runtime
from jobs.kafka_worker import KafkaWorker


@contextmanager
def working(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, stage: Stage = AUTHORIZATION) -> Iterator[KafkaWorker]:
    monkeypatch.setattr(jobs.consumer, "LINGER_SECONDS", 0.1)
    worker = KafkaWorker(runtime, stage)
    thread = threading.Thread(target=worker.work)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(20)
        worker._jobs._pool.shutdown()
    assert not thread.is_alive()
