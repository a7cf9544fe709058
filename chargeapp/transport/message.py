"""What travels to a job: which rows, under which numbers. Never a driver token."""

from collections.abc import Sequence
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from chargeapp.errors import PermanentFailure
from chargeapp.storage.outbox import Ticket


class PoisonMessage(PermanentFailure):
    """What came from the queue is not one of our messages; it is not run."""


class MessageSchema(Schema):
    class Meta:
        unknown = RAISE

    rows = fields.List(
        fields.List(fields.Integer(strict=True), validate=validate.Length(equal=2)),
        required=True,
        validate=validate.Length(min=1, max=1000),
    )


SCHEMA = MessageSchema()


def pack(tickets: Sequence[Ticket]) -> dict[str, Any]:
    return {"rows": [[ticket.row_id, ticket.seq] for ticket in tickets]}


def unpack(message: Any) -> list[Ticket]:
    """Raises PoisonMessage."""
    try:
        rows = SCHEMA.load(message)["rows"]
    except ValidationError as error:
        raise PoisonMessage(f"Message refused: {error}") from error
    return [Ticket(row_id, seq) for row_id, seq in rows]
