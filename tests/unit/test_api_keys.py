"""What a key looks like, what is kept of it, and which callback hosts it allows."""

import hashlib
import re

import pytest

from chargeapp.commands.keys import SCOPES
from chargeapp.security.api_keys import HostPatternRefused, Scope, host_allowed, host_pattern, new_key, take_apart

KEY = "cak_0123456789ab_" + "A" * 43


def test_a_key_is_a_public_id_and_32_random_bytes() -> None:
    keys = {new_key() for _ in range(1000)}

    assert len(keys) == 1000
    assert all(re.fullmatch(r"cak_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", key) for key in keys)
    assert len({key.split("_", 2)[1] for key in keys}) == 1000


def test_every_new_key_can_be_taken_apart() -> None:
    for _ in range(1000):
        key = new_key()
        parts = take_apart(key)

        assert parts is not None
        assert parts.id == key[4:16]


def test_of_the_secret_only_the_hash_is_kept() -> None:
    parts = take_apart(KEY)

    assert parts is not None
    assert parts.secret_hash == hashlib.sha256(b"A" * 43).hexdigest()
    assert "A" * 43 not in repr(parts)


def test_only_the_very_secret_matches() -> None:
    parts, other = take_apart(KEY), take_apart(KEY[:-1] + "B")

    assert parts is not None
    assert other is not None
    assert parts.matches(parts.secret_hash)
    assert not other.matches(parts.secret_hash)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cak_",
        KEY[:-1],
        KEY + "A",
        KEY + "\n",
        " " + KEY,
        KEY.upper(),
        KEY.replace("cak", "key"),
        KEY + "=",
        "é" * 60,
    ],
)
def test_what_is_no_key_is_told_apart(text: str) -> None:
    assert take_apart(text) is None


def test_the_command_line_knows_every_scope() -> None:
    assert list(Scope) == list(SCOPES)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("hooks.example.com", "hooks.example.com"),
        ("HOOKS.Example.COM", "hooks.example.com"),
        ("*.Example.com", "*.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("203.0.113.7", "203.0.113.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("localhost", "localhost"),
    ],
)
def test_a_host_has_one_spelling(given: str, canonical: str) -> None:
    assert host_pattern(given) == canonical


@pytest.mark.parametrize(
    "given",
    [
        "",
        "*",
        "*.",
        "*.*.example.com",
        "a*.example.com",
        "*example.com",
        "*.203.0.113.7",
        "https://example.com",
        "example.com/",
        "example.com/path",
        "example.com?query",
        "example.com#fragment",
        "example.com:443",
        "example.com:8443",
        "user@example.com",
        "example.com.",
        "two hosts.example",
        "one.example,two.example",
        "0x7f.1",
        "[::1]",
        "fe80::1%eth0",
    ],
)
def test_what_is_no_host_is_refused_with_a_hint(given: str) -> None:
    with pytest.raises(HostPatternRefused, match="give a host name"):
        host_pattern(given)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("hooks.example.com", True),
        ("a.hub.example", True),
        ("a.b.hub.example", True),
        ("hub.example", False),
        ("evilhub.example", False),
        ("hub.example.evil", False),
        ("hooks.example.com.evil.example", False),
        ("example.com", False),
        ("xhooks.example.com", False),
    ],
)
def test_a_wildcard_allows_what_lies_below_and_nothing_else(host: str, allowed: bool) -> None:
    assert host_allowed(host, ("hooks.example.com", "*.hub.example")) is allowed
