"""Settings of Kafka that cannot work stop the start, and the message names them. No Kafka is needed."""

from pathlib import Path
from typing import Any

import pytest

from chargeapp.commands.checks.kafka import check_kafka
from chargeapp.commands.checks.safety import check_safety
from chargeapp.config import Settings
from chargeapp.errors import MisconfiguredError
from chargeapp.runtime import Runtime

LOGIN = {
    "kafka_sasl_mechanism": "SCRAM-SHA-512",
    "kafka_sasl_username": "chargeapp",
    "kafka_sasl_password": "password-of-the-tests",
}


def on_kafka(directory: Path, **settings: Any) -> Runtime:
    given = {"broker": "kafka", "kafka_bootstrap_servers": ("127.0.0.1:1",), **settings}
    return Runtime(Settings(chargeapp_data_dir=directory, **given))


def without(name: str) -> dict[str, str]:
    return {each: value for each, value in LOGIN.items() if each != name}


@pytest.mark.parametrize("protocol", ["SASL_SSL", "SASL_PLAINTEXT"])
@pytest.mark.parametrize("missing", LOGIN)
def test_half_a_login_does_not_start(tmp_path: Path, protocol: str, missing: str) -> None:
    runtime = on_kafka(tmp_path, kafka_security_protocol=protocol, **without(missing))

    with pytest.raises(MisconfiguredError, match=f"^{missing.upper()}: needed with KAFKA_SECURITY_PROTOCOL={protocol}"):
        runtime.verify()


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
@pytest.mark.parametrize("name", LOGIN)
def test_a_login_that_would_not_be_used_does_not_start(tmp_path: Path, protocol: str, name: str) -> None:
    runtime = on_kafka(tmp_path, kafka_security_protocol=protocol, **{name: LOGIN[name]})

    with pytest.raises(MisconfiguredError, match=f"^{name.upper()}: .* KAFKA_SECURITY_PROTOCOL={protocol}") as raised:
        runtime.verify()
    assert LOGIN["kafka_sasl_password"] not in str(raised.value)


def test_an_authority_that_is_not_there_does_not_start(tmp_path: Path) -> None:
    runtime = on_kafka(tmp_path, kafka_security_protocol="SSL", kafka_ssl_ca_location="/nowhere.crt")

    with pytest.raises(MisconfiguredError, match=r"KAFKA_SSL_CA_LOCATION: /nowhere.crt does not exist"):
        runtime.verify()


@pytest.mark.parametrize(("protocol", "wanted"), [("PLAINTEXT", "SSL"), ("SASL_PLAINTEXT", "SASL_SSL")])
def test_an_authority_that_would_not_be_asked_does_not_start_and_fails_the_doctor(
    tmp_path: Path, protocol: str, wanted: str
) -> None:
    (authority := tmp_path / "ca.crt").touch()
    login = LOGIN if protocol == "SASL_PLAINTEXT" else {}
    runtime = on_kafka(tmp_path, kafka_security_protocol=protocol, kafka_ssl_ca_location=str(authority), **login)
    told = f"KAFKA_SSL_CA_LOCATION: of no use with KAFKA_SECURITY_PROTOCOL={protocol}; set {wanted}"

    with pytest.raises(MisconfiguredError, match=f"^{told}$"):
        runtime.verify()
    (finding,) = check_kafka(runtime)
    assert (finding.status, finding.found) == ("fail", told)


def test_what_the_library_refuses_does_not_start_and_fails_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "empty.crt").touch()
    authority = str(tmp_path / "empty.crt")
    runtime = on_kafka(tmp_path, kafka_security_protocol="SSL", kafka_ssl_ca_location=authority)

    with pytest.raises(MisconfiguredError, match=r"KAFKA_SSL_CA_LOCATION.*ssl\.ca\.location failed"):
        runtime.verify()
    (finding,) = check_kafka(runtime)
    assert (finding.status, "ssl.ca.location" in finding.found) == ("fail", True)


def test_a_whole_login_starts_and_leaves_no_thread_to_a_fork(tmp_path: Path) -> None:
    threads = set(Path("/proc/self/task").iterdir())

    on_kafka(tmp_path, kafka_security_protocol="SASL_SSL", **LOGIN).verify()

    assert set(Path("/proc/self/task").iterdir()) <= threads


@pytest.mark.parametrize(("protocol", "warned"), [("SASL_PLAINTEXT", True), ("SASL_SSL", False)])
def test_the_doctor_warns_of_a_login_without_tls(tmp_path: Path, protocol: str, warned: bool) -> None:
    runtime = on_kafka(tmp_path, kafka_security_protocol=protocol, **LOGIN)

    found = {each.check: each.status for each in check_safety(runtime)}

    assert (found.get("kafka login") == "warn") == warned
