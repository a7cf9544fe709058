"""What the receiver answers decides how the callback goes on; the settings are the defaults."""

from itertools import count, pairwise

import pytest
from deployment import Deployment
from servers import Answer, Receiver
from standardwebhooks import Webhook

numbers = count()
# The contract's 1, 2, 4 s, less the tolerance it allows.
LEAST_GAPS = [0.8 * second for second in (1, 2, 4)]


def submit(chargeapp: Deployment, receiver: Receiver, path: str) -> str:
    return chargeapp.submit(f"driver-token-of-callbacks-{next(numbers):04}", receiver.url(path))


def test_a_refused_callback_is_repeated_alike_after_1_2_and_4_seconds(
    chargeapp: Deployment, receiver: Receiver
) -> None:
    path = receiver.path(500, 500, 500, 200)

    request_id = submit(chargeapp, receiver, path)
    shown = chargeapp.wait_until(request_id, state="delivered")

    attempts = receiver.at(path)
    gaps = [after.at - before.at for before, after in pairwise(attempts)]
    assert shown["attempts"] == len(attempts) == 4
    assert {each.headers["webhook-id"] for each in attempts} == {request_id}
    assert len({each.body for each in attempts}) == 1
    assert [gap >= least for gap, least in zip(gaps, LEAST_GAPS, strict=True)] == [True] * 3, gaps
    verifier = Webhook(chargeapp.runtime.secrets.webhook_secret)
    assert all(verifier.verify(each.body, each.headers) for each in attempts)
    assert chargeapp.terminal_events(request_id) == ["CallbackDeliverySucceeded"]


def test_a_receiver_that_asks_for_time_is_given_it(chargeapp: Deployment, receiver: Receiver) -> None:
    path = receiver.path(Answer(503, headers={"Retry-After": "3"}), 204)

    request_id = submit(chargeapp, receiver, path)
    chargeapp.wait_until(request_id, state="delivered", attempts=2)

    first, second = receiver.at(path)
    assert second.at - first.at >= 3


def test_gone_ends_the_request_after_one_attempt(chargeapp: Deployment, receiver: Receiver) -> None:
    path = receiver.path(410)

    request_id = submit(chargeapp, receiver, path)
    shown = chargeapp.wait_until(request_id, state="failed")

    assert shown["attempts"] == len(receiver.at(path)) == 1
    assert chargeapp.terminal_events(request_id) == ["CallbackDeliveryFailed"]
    assert "gone" in {each.get("reason") for each in shown["timeline"]}


def test_a_redirect_is_a_failure_and_not_followed(chargeapp: Deployment, receiver: Receiver) -> None:
    elsewhere = receiver.path()
    path = receiver.path(Answer(307, headers={"Location": receiver.url(elsewhere)}), 204)

    request_id = submit(chargeapp, receiver, path)
    chargeapp.wait_until(request_id, state="delivered", attempts=2)

    assert receiver.at(elsewhere) == []


@pytest.mark.parametrize(("first_answer", "ended"), [(204, "delivered"), (410, "failed")])
def test_an_ended_request_can_be_delivered_again(
    chargeapp: Deployment, receiver: Receiver, first_answer: int, ended: str
) -> None:
    path = receiver.path(first_answer, 204)
    request_id = submit(chargeapp, receiver, path)
    chargeapp.wait_until(request_id, state=ended)

    answer = chargeapp.post(f"/{request_id}/redelivery")

    assert answer.status_code == 202
    chargeapp.wait_until(request_id, state="delivered", attempts=2)
    first, second = receiver.at(path)
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    assert len(chargeapp.terminal_events(request_id)) == 1


def test_a_callback_in_flight_is_not_sent_a_second_time(chargeapp: Deployment, receiver: Receiver) -> None:
    path = receiver.path(Answer(204, delay_seconds=1))
    request_id = submit(chargeapp, receiver, path)
    receiver.wait_for(path)

    answer = chargeapp.post(f"/{request_id}/redelivery")

    assert (answer.status_code, answer.json()["status"]) == (409, "conflict")
    chargeapp.wait_until(request_id, state="delivered", attempts=1)
    assert len(receiver.at(path)) == 1
