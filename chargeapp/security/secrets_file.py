"""Secrets that development needs but nobody set: made once, kept in the data directory, readable by its owner only."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chargeapp.config import Settings
from chargeapp.errors import MisconfiguredError
from chargeapp.security.driver_tokens import new_key
from chargeapp.security.signatures import new_secret

FILE_NAME = "secrets.json"


@dataclass(frozen=True)
class Secrets:
    webhook_secret: str
    driver_token_keys: tuple[str, ...]
    driver_token_hash_key: str


def load_secrets(settings: Settings) -> Secrets:
    """Those configured, else those generated; production raises MisconfiguredError instead of generating any."""
    configured = {
        "WEBHOOK_SECRET": settings.webhook_secret,
        "DRIVER_TOKEN_KEYS": settings.driver_token_keys,
        "DRIVER_TOKEN_HASH_KEY": settings.driver_token_hash_key,
    }
    missing = [name for name, value in configured.items() if not value]
    if missing and settings.production:
        raise MisconfiguredError(
            f"{', '.join(missing)} must be set in production. `chargeapp secrets generate` prints new ones."
        )
    generated = _generated(settings.chargeapp_data_dir / FILE_NAME) if missing else {}
    return Secrets(
        webhook_secret=settings.webhook_secret or generated["WEBHOOK_SECRET"],
        driver_token_keys=settings.driver_token_keys or tuple(generated["DRIVER_TOKEN_KEYS"].split(",")),
        driver_token_hash_key=settings.driver_token_hash_key or generated["DRIVER_TOKEN_HASH_KEY"],
    )


def new_secrets() -> dict[str, str]:
    makers: dict[str, Callable[[], str]] = {
        "WEBHOOK_SECRET": new_secret,
        "DRIVER_TOKEN_KEYS": new_key,
        "DRIVER_TOKEN_HASH_KEY": new_key,
    }
    return {name: make() for name, make in makers.items()}


def _generated(path: Path) -> dict[str, str]:
    try:
        if not path.exists():
            _create(path, new_secrets())
        found: dict[str, str] = json.loads(path.read_text())
        return found
    except (OSError, ValueError) as error:
        raise MisconfiguredError(f"{path} cannot be read or made: {error}") from error


def _create(path: Path, content: dict[str, str]) -> None:
    """Several processes may start at once: the first one's secrets become everybody's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(content, indent=2))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
