"""Everything there is in the topics of a broker."""

from collections.abc import Callable, Iterator

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

SETTINGS = {"group.id": "a search", "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0}


def messages_at(address: str, of_topic: Callable[[str], bool]) -> Iterator[Message]:
    """From the first to the last one; no offset is committed."""
    reader = Consumer({"bootstrap.servers": address, **SETTINGS})
    partitions = [
        TopicPartition(name, number, OFFSET_BEGINNING)
        for name, topic in reader.list_topics(timeout=10).topics.items()
        if of_topic(name)
        for number in topic.partitions
    ]
    reader.assign(partitions)
    ends = 0
    while ends < len(partitions):
        for each in reader.consume(500, 0.1):
            if each.error() is not None:
                ends += 1
            else:
                yield each
    reader.close()
