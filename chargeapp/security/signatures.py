"""Signs callbacks as Standard Webhooks 1.0.0 has it (standardwebhooks.com), over the exact bytes sent."""

import base64
import binascii
import hashlib
import hmac
import secrets
from datetime import datetime

from chargeapp.errors import MisconfiguredError

PREFIX = "whsec_"


class Signer:
    """Signs with one secret: `whsec_` and base64 of 24 to 64 bytes."""

    def __init__(self, secret: str) -> None:
        self._key = _decode(secret)

    def headers(self, message_id: str, body: bytes, now: datetime) -> dict[str, str]:
        """`message_id` is the same on every attempt; the time and so the signature are the attempt's own."""
        timestamp = str(int(now.timestamp()))
        signed = f"{message_id}.{timestamp}.".encode() + body
        signature = base64.b64encode(hmac.new(self._key, signed, hashlib.sha256).digest()).decode()
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{signature}",
        }


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def _decode(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise MisconfiguredError("WEBHOOK_SECRET: must be whsec_ and base64") from error
    if not secret.startswith(PREFIX) or not 24 <= len(key) <= 64:
        raise MisconfiguredError("WEBHOOK_SECRET: must be whsec_ and base64 of 24 to 64 bytes")
    return key
