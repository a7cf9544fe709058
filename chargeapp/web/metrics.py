"""The figures as JSON and as Prometheus text, read from the database at each scrape."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from chargeapp import reports
from chargeapp.clock import utcnow
from chargeapp.errors import TemporaryFailure
from chargeapp.reports import Figures, Processes
from chargeapp.runtime import Runtime
from chargeapp.transport.broker import BrokerUnavailable
from chargeapp.web.health import prove_commit, server_troubles

WORKS = {
    "accepting": "1 if the database commits, so that requests are accepted",
    "redis_up": "1 if Redis answers",
    "kafka_up": "1 if Kafka answers",
}
BY_QUEUE = {
    "oldest_due_seconds": "How long the row that is due first has been due",
    "kafka_lag": "Messages that a stage's workers have not done yet",
}


def as_json(runtime: Runtime) -> dict[str, Any]:
    figures, processes = _read(runtime)
    return {
        "requests_total": figures.totals["requests"],
        "requests_ended": figures.ended,
        "authorization_decisions": figures.decisions,
        "authorization_errors": figures.authorization_errors,
        "authorization_time_avg_ms": round(figures.authorization.mean_millis, 1),
        "authorization_time_p95_ms": figures.authorization.p95_millis,
        "callback_results": {"succeeded": figures.callbacks_succeeded, "failed": figures.callbacks_failed},
        "callback_time_avg_ms": round(figures.callback.mean_millis, 1),
        "callback_time_p95_ms": figures.callback.p95_millis,
        "queue_size_current": figures.queue_size,
        "queue_size_max": runtime.settings.queue_max_size,
        "outbox_rows_waiting": figures.backlog,
        "dead_letters": figures.dead_letters,
        "oldest_waiting_seconds": round(figures.oldest_waiting_seconds, 1),
        "circuit_breaker": processes.circuit_breaker,
        "workers": processes.workers,
        "relay_last_seen_seconds": processes.relay_age_seconds,
    }


def as_prometheus(runtime: Runtime) -> tuple[bytes, str]:
    up = {name: not trouble for name, trouble in server_troubles(runtime).items()}
    works = {"accepting": _can_commit(runtime), **{f"{name}_up": well for name, well in up.items()}}
    now = utcnow()
    with runtime.database.reading() as session:
        waits = {
            each.queue: (now - each.oldest_due_at).total_seconds() if each.oldest_due_at else 0.0
            for each in reports.backlogs(session, now)
        }
    registry = CollectorRegistry(auto_describe=False)
    by_queue = {"oldest_due_seconds": waits, **({"kafka_lag": lag} if (lag := _lag(runtime, up)) else {})}
    registry.register(_Families(*_read(runtime), runtime.settings.queue_max_size, works, by_queue))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Families(Collector):
    def __init__(
        self,
        figures: Figures,
        processes: Processes,
        queue_max_size: int,
        works: dict[str, bool],
        by_queue: dict[str, dict[str, float]],
    ) -> None:
        self._figures = figures
        self._processes = processes
        self._queue_max_size = queue_max_size
        self._works = works
        self._by_queue = by_queue

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        figures = self._figures
        yield _counter("requests", "Requests accepted", figures.totals["requests"])
        yield _counters("requests_ended", "Requests that reached their end", "state", figures.ended)
        yield _counters("decisions", "Authorization decisions", "decision", figures.decisions)
        yield _counter("authorization_errors", "Decisions that no service made", figures.authorization_errors)
        results = {"succeeded": figures.callbacks_succeeded, "failed": figures.callbacks_failed}
        yield _counters("callbacks", "Callback attempts", "result", results)
        for name, duration in (("authorization", figures.authorization), ("callback", figures.callback)):
            yield _gauge(f"{name}_seconds_mean", f"Mean time of a call: {name}", duration.mean_millis / 1000)
            yield _gauge(f"{name}_seconds_p95", "95 % were faster in the last hour", duration.p95_millis / 1000)
        yield _gauge("queue_size", "Requests not decided yet", figures.queue_size)
        yield _gauge("queue_size_max", "Requests not decided yet beyond which the API refuses", self._queue_max_size)
        yield _gauges("outbox_rows_waiting", "Rows on their way", "queue", figures.backlog)
        yield _gauges("dead_letters", "Rows that could not be processed", "queue", figures.dead_letters)
        for name, values in self._by_queue.items():
            yield _gauges(name, BY_QUEUE[name], "queue", values)
        yield _gauge("oldest_waiting_seconds", "Age of the oldest undecided request", figures.oldest_waiting_seconds)
        yield _gauges("workers", "Workers alive", "queue", self._processes.workers)
        yield _gauge("circuit_breaker_open", "1 unless closed", float(self._processes.circuit_breaker != "closed"))
        if self._processes.relay_age_seconds is not None:
            yield _gauge("relay_last_seen_seconds", "Since the relay worked", self._processes.relay_age_seconds)
        for name, well in self._works.items():
            yield _gauge(name, WORKS[name], well)


def _lag(runtime: Runtime, up: dict[str, bool]) -> dict[str, float]:
    """Empty where it cannot be known."""
    if not up.get("kafka"):
        return {}
    try:
        return {queue: jobs.waiting for queue, jobs in runtime.transport.count_jobs().items()}
    except BrokerUnavailable:
        return {}


def _can_commit(runtime: Runtime) -> bool:
    try:
        prove_commit(runtime)
    except TemporaryFailure:
        return False
    return True


def _read(runtime: Runtime) -> tuple[Figures, Processes]:
    now = utcnow()
    with runtime.database.reading() as session:
        return reports.figures(session, now), reports.processes(session, now)


def _counter(name: str, help_: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"chargeapp_{name}", help_, value=value)


def _counters(name: str, help_: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"chargeapp_{name}", help_, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"chargeapp_{name}", help_, value=value)


def _gauges(name: str, help_: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"chargeapp_{name}", help_, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
