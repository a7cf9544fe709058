"""Driver tokens are personal data: sealed at rest, looked up by keyed hash, shown masked."""

import base64
import hashlib
import hmac
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from chargeapp.errors import MisconfiguredError, PermanentFailure

SHOWN = 4


class TokenUnreadable(PermanentFailure):
    """The driver token was erased, or sealed with a key that is no longer configured."""


class TokenVault:
    """Seals with the first of `keys`, opens with any (urlsafe base64 of 32 bytes each, as Fernet has them)."""

    def __init__(self, keys: Sequence[str], hash_key: str) -> None:
        try:
            self._fernets = [Fernet(key) for key in keys]
            self._fernet = MultiFernet(self._fernets)
        except ValueError as error:
            raise MisconfiguredError(f"DRIVER_TOKEN_KEYS: {error}") from error
        self._keys = tuple(keys)
        self._hash_key = hash_key.encode()

    def for_purpose(self, purpose: str) -> "TokenVault":
        """With keys of its own: what this one sealed is no driver token to the other, whoever swaps them in a table."""
        return TokenVault([_derived(key, purpose) for key in self._keys], purpose)

    @property
    def fingerprint(self) -> str:
        """Of the newest key: tells two keys apart on a screen, and nothing more."""
        return hashlib.sha256(self._keys[0].encode()).hexdigest()[:12]

    def seal(self, token: str) -> bytes:
        return self._fernet.encrypt(token.encode())

    def open(self, sealed: bytes) -> str:
        """Raises TokenUnreadable."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken as error:
            raise TokenUnreadable from error

    def resealed(self, sealed: bytes) -> bytes | None:
        """The same under the newest key, None if it is so already; raises TokenUnreadable."""
        try:
            self._fernets[0].decrypt(sealed)
        except InvalidToken:
            return self.seal(self.open(sealed))
        return None

    def hash(self, token: str) -> str:
        return hmac.new(self._hash_key, token.encode(), hashlib.sha256).hexdigest()

    def pseudonym(self, token_hash: str) -> str:
        """Stands for a driver in what is handed out: the same for one driver, and no help in finding the hash."""
        return hmac.new(self._hash_key, f"pseudonym {token_hash}".encode(), hashlib.sha256).hexdigest()[:32]


def mask(token: str) -> str:
    """Enough to tell two tokens apart on a screen, too little to use one.

    Requests are stored and found by it, erased too: another rule needs a migration.
    """
    if len(token) < 5 * SHOWN:
        return f"…{token[-2:]}" if len(token) >= SHOWN else "…"
    return f"{token[:SHOWN]}…{token[-SHOWN:]}"


def new_key() -> str:
    return Fernet.generate_key().decode()


def _derived(key: str, purpose: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(base64.urlsafe_b64decode(key), purpose.encode(), "sha256")).decode()
