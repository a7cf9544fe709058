"""What a browser holds after a login: a random id, of which only the hash is kept, and what its forms carry."""

import hashlib
import hmac
import secrets

ID_BYTES = 32


def new_session_id() -> str:
    return secrets.token_urlsafe(ID_BYTES)


def hash_of(session_id: str) -> str:
    """A plain hash will do: nobody guesses 32 random bytes."""
    return hashlib.sha256(session_id.encode()).hexdigest()


def form_token(secret: str) -> str:
    """Goes into forms; whoever sees it cannot tell the secret it belongs to."""
    return hmac.digest(secret.encode(), b"chargeapp console form", "sha256").hex()


def is_form_token(given: str, secret: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(given.encode(), form_token(secret).encode())
