"""How station ids and driver tokens are written: the same rule for callers, the access list and the command line."""

import re
import uuid

# Not left to uuid.UUID alone, which also takes braces, a urn: prefix, signs, underscores and digits of other scripts.
STATION_ID = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
DRIVER_TOKEN_MAX_LENGTH = 80


def canonical_station_id(text: str) -> str:
    """A UUID with or without hyphens, in lower case and with them; raises ValueError."""
    if STATION_ID.fullmatch(text) is None:
        raise ValueError("not a UUID")
    return str(uuid.UUID(text))


def driver_token_pattern(min_length: int) -> str:
    return rf"[A-Za-z0-9\-._~]{{{min_length},{DRIVER_TOKEN_MAX_LENGTH}}}\Z"


def is_driver_token(text: str, min_length: int) -> bool:
    return re.match(driver_token_pattern(min_length), text) is not None
