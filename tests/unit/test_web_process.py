"""The API's processes share what comes."""

from types import SimpleNamespace

import pytest
from gunicorn.workers.gthread import ThreadWorker

from chargeapp.commands import gunicorn_server
from chargeapp.commands.gunicorn_server import PAUSE_SECONDS, DiscreetWorker


@pytest.mark.parametrize(("processes", "pauses"), [(2, [PAUSE_SECONDS]), (1, [])])
def test_who_accepted_a_connection_leaves_the_next_one_to_others(
    monkeypatch: pytest.MonkeyPatch, processes: int, pauses: list[float]
) -> None:
    done: list[object] = []
    monkeypatch.setattr(ThreadWorker, "accept", lambda worker, listener: done.append(listener))
    monkeypatch.setattr(gunicorn_server, "time", SimpleNamespace(sleep=done.append))
    worker = DiscreetWorker.__new__(DiscreetWorker)
    worker.cfg = SimpleNamespace(workers=processes)

    worker.accept("listener")

    assert done == ["listener", *pauses]
