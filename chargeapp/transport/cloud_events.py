"""The envelope of everything in Kafka: CloudEvents 1.0 in JSON, keyed by station. Never a driver token."""

import json
from dataclasses import dataclass
from typing import Any

from cloudevents.core.bindings.kafka import KafkaMessage, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate
from sqlalchemy import Row

from chargeapp.pipeline import Stage
from chargeapp.storage.outbox import Ticket
from chargeapp.transport.message import PoisonMessage

SOURCE = "/chargeapp"
MAX_COMMAND_BYTES = 4096


@dataclass(frozen=True)
class Command:
    """One row that is due, and the job it was published with."""

    ticket: Ticket
    job_id: str


class DataSchema(Schema):
    class Meta:
        unknown = RAISE

    row = fields.Integer(strict=True, required=True, validate=validate.Range(1, 2**63 - 1))
    seq = fields.Integer(strict=True, required=True, validate=validate.Range(1, 2**31 - 1))


class EnvelopeSchema(Schema):
    class Meta:
        unknown = EXCLUDE  # whoever hands an event on may add attributes

    specversion = fields.String(required=True, validate=validate.Equal("1.0"))
    id = fields.String(required=True, validate=validate.Regexp(r"[a-z-]+-[0-9a-f]{32}-[0-9]+\Z"))
    source = fields.String(required=True, validate=validate.Equal(SOURCE))
    type = fields.String(required=True)
    data = fields.Nested(DataSchema, required=True)


ENVELOPE = EnvelopeSchema()


def command_type(stage: Stage) -> str:
    return f"chargeapp.command.{stage.queue}"


def pack_command(stage: Stage, ticket: Ticket, job_id: str, station_id: str) -> KafkaMessage:
    attributes = {
        "id": f"{job_id}-{ticket.row_id}",
        "source": SOURCE,
        "type": command_type(stage),
        "datacontenttype": "application/json",
        "partitionkey": station_id,
    }
    return to_structured_event(CloudEvent(attributes, {"row": ticket.row_id, "seq": ticket.seq}))


def unpack_command(stage: Stage, value: bytes | None) -> Command:
    """Raises PoisonMessage."""
    if value is None or len(value) > MAX_COMMAND_BYTES:
        raise PoisonMessage("Message refused: empty or too large")
    try:
        found = ENVELOPE.load(json.loads(value))
    except (ValidationError, ValueError, RecursionError) as error:
        raise PoisonMessage(f"Message refused: {error}") from error
    if found["type"] != command_type(stage):
        raise PoisonMessage("Message refused: of another stage")
    job_id, _, _ = found["id"].rpartition("-")
    return Command(Ticket(found["data"]["row"], found["data"]["seq"]), job_id)


def pack_event(event: Row[Any]) -> KafkaMessage:
    """What other services may know of a delivery: no driver token, not even masked, and no address."""
    attributes = {
        "id": f"{event.request_id}.{event.id}",
        "source": SOURCE,
        "type": f"chargeapp.event.{event.type}",
        "subject": event.request_id,
        "time": event.at,
        "datacontenttype": "application/json",
        "partitionkey": event.station_id,
    }
    data = {
        "requestId": event.request_id,
        "stationId": event.station_id,
        "decision": event.decision,
        "reason": event.details.get("reason"),
        "round": event.details.get("round", 1),
        "terminal": event.terminal,
    }
    return to_structured_event(CloudEvent(attributes, data))
