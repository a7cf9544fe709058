"""The one reading of a callback URL: whoever checks it and whoever calls it must see the same host."""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from string import ascii_letters, digits, punctuation
from urllib.parse import quote

import idna

from chargeapp.errors import RequestRefused

MAX_LENGTH = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}
REASONS = {
    "syntax": "is not a valid URL",
    "length": f"must have at most {MAX_LENGTH} characters",
    "scheme": "must begin with http:// or https://",
    "control": "must not contain spaces, control or invisible characters",
    "backslash": "must not contain a backslash",
    "userinfo": "must not contain a user name or password",
    "empty_host": "must name a host",
    "port": "must have a port from 1 to 65535",
    "scope_id": "must not contain an IPv6 zone",
    "trailing_dot": "must not end its host name with a dot",
    "driver_token": "must not have the driver token in its host name, which is logged and kept",
    "callback_hosts": "must point to a host that this API key allows",
    "odd_address": "must spell an IPv4 address as four plain decimal numbers",
}


class CallbackUrlRefused(RequestRefused):
    """The callback URL cannot be called; `rule` names why. The message never repeats the URL."""

    def __init__(self, rule: str) -> None:
        reason = REASONS.get(rule) or f"must point to a public address (this one is {rule.replace('_', ' ')})"
        message = f"callback_url {reason}."
        super().__init__(message, {"callback_url": [message]})
        self.rule = rule


@dataclass(frozen=True, slots=True)
class CallbackTarget:
    """Where a callback goes; `host` is lower-case ASCII without brackets, `address` is set if it is a literal."""

    scheme: str
    host: str
    port: int
    path_and_query: str
    host_header: str
    address: IPv4Address | IPv6Address | None


_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE)  # a fragment is dropped: it is never sent
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:(?!\d)", re.IGNORECASE)
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
# What inet_aton would take for an address ends in a number; no name on the Internet does (WHATWG URL, 3.5).
_ENDS_IN_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")


def parse_callback_url(url: str) -> CallbackTarget:
    """Read `url` by its syntax alone; raises CallbackUrlRefused. A fragment is allowed and dropped."""
    if len(url) > MAX_LENGTH:
        raise CallbackUrlRefused("length")
    if " " in url or not url.isprintable():
        raise CallbackUrlRefused("control")
    if "\\" in url:
        raise CallbackUrlRefused("backslash")
    if not (match := _URL.match(url)):
        other = _SCHEME.match(url) and not url.lower().startswith(("http:", "https:"))
        raise CallbackUrlRefused("scheme" if other else "syntax")
    scheme, authority, rest = match.groups()
    if "@" in authority:
        raise CallbackUrlRefused("userinfo")
    scheme = scheme.lower()
    host, address, given_port = _read_authority(authority)
    port = given_port or DEFAULT_PORTS[scheme]
    if not rest.isascii():
        rest = quote(rest, safe=ascii_letters + digits + punctuation)
    shown = f"[{host}]" if address and address.version == 6 else host
    return CallbackTarget(
        scheme=scheme,
        host=host,
        port=port,
        path_and_query=rest if rest.startswith("/") else f"/{rest}",
        host_header=shown if port == DEFAULT_PORTS[scheme] else f"{shown}:{port}",
        address=address,
    )


@lru_cache(maxsize=4096)
def _read_authority(authority: str) -> tuple[str, IPv4Address | IPv6Address | None, int | None]:
    if authority.startswith("["):
        literal, bracket, port = authority[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise CallbackUrlRefused("syntax")
        address: IPv4Address | IPv6Address | None = _read_ipv6(literal)
        return str(address), address, _read_port(port)
    host, colon, port = authority.partition(":")
    if ":" in port:
        raise CallbackUrlRefused("syntax")
    name, address = _read_host(host)
    return name, address, _read_port(colon + port)


def _read_port(text: str) -> int | None:
    """`text` is empty or begins with a colon."""
    if not text:
        return None
    if not _PORT.fullmatch(text, 1) or int(text[1:]) > 65535:
        raise CallbackUrlRefused("port")
    return int(text[1:])


def _read_ipv6(literal: str) -> IPv6Address:
    if "%" in literal:
        raise CallbackUrlRefused("scope_id")
    try:
        return IPv6Address(literal)
    except AddressValueError:
        raise CallbackUrlRefused("syntax") from None


def _read_host(host: str) -> tuple[str, IPv4Address | None]:
    if not host:
        raise CallbackUrlRefused("empty_host")
    name = host.lower() if host.isascii() else _to_ascii(host)
    if name.endswith("."):
        raise CallbackUrlRefused("trailing_dot")
    if _ENDS_IN_NUMBER.fullmatch(name):
        try:
            address = IPv4Address(host)  # the spelling given, not what it normalises to
        except AddressValueError:
            raise CallbackUrlRefused("odd_address") from None
        return name, address
    if not _NAME.fullmatch(name):
        raise CallbackUrlRefused("syntax")
    return name, None


def _to_ascii(host: str) -> str:
    try:
        mapped = idna.uts46_remap(host, std3_rules=False)
        # Numbers are looked at by the caller; as a name, a bare number would confuse the encoder.
        return mapped if mapped.isascii() else idna.encode(mapped).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise CallbackUrlRefused("syntax") from None
