"""Signs callbacks as Standard Webhooks 1.0.0 has it (standardwebhooks.com), over the exact bytes sent."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chargeapp.errors import MisconfiguredError

SYMMETRIC_PREFIX = "whsec_"
PRIVATE_PREFIX = "whsk_"
PUBLIC_PREFIX = "whpk_"
SEED_BYTES = 32


class Kind(StrEnum):
    """`symmetric`: both sides have the secret. `ed25519`: the receiver has a public key and cannot sign with it."""

    SYMMETRIC = "symmetric"
    ED25519 = "ed25519"


class Signer:
    """Signs with every secret given, the newest first: several while one takes the place of another."""

    def __init__(self, *secrets_: str) -> None:
        """`whsec_` and base64 of 24 to 64 bytes, or `whsk_` and base64 of an Ed25519 key."""
        self._sign = [_signature_maker(secret) for secret in secrets_]

    def headers(self, message_id: str, body: bytes, now: datetime) -> dict[str, str]:
        """`message_id` is the same on every attempt; the time and so the signature are the attempt's own."""
        timestamp = str(int(now.timestamp()))
        signed = f"{message_id}.{timestamp}.".encode() + body
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(sign(signed) for sign in self._sign),
        }


def new_secret(kind: Kind = Kind.SYMMETRIC) -> str:
    prefix = SYMMETRIC_PREFIX if kind is Kind.SYMMETRIC else PRIVATE_PREFIX
    return prefix + base64.b64encode(secrets.token_bytes(32)).decode()


def kind_of(secret: str) -> Kind:
    return Kind.ED25519 if secret.startswith(PRIVATE_PREFIX) else Kind.SYMMETRIC


def verification_key(secret: str) -> str:
    """What the receiver needs to check signatures: the secret itself, or `whpk_` and base64 of the public key."""
    if kind_of(secret) is Kind.SYMMETRIC:
        return secret
    return PUBLIC_PREFIX + base64.b64encode(_private_key(secret).public_key().public_bytes_raw()).decode()


def fingerprint(secret: str) -> str:
    """Tells two secrets apart on a screen, and nothing more."""
    return hashlib.sha256(verification_key(secret).encode()).hexdigest()[:12]


def _signature_maker(secret: str) -> Callable[[bytes], str]:
    if kind_of(secret) is Kind.ED25519:
        private_key = _private_key(secret)
        return lambda signed: "v1a," + base64.b64encode(private_key.sign(signed)).decode()
    key = _symmetric_key(secret)
    return lambda signed: "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def _symmetric_key(secret: str) -> bytes:
    key = _decoded(secret, SYMMETRIC_PREFIX, "24 to 64 bytes")
    if not 24 <= len(key) <= 64:
        raise MisconfiguredError("WEBHOOK_SECRET: must be whsec_ and base64 of 24 to 64 bytes")
    return key


def _private_key(secret: str) -> Ed25519PrivateKey:
    key = _decoded(secret, PRIVATE_PREFIX, "an Ed25519 key")
    # Some write the public key behind the seed.
    if len(key) not in (SEED_BYTES, 2 * SEED_BYTES):
        raise MisconfiguredError("A webhook key must be whsk_ and base64 of the 32 bytes of an Ed25519 key")
    return Ed25519PrivateKey.from_private_bytes(key[:SEED_BYTES])


def _decoded(secret: str, prefix: str, what: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(prefix), validate=True)
    except binascii.Error as error:
        raise MisconfiguredError(f"WEBHOOK_SECRET: must be {prefix} and base64 of {what}") from error
    if not secret.startswith(prefix):
        raise MisconfiguredError(f"WEBHOOK_SECRET: must be {prefix} and base64 of {what}")
    return key
