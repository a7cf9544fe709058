"""What protects others: where callbacks may go, and the secrets."""

import stat
from collections.abc import Iterator

from chargeapp.commands.checks import Finding, fail, ok, warn
from chargeapp.config import Settings
from chargeapp.errors import MisconfiguredError
from chargeapp.runtime import Runtime
from chargeapp.security.driver_tokens import TokenVault, new_key
from chargeapp.security.secrets_file import FILE_NAME
from chargeapp.security.signatures import Signer, new_secret


def check_safety(runtime: Runtime) -> Iterator[Finding]:
    yield addresses(runtime.settings)
    if runtime.settings.uses_kafka and runtime.settings.kafka_security_protocol == "SASL_PLAINTEXT":
        yield warn("kafka login", "goes over the network without TLS", "set KAFKA_SECURITY_PROTOCOL=SASL_SSL")
    yield secrets(runtime)


def addresses(settings: Settings) -> Finding:
    networks = ", ".join(map(str, settings.callback_allowed_networks))
    if not networks:
        return ok("callbacks", "may reach public addresses only")
    found = f"may reach public addresses and {networks}"
    if settings.production:
        return warn("callbacks", found, "unless callers live there, unset CALLBACK_ALLOWED_NETWORKS")
    return ok("callbacks", found)


def secrets(runtime: Runtime) -> Finding:
    settings = runtime.settings
    file = settings.chargeapp_data_dir / FILE_NAME
    configured = bool(settings.webhook_secret and settings.driver_token_keys and settings.driver_token_hash_key)
    to_be_made = not configured and not settings.production and not file.exists()
    try:
        # Made only to see that they can be used.
        Signer(settings.webhook_secret or new_secret() if to_be_made else runtime.secrets.webhook_secret)
        TokenVault(settings.driver_token_keys or [new_key()] if to_be_made else runtime.secrets.driver_token_keys, "")
    except MisconfiguredError as error:
        found, _, advice = str(error).partition(". ")
        return fail("secrets", found, advice or "chargeapp secrets generate prints good ones")
    except KeyError as error:
        return fail("secrets", f"{file} has no {error}", "add it from: chargeapp secrets generate")
    if configured:
        return ok("secrets", "set")
    if to_be_made:
        return ok("secrets", f"not all set; {file} is made at the first start")
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        return fail("secrets", f"{file} is open to other users ({mode:o})", f"chmod 600 {file}")
    return ok("secrets", f"in {file}, for its owner only")
