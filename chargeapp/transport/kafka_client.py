"""Who connects to Kafka, and the names used there: a topic and a group of consumers for each stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from chargeapp.config import Settings
from chargeapp.errors import MisconfiguredError
from chargeapp.pipeline import Stage
from chargeapp.transport.broker import BrokerRefuses, BrokerUnavailable

EVENTS_TOPIC = "chargeapp.events"
ANSWER_SECONDS = 3.0
REFUSALS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


def client_settings(settings: Settings) -> dict[str, Any]:
    """For every client; raises MisconfiguredError.

    Nothing is printed by the library: what goes wrong is told by who finds it out.
    """
    check_login(settings)
    given = {
        "bootstrap.servers": ",".join(settings.kafka_bootstrap_servers),
        "security.protocol": settings.kafka_security_protocol,
        "sasl.mechanism": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": settings.kafka_sasl_password,
        "ssl.ca.location": settings.kafka_ssl_ca_location,
    }
    quick = {
        "client.id": "chargeapp",
        "log_level": 0,
        "socket.connection.setup.timeout.ms": 2_000,
        "reconnect.backoff.max.ms": 1_000,
        # A topic that was made anew is seen within this time.
        "topic.metadata.refresh.interval.ms": 5_000,
    }
    client = {name: value for name, value in given.items() if value is not None} | quick
    try_out(client)
    return client


def check_login(settings: Settings) -> None:
    """What is half given, or would not be used; raises MisconfiguredError."""
    protocol, authority = settings.kafka_security_protocol, settings.kafka_ssl_ca_location
    login = {
        "KAFKA_SASL_MECHANISM": settings.kafka_sasl_mechanism,
        "KAFKA_SASL_USERNAME": settings.kafka_sasl_username,
        "KAFKA_SASL_PASSWORD": settings.kafka_sasl_password,
    }
    for name, value in login.items():
        if protocol.startswith("SASL_") and not value:
            raise MisconfiguredError(f"{name}: needed with KAFKA_SECURITY_PROTOCOL={protocol}")
        if value and not protocol.startswith("SASL_"):
            raise MisconfiguredError(f"{name}: of no use with KAFKA_SECURITY_PROTOCOL={protocol}; set SASL_SSL")
    if authority and not protocol.endswith("SSL"):
        wanted = "SASL_SSL" if protocol.startswith("SASL_") else "SSL"
        raise MisconfiguredError(
            f"KAFKA_SSL_CA_LOCATION: of no use with KAFKA_SECURITY_PROTOCOL={protocol}; set {wanted}"
        )
    if authority and not Path(authority).exists():
        raise MisconfiguredError(f"KAFKA_SSL_CA_LOCATION: {authority} does not exist")


def try_out(client: dict[str, Any]) -> None:
    """Make a client that knows no broker, so connects to nothing; its threads have ended when this returns."""
    try:
        AdminClient({name: value for name, value in client.items() if name != "bootstrap.servers"})
    except KafkaException as error:
        names = "KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA_LOCATION or KAFKA_SASL_*"
        raise MisconfiguredError(f"{names}: {error.args[0].str()}") from error


def topic_of(stage: Stage) -> str:
    return f"chargeapp.{stage.queue}"


def group_of(stage: Stage) -> str:
    return f"chargeapp.{stage.queue}"


@contextmanager
def unavailable(name: str) -> Iterator[None]:
    """Every fault of Kafka is one error to the rest of the program; `name` is that of a topic and of its group."""
    try:
        yield
    except (KafkaException, BufferError, TimeoutError) as error:
        fault = error.args[0] if error.args and isinstance(error.args[0], KafkaError) else None
        reason = fault.str() if fault else str(error)
        if fault and fault.code() in REFUSALS:
            raise BrokerRefuses(f"Kafka: {name}: {reason}") from error
        raise BrokerUnavailable(f"Kafka: {reason}") from error
