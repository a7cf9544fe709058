"""A real Kafka, which also lets in who has a password, over TLS."""

import sys
from pathlib import Path

import pytest

from support.certificates import Authority
from support.ports import free_port

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from drilling import kafka_server

USER, PASSWORD = "chargeapp", "password-of-the-tests"
LOGIN_MODULE = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'

SCRAM_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


def needed_kafka() -> str:
    """The class path; skips the test where it cannot be had."""
    try:
        return kafka_server.find_kafka()
    except LookupError as error:
        pytest.skip(str(error))


class KafkaServer(kafka_server.KafkaServer):
    """A context manager; may be stopped and started again in between, and keeps what it has."""

    def __init__(self, class_path: str) -> None:
        super().__init__(class_path)
        self.address_with_login = f"127.0.0.1:{free_port()}"
        self.authority = Authority(self.directory)
        certificate, key = self.authority.issue()
        both = self.directory / "both.pem"
        both.write_text(key.read_text() + certificate.read_text())
        self.settings["listeners"] += f",SASL_SSL://{self.address_with_login}"
        self.settings |= {
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": LOGIN_MODULE,
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": SCRAM_MODULE,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{USER}",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(both),
        }

    def __enter__(self) -> "KafkaServer":
        self.initialize()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.remove()
