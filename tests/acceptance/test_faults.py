"""Processes killed in the middle of the work: nothing accepted is lost."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aftermath import Aftermath, submit_burst
from deployment import Deployment
from servers import Receiver

# The killed worker's rows are leased for 60 s.
RECOVERY_SECONDS = 120


@pytest.fixture
def battered(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(data_dir()) as deployment:
        yield deployment.up()


def all_delivered(deployment: Deployment, accepted: set[str]) -> bool:
    shown = deployment.get("/api/v1/charging-session", params={"state": "delivered", "limit": 200}).json()
    return accepted <= {each["requestId"] for each in shown["requests"]}


def test_without_its_broker_requests_are_accepted_and_delivered_later(battered: Deployment, receiver: Receiver) -> None:
    path = receiver.path()
    with battered.without_broker():
        accepted = submit_burst(battered, receiver.url(path), 20)
        health = battered.get("/health")

        assert health.status_code == 200
        assert (health.json()["status"], health.json()["components"][battered.broker]["status"]) == ("DEGRADED", "DOWN")
        # Workers of Kafka take rows from the database meanwhile.
        assert battered.broker == "kafka" or receiver.at(path) == []

    battered.until(lambda: all_delivered(battered, accepted), "not delivered", RECOVERY_SECONDS)
    assert {len(each) for each in receiver.by_request(path).values()} == {1}
    battered.until(lambda: battered.health()["status"] == "UP", "not healthy again")


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_burst_loses_nothing(aftermath: Aftermath) -> None:
    deployment, accepted = aftermath.deployment, aftermath.accepted

    deployment.until(lambda: all_delivered(deployment, accepted), "not delivered", RECOVERY_SECONDS)

    callbacks = aftermath.receiver.by_request(aftermath.path)
    assert set(callbacks) == accepted
    assert max(len(each) for each in callbacks.values()) <= 2
    for request_id in accepted:
        assert deployment.terminal_events(request_id) == ["CallbackDeliverySucceeded"]
