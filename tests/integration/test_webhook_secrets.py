"""Webhook secrets of callers: rotation with overlap, in the database and on the wire."""

import base64
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cli_support import Ended, chargeapp, data_dir, tables
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError
from support.builders import rows, seconds

from chargeapp.clock import utcnow
from chargeapp.domain.callback import Outcome
from chargeapp.outbound.webhook_signers import REMEMBERED
from chargeapp.runtime import Runtime
from chargeapp.security.signatures import Kind
from chargeapp.services.webhook_secrets import rotate_secret
from chargeapp.storage.models import WebhookSecret

__all__ = ["data_dir", "tables"]

CONFIGURED = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DAY = timedelta(hours=24)
BODY = {"status": "allowed"}


class Receiver(HTTPServer):
    """Keeps what came."""

    def __init__(self) -> None:
        self.came: list[tuple[dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def rotate(
    runtime: Runtime,
    caller: str,
    *,
    overlap: timedelta = DAY,
    kind: Kind = Kind.SYMMETRIC,
    now: datetime | None = None,
) -> str:
    with runtime.database.writing() as session:
        return rotate_secret(
            session,
            runtime.secret_vault,
            caller=caller,
            configured=runtime.secrets.webhook_secret,
            kind=kind,
            overlap=overlap,
            now=now or utcnow(),
        )


def accepts(secret: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        return bool(Webhook(secret).verify(body, headers))
    except WebhookVerificationError:
        return False


def sent(runtime: Runtime, receiver: Receiver, caller: str) -> tuple[dict[str, str], bytes]:
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    reply = runtime.callback_endpoint.send(url, caller, "req-1", BODY, utcnow())
    assert reply.outcome is Outcome.DELIVERED
    return receiver.came[-1]


def test_a_caller_without_a_secret_of_its_own_gets_the_configured_one(runtime: Runtime, receiver: Receiver) -> None:
    rotate(runtime, "somebody-else")

    headers, body = sent(runtime, receiver, "hub")

    assert accepts(CONFIGURED, headers, body)
    assert len(headers["webhook-signature"].split()) == 1


def test_the_first_own_secret_signs_beside_the_configured_one(runtime: Runtime, receiver: Receiver) -> None:
    own = rotate(runtime, "hub")

    headers, body = sent(runtime, receiver, "hub")

    assert [accepts(each, headers, body) for each in (own, CONFIGURED)] == [True, True]
    assert len(headers["webhook-signature"].split(" ")) == 2


def test_both_sign_until_the_overlap_ends_and_then_only_the_new_one(runtime: Runtime) -> None:
    began = utcnow()
    old = rotate(runtime, "hub", overlap=timedelta(), now=began)
    new = rotate(runtime, "hub", overlap=DAY, now=began + seconds(1))
    signers = runtime.callback_endpoint._signers

    def signatures(now: datetime) -> list[str]:
        return signers.of("hub", now).headers("req-1", b"{}", began)["webhook-signature"].split(" ")

    def alone(secret: str) -> list[str]:
        from chargeapp.security.signatures import Signer

        return Signer(secret).headers("req-1", b"{}", began)["webhook-signature"].split(" ")

    assert signatures(began + DAY) == alone(new) + alone(old)
    assert signatures(began + DAY + seconds(4)) == alone(new)


def test_a_leaked_secret_stops_signing_at_once_and_so_do_those_before_it(runtime: Runtime, receiver: Receiver) -> None:
    older, leaked = rotate(runtime, "hub"), rotate(runtime, "hub")

    new = rotate(runtime, "hub", overlap=timedelta())

    headers, body = sent(runtime, receiver, "hub")
    assert [accepts(each, headers, body) for each in (new, leaked, older, CONFIGURED)] == [True, False, False, False]


def test_a_second_rotation_does_not_prolong_what_retires_already(runtime: Runtime) -> None:
    began = utcnow()
    rotate(runtime, "hub", overlap=timedelta(), now=began)
    rotate(runtime, "hub", overlap=seconds(60), now=began)
    rotate(runtime, "hub", overlap=DAY, now=began)

    assert [each.retires_at for each in rows(runtime.database, WebhookSecret)] == [
        began + seconds(60),
        began + DAY,
        None,
    ]


def test_without_a_caller_the_secret_of_all_others_is_changed(runtime: Runtime, receiver: Receiver) -> None:
    own = rotate(runtime, "hub", overlap=timedelta())
    shared = rotate(runtime, "", overlap=timedelta())

    for caller, secret in (("hub", own), ("anybody", shared), ("", shared)):
        headers, body = sent(runtime, receiver, caller)
        assert [accepts(each, headers, body) for each in (own, shared)] == [secret == own, secret == shared]
        assert not accepts(CONFIGURED, headers, body)


def test_a_running_process_follows_a_rotation_within_seconds(runtime: Runtime) -> None:
    signers, now = runtime.callback_endpoint._signers, utcnow()
    before = signers.of("hub", now)

    rotate(runtime, "hub", now=now)

    assert signers.of("hub", now + seconds(1)) is before
    assert signers.of("hub", now + REMEMBERED) is not before
    assert seconds(5) >= REMEMBERED


def test_a_clock_set_back_does_not_keep_an_old_secret(runtime: Runtime) -> None:
    signers, now = runtime.callback_endpoint._signers, utcnow()
    before = signers.of("hub", now)

    assert signers.of("hub", now - seconds(3600)) is before  # nothing was rotated
    rotate(runtime, "hub", now=now - seconds(3600))
    assert signers.of("hub", now - seconds(3590)) is not before


def test_an_ed25519_key_signs_what_its_public_key_verifies(runtime: Runtime, receiver: Receiver) -> None:
    from chargeapp.security.signatures import verification_key

    public = verification_key(rotate(runtime, "hub", kind=Kind.ED25519))

    headers, body = sent(runtime, receiver, "hub")

    newest, old = headers["webhook-signature"].split(" ")
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))
    key.verify(base64.b64decode(newest.removeprefix("v1a,")), signed)
    assert old.startswith("v1,")
    assert accepts(CONFIGURED, headers, body)


def test_stored_secrets_are_sealed_for_their_purpose_only(runtime: Runtime, tmp_path: Path) -> None:
    from chargeapp.security.driver_tokens import TokenUnreadable

    secret = rotate(runtime, "hub")
    stored = rows(runtime.database, WebhookSecret)

    assert runtime.secret_vault.open(stored[-1].secret_sealed) == secret
    for each in stored:
        with pytest.raises(TokenUnreadable):  # put into a request's row, it would be sent to the callback address
            runtime.vault.open(each.secret_sealed)
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.glob("chargeapp.db*"))


def test_the_command_shows_a_new_secret_once(tables: Path) -> None:
    made = chargeapp("secrets", "rotate", "--caller", "hub")
    listed = chargeapp("secrets", "list")
    described = json.loads(chargeapp("secrets", "list", "--json").out)

    secret = made.out.strip()
    assert secret.startswith("whsec_")
    assert "signs beside it until 20" in made.err
    assert [each["caller"] for each in described] == ["", "hub", "hub"]
    assert [bool(each["retiresAt"]) for each in described] == [False, False, True]
    assert "(all others)" in listed.out
    assert secret not in listed.out + json.dumps(described)


def test_the_command_shows_the_public_half_of_a_key_pair_only(tables: Path) -> None:
    made = chargeapp("secrets", "rotate", "--ed25519", "--overlap", "0")

    [described] = json.loads(chargeapp("secrets", "list", "--json").out)
    assert made.out.startswith("whpk_")
    assert "whsk_" not in made.out + made.err
    assert (described["kind"], described["publicKey"]) == ("ed25519", made.out.strip())
    assert "signs nothing any more" in made.err


def test_the_command_points_out_a_caller_that_nobody_knows(tables: Path) -> None:
    chargeapp("keys", "create", "--name", "hub")

    said = {caller: chargeapp("secrets", "rotate", "--caller", caller).err for caller in ("hub", "hbu")}

    assert {caller: "No API key" in err for caller, err in said.items()} == {"hub": False, "hbu": True}


@pytest.mark.parametrize("overlap", ["24", "1w", "-1h", "1.5h", "", "999999d"])
def test_the_command_refuses_a_strange_overlap(tables: Path, overlap: str) -> None:
    ended: Ended = chargeapp("secrets", "rotate", "--overlap", overlap)

    assert ended.status == 2
    assert "90s, 15m, 24h, 7d or 0" in ended.err
