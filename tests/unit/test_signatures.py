"""Signatures as Standard Webhooks 1.0.0 has them, checked with the published verifier and its test vector."""

import base64
from datetime import UTC, datetime

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from chargeapp.errors import MisconfiguredError
from chargeapp.security.signatures import Kind, Signer, fingerprint, kind_of, new_secret, verification_key

BODY = b'{"test": 2432232314}'
VECTOR_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VECTOR_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
VECTOR_AT = datetime.fromtimestamp(1614265330, UTC)


def now() -> datetime:
    return datetime.now(UTC)


def test_the_published_vector_is_signed_as_published() -> None:
    headers = Signer(VECTOR_SECRET).headers(VECTOR_ID, BODY, VECTOR_AT)

    assert headers == {
        "webhook-id": VECTOR_ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_the_published_verifier_accepts_a_new_secret() -> None:
    secret = new_secret()

    headers = Signer(secret).headers("req-1", BODY, now())

    assert Webhook(secret).verify(BODY, headers) == {"test": 2432232314}


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (BODY + b" ", {}),
        (BODY, {"webhook-id": "req-2"}),
        (BODY, {"webhook-timestamp": str(int(now().timestamp()) - 10)}),
    ],
    ids=["body", "id", "time"],
)
def test_the_published_verifier_refuses_what_was_changed(body: bytes, changed: dict[str, str]) -> None:
    headers = Signer(VECTOR_SECRET).headers("req-1", BODY, now()) | changed

    with pytest.raises(WebhookVerificationError):
        Webhook(VECTOR_SECRET).verify(body, headers)


def test_during_a_rotation_the_published_verifier_accepts_either_secret() -> None:
    new, old, stranger = new_secret(), new_secret(), new_secret()

    headers = Signer(new, old).headers("req-1", BODY, now())

    assert len(headers["webhook-signature"].split(" ")) == 2
    assert Webhook(new).verify(BODY, headers)
    assert Webhook(old).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(stranger).verify(BODY, headers)


def test_an_ed25519_signature_is_verified_with_the_public_key_alone() -> None:
    secret = new_secret(Kind.ED25519)
    public_key = verification_key(secret)

    headers = Signer(secret).headers("req-1", BODY, VECTOR_AT)

    version, _, signature = headers["webhook-signature"].partition(",")
    verifier = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key.removeprefix("whpk_")))
    signed = b"req-1.1614265330." + BODY
    assert (version, public_key[:5], secret[:5]) == ("v1a", "whpk_", "whsk_")
    verifier.verify(base64.b64decode(signature), signed)
    with pytest.raises(InvalidSignature):
        verifier.verify(base64.b64decode(signature), signed + b" ")


def test_the_published_verifier_ignores_an_ed25519_signature_beside_its_own() -> None:
    symmetric = new_secret()

    headers = Signer(new_secret(Kind.ED25519), symmetric).headers("req-1", BODY, now())

    assert [each[:3] for each in headers["webhook-signature"].split(" ")] == ["v1a", "v1,"]
    assert Webhook(symmetric).verify(BODY, headers)


def test_a_private_key_with_its_public_key_behind_it_is_understood() -> None:
    secret = new_secret(Kind.ED25519)
    seed = base64.b64decode(secret.removeprefix("whsk_"))
    public = base64.b64decode(verification_key(secret).removeprefix("whpk_"))

    long_form = "whsk_" + base64.b64encode(seed + public).decode()

    assert verification_key(long_form) == verification_key(secret)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_not base64",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsk_" + base64.b64encode(b"x" * 31).decode(),
        "whsk_not base64",
        "whpk_" + base64.b64encode(b"x" * 32).decode(),
    ],
)
def test_a_malformed_secret_is_refused(secret: str) -> None:
    with pytest.raises(MisconfiguredError):
        Signer(secret)


@pytest.mark.parametrize("kind", list(Kind))
def test_secrets_are_told_apart_by_a_fingerprint_that_does_not_contain_them(kind: Kind) -> None:
    one, other = new_secret(kind), new_secret(kind)

    assert kind_of(one) is kind
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)
    assert fingerprint(one) not in one
