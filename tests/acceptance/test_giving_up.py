"""A receiver that never takes the callback; pauses are short here."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deployment import Deployment
from servers import Receiver

ATTEMPTS_IN_A_ROUND = 3
# The third round would begin 60 s after the second, when the request has long expired.
ROUNDS = 2


@pytest.fixture(scope="module")
def impatient(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(
        data_dir(),
        CALLBACK_RETRY_DELAY_MILLIS="50",
        CALLBACK_MAX_RETRIES=str(ATTEMPTS_IN_A_ROUND - 1),
        CALLBACK_ROUNDS_SECONDS="1,60",
    ) as deployment:
        yield deployment.up()


def test_a_receiver_down_for_ever_gets_every_attempt_of_the_configuration_and_no_more(
    impatient: Deployment, receiver: Receiver
) -> None:
    path = receiver.path(500)

    request_id = impatient.submit("driver-token-of-giving-up-1", receiver.url(path), ttlSeconds=30)
    shown = impatient.wait_until(request_id, state="failed")

    attempts = receiver.at(path)
    assert shown["attempts"] == len(attempts) == ROUNDS * ATTEMPTS_IN_A_ROUND
    assert len({(each.headers["webhook-id"], each.body) for each in attempts}) == 1
    assert impatient.terminal_events(request_id) == ["CallbackDeliveryFailed"]
    assert impatient.get("/metrics").json()["outbox_rows_waiting"]["callbacks"] == 0


def test_a_further_round_delivers_once_the_receiver_is_back(impatient: Deployment, receiver: Receiver) -> None:
    path = receiver.path(*[500] * ATTEMPTS_IN_A_ROUND, 204)

    request_id = impatient.submit("driver-token-of-giving-up-2", receiver.url(path))
    shown = impatient.wait_until(request_id, state="delivered")

    last_of_first_round, second_round = receiver.at(path)[-2:]
    assert shown["attempts"] == ATTEMPTS_IN_A_ROUND + 1
    assert second_round.at - last_of_first_round.at >= 0.8
    assert impatient.terminal_events(request_id) == ["CallbackDeliverySucceeded"]


def test_a_receiver_where_nobody_listens_is_a_failure_like_any_other(impatient: Deployment, receiver: Receiver) -> None:
    closed = Receiver()
    closed.close()

    request_id = impatient.submit("driver-token-of-giving-up-3", closed.url("/"), ttlSeconds=30)
    shown = impatient.wait_until(request_id, state="failed")

    assert shown["attempts"] == ROUNDS * ATTEMPTS_IN_A_ROUND
    assert "connection_refused" in shown["lastError"]
