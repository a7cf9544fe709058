"""On every stack: one request for one key, and a dead letter that goes on once it is replayed."""

import subprocess
import sys

from deployment import ROOT, STATION, Deployment
from servers import Answer, Receiver
from sqlalchemy import update

from chargeapp.services.dead_letters import list_dead_letters
from chargeapp.storage.models import SessionRequest


def test_one_key_is_one_request_and_one_callback(chargeapp: Deployment, receiver: Receiver) -> None:
    path = receiver.path()
    body = {"stationId": STATION, "driverToken": "driver-token-of-one-key", "callbackUrl": receiver.url(path)}
    key = {"Idempotency-Key": "only once"}

    first, again = (chargeapp.post(json=body, headers=key) for _ in range(2))
    other = chargeapp.post(json={**body, "driverToken": "driver-token-of-another"}, headers=key)

    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 422)
    assert again.json() == first.json()
    chargeapp.wait_until(first.json()["requestId"], state="delivered", attempts=1)
    assert len(receiver.at(path)) == 1


def test_a_dead_letter_is_kept_and_delivered_once_it_is_replayed(chargeapp: Deployment, receiver: Receiver) -> None:
    path = receiver.path(Answer(503, headers={"Retry-After": "2"}), 204)
    request_id = chargeapp.submit("driver-token-of-a-dead-letter", receiver.url(path))
    receiver.wait_for(path)
    sealed = chargeapp.runtime.vault.seal("driver-token-of-a-dead-letter")

    seal(chargeapp, request_id, b"cannot be opened")
    chargeapp.until(lambda: request_id in buried(chargeapp), "no dead letter")
    assert chargeapp.show(request_id)["state"] == "decided"

    seal(chargeapp, request_id, sealed)
    replay(chargeapp)
    chargeapp.wait_until(request_id, state="delivered", attempts=2)
    assert chargeapp.terminal_events(request_id) == ["CallbackDeliverySucceeded"]


def seal(chargeapp: Deployment, request_id: str, sealed: bytes) -> None:
    with chargeapp.runtime.database.writing() as session:
        session.execute(update(SessionRequest).where(SessionRequest.id == request_id).values(token_sealed=sealed))


def buried(chargeapp: Deployment) -> list[str]:
    with chargeapp.runtime.database.reading() as session:
        return [each.request_id for each in list_dead_letters(session, 100)]


def replay(chargeapp: Deployment) -> None:
    command = [sys.executable, "-m", "chargeapp", "dead-letters", "replay", "--all"]
    done = subprocess.run(command, cwd=ROOT, env=chargeapp.environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout[:2]) == (0, "1 "), done.stdout + done.stderr
