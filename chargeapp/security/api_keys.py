"""API keys: `cak_`, a public id, `_` and a secret, of which only the hash is kept."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from chargeapp.errors import RequestRefused
from chargeapp.security.callback_url import CallbackUrlRefused, parse_callback_url

ID_BYTES = 6
SECRET_BYTES = 32
HOST_FORM = "give a host name, an IP address, or *. and a host name, without scheme, port and path"
_KEY = re.compile(r"cak_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class Scope(StrEnum):
    """What a key is good for. `operate` sees all callers' requests, `submit` and `read` only the key's own caller's.

    `admin` also says who may call and charge: whoever has it could make any other key, so it includes `operate`.
    """

    SUBMIT = "submit"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


class HostPatternRefused(RequestRefused):
    """This is no callback host."""


@dataclass(frozen=True, slots=True)
class KeyParts:
    """A key taken apart; of its secret only the hash, so that no traceback shows it."""

    id: str
    secret_hash: str

    def matches(self, stored_hash: str) -> bool:
        """In constant time."""
        return hmac.compare_digest(self.secret_hash, stored_hash)


def new_key() -> str:
    """32 random bytes: nobody guesses them, so a plain hash is as good as a slow one."""
    return f"cak_{secrets.token_hex(ID_BYTES)}_{secrets.token_urlsafe(SECRET_BYTES)}"


def take_apart(key: str) -> KeyParts | None:
    """None if it is no key at all."""
    found = _KEY.fullmatch(key)
    return KeyParts(found[1], hashlib.sha256(found[2].encode()).hexdigest()) if found else None


def host_pattern(text: str) -> str:
    """Its canonical form; raises HostPatternRefused."""
    wildcard, host = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    literal = f"[{host}]" if ":" in host else host
    try:
        target = parse_callback_url(f"https://{literal}/")
    except CallbackUrlRefused:
        raise HostPatternRefused(f"{text} is no host: {HOST_FORM}.") from None
    if set(host) & set("/?#") or (wildcard and target.address):
        raise HostPatternRefused(f"{text} is no host: {HOST_FORM}.")
    return wildcard + target.host


def host_allowed(host: str, patterns: Iterable[str]) -> bool:
    """`*.example.com` stands for every name below example.com, not for example.com itself."""
    return any(host.endswith(each[1:]) if each.startswith("*.") else host == each for each in patterns)
