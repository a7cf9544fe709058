"""Who logs in to Kafka by SCRAM, and may not do everything there: it is said what is missing, and nothing is lost."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from structlog.testing import capture_logs
from support.builders import Requests, accept, eventually, just_now, new_runtime, rows
from support.kafka_server import KafkaServer
from support.kafka_worker import working

from chargeapp.commands.checks.kafka import check_kafka
from chargeapp.runtime import Runtime
from chargeapp.transport.broker import BrokerUnavailable
from chargeapp.transport.kafka_topics import make_topics
from chargeapp.web.health import SILENT, server_troubles

NEWCOMER, SECRET = "newcomer", "password-of-the-newcomer"
FROM_ANYWHERE = "*"


@pytest.fixture
def admin(kafka: KafkaServer) -> AdminClient:
    """May do everything, and has made the topics and the newcomer."""
    admin = AdminClient({"bootstrap.servers": kafka.address, "log_level": 0})
    make_topics(admin)
    login = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    newcomer = UserScramCredentialUpsertion(NEWCOMER, login, SECRET.encode())
    admin.alter_user_scram_credentials([newcomer])[NEWCOMER].result(10)
    return admin


@pytest.fixture
def runtime(tmp_path: Path, kafka: KafkaServer, admin: AdminClient) -> Iterator[Runtime]:
    with new_runtime(
        tmp_path,
        redis_url=None,
        broker="kafka",
        kafka_bootstrap_servers=(kafka.address_with_login,),
        kafka_security_protocol="SASL_SSL",
        kafka_ssl_ca_location=str(kafka.authority.certificate),
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username=NEWCOMER,
        kafka_sasl_password=SECRET,
        queue_consumer_threads=4,
    ) as runtime:
        # A moment passes until the broker knows whom it was told of.
        eventually(lambda: server_troubles(runtime) != {"kafka": SILENT}, "not let in", 20)
        yield runtime


def grant(admin: AdminClient, kind: ResourceType, *rights: AclOperation) -> None:
    who = f"User:{NEWCOMER}"
    ours, allow = ("chargeapp.", ResourcePatternType.PREFIXED), AclPermissionType.ALLOW
    granted = [AclBinding(kind, *ours, who, FROM_ANYWHERE, each, allow) for each in rights]
    for done in admin.create_acls(granted).values():
        done.result(10)


@contextmanager
def relaying(runtime: Runtime) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=runtime.relay.run, args=(over.is_set,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)
    assert not thread.is_alive()


def advised(runtime: Runtime) -> str:
    (finding,) = check_kafka(runtime)
    return f"{finding.status}: {finding.found}"


def settled(runtime: Runtime) -> int:
    return sum(row.settled_at is not None for row in rows(runtime.database, Requests))


def test_missing_rights_are_named_and_once_they_are_granted_all_goes_on(
    runtime: Runtime, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as lines, relaying(runtime), working(runtime, monkeypatch):

        def told(action: str) -> list[str]:
            return [f"{each.get('error')} {each.get('needed')}" for each in lines if each["action"] == action]

        accept(runtime.database, now=just_now(), vault=runtime.vault)
        eventually(lambda: settled(runtime) == 1, "no worker took it from the database", 20)
        eventually(lambda: len(told("kafka_refuses")) == 2, "the worker does not say so", 20)
        assert server_troubles(runtime) == {"kafka": "a right is missing"}
        assert "fail: " in (found := advised(runtime))
        assert "rights are missing: Describe and Write and Read on topic chargeapp.authorization, " in found

        grant(admin, ResourceType.TOPIC, AclOperation.DESCRIBE, AclOperation.READ)
        eventually(lambda: advised(runtime).endswith("Write on topic chargeapp.events"), "another right", 20)
        grant(admin, ResourceType.TOPIC, AclOperation.WRITE)
        wanted = "rights are missing: Describe and Read on group chargeapp.authorization"
        eventually(lambda: advised(runtime).endswith(wanted), "the group is not named", 30)
        eventually(lambda: "Describe and Read on group" in told("relay_hindered")[-1], "the relay does not say so", 30)
        grant(admin, ResourceType.GROUP, AclOperation.DESCRIBE, AclOperation.READ)
        eventually(lambda: advised(runtime).startswith("ok"), "the rights are not noticed", 30)

        accept(runtime.database, 5, now=just_now(), vault=runtime.vault)
        eventually(lambda: settled(runtime) == 6 and told("relay_back"), "not all goes on", 30)
        eventually(lambda: not runtime.transport.count_jobs()["authorization"].waiting, "messages are not read", 30)
        assert server_troubles(runtime) == {"kafka": ""}

    hindered = told("relay_hindered")
    assert "Describe and Write and Read on topic chargeapp.authorization" in hindered[0]
    assert len(hindered) == len(set(hindered))
    needed = "Describe and Read on topic and group chargeapp.authorization"
    assert [needed in each for each in told("kafka_refuses")] == [True, True]


def test_a_wrong_password_is_not_let_in_by_scram(runtime: Runtime, admin: AdminClient) -> None:
    wrong = Runtime(replace(runtime.settings, kafka_sasl_password="another"))

    with pytest.raises(BrokerUnavailable):
        wrong.transport.ping()
    wrong.close_transport()
