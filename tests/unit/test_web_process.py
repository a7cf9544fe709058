"""The API's processes share what comes."""

from types import SimpleNamespace

import pytest
from gunicorn.workers.gthread import ThreadWorker

from chargeapp.commands import gunicorn_server
from chargeapp.commands.gunicorn_server import PAUSE_SECONDS, DiscreetWorker


@pytest.mark.parametrize(
    ("processes", "connections", "accepted", "pauses"),
    [(2, 1, 1, [PAUSE_SECONDS]), (2, 1, 0, []), (2, 0, 1, []), (1, 1, 1, [])],
    ids=["leaves the next one to others", "others were quicker", "the only connection", "the only process"],
)
def test_who_has_connections_and_accepts_one_more_pauses(
    monkeypatch: pytest.MonkeyPatch, processes: int, connections: int, accepted: int, pauses: list[float]
) -> None:
    def accept(worker: ThreadWorker, listener: object) -> None:
        worker.nr_conns += accepted

    slept: list[float] = []
    monkeypatch.setattr(ThreadWorker, "accept", accept)
    monkeypatch.setattr(gunicorn_server, "time", SimpleNamespace(sleep=slept.append))
    worker = DiscreetWorker.__new__(DiscreetWorker)
    worker.cfg, worker.nr_conns = SimpleNamespace(workers=processes), connections

    worker.accept("listener")

    assert slept == pauses
