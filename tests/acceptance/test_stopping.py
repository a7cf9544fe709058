"""Ctrl-C or SIGTERM ends all of it in order."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from deployment import Deployment, children_of, is_running, stop
from servers import Answer, Receiver


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_process_and_leaves_the_work_in_good_order(
    data_dir: Callable[[], Path], receiver: Receiver, number: signal.Signals
) -> None:
    path = receiver.path(Answer(204, delay_seconds=0.5))
    with Deployment(data_dir()) as deployment:
        deployment.up()
        request_id = deployment.submit("driver-token-of-stopping", receiver.url(path))
        receiver.wait_for(path)
        everybody = descendants(deployment.supervisor.pid)

        status = stop(deployment.supervisor, number)

        assert status == 0
        assert [pid for pid in everybody if is_running(pid)] == []
        assert "Traceback" not in deployment.output()
        # The callback on its way was waited for, and its result recorded.
        assert deployment.requests_with_events("CallbackAttempted") == 1, request_id
    assert len(receiver.at(path)) == 1


def descendants(pid: int) -> list[int]:
    children = children_of(pid)
    return children + [each for child in children for each in descendants(child)]
