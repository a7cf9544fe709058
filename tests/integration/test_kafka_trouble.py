"""What a worker says of Kafka's errors, and when it looks whether Kafka is back. The consumer is a fake."""

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs

from chargeapp.pipeline import AUTHORIZATION
from chargeapp.transport import kafka_subscription
from chargeapp.transport.kafka_subscription import Subscription

NO_GROUP, NO_TOPIC = KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED


class Failed:
    def __init__(self, code: int) -> None:
        self._code = code

    def error(self) -> KafkaError:
        return KafkaError(self._code)


class FakeConsumer:
    def __init__(self) -> None:
        self.failed: list[int] = []
        self.looks = 0
        self.away = True

    def poll(self, _: float) -> Failed | None:
        return Failed(self.failed.pop(0)) if self.failed else None

    def consume(self, *_: object) -> list[Failed]:
        return []

    def list_topics(self, *_: object, **__: object) -> None:
        self.looks += 1
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))


@pytest.fixture
def consumer() -> FakeConsumer:
    return FakeConsumer()


@pytest.fixture
def subscription(consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch) -> Subscription:
    monkeypatch.setattr(kafka_subscription, "Consumer", lambda _: consumer)
    return Subscription({}, AUTHORIZATION)


def told(subscription: Subscription, consumer: FakeConsumer, *codes: int) -> list[str]:
    consumer.failed += codes
    with capture_logs() as lines:
        for _ in codes:
            assert subscription.read(0.1) == ([], {})
    return [each["error"] for each in lines if each["action"] == "kafka_refuses"]


def test_each_kind_of_refusal_is_told_once(subscription: Subscription, consumer: FakeConsumer) -> None:
    found = told(subscription, consumer, NO_GROUP, NO_GROUP, NO_TOPIC, NO_GROUP, NO_TOPIC)

    assert found == [KafkaError(NO_GROUP).str(), KafkaError(NO_TOPIC).str()]


def test_a_refusal_that_comes_back_after_a_while_is_told_again(
    subscription: Subscription, consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(subscription, consumer, NO_GROUP)
    monkeypatch.setattr(kafka_subscription, "QUIET_SECONDS", 0.0)

    assert told(subscription, consumer, NO_GROUP) == [KafkaError(NO_GROUP).str()]


def test_what_happens_to_one_broker_is_not_told(subscription: Subscription) -> None:
    with capture_logs() as lines:
        subscription._trouble(KafkaError(KafkaError._TRANSPORT))

    assert lines == []


def test_a_job_under_way_does_not_wait_for_kafka_to_be_back(subscription: Subscription, consumer: FakeConsumer) -> None:
    with capture_logs() as lines:
        subscription._trouble(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        subscription.read(0)
        during_a_job = consumer.looks
        consumer.away = False
        subscription.read(0.1)

    assert (during_a_job, consumer.looks) == (0, 1)
    assert [each["action"] for each in lines] == ["kafka_awaited", "kafka_back"]
