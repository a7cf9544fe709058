"""What the routes for operators answer, for the OpenAPI document."""

from marshmallow import fields

from chargeapp.web.answers import Answer, count, epoch_millis, text, word

HEALTH = ("UP", "DEGRADED", "DOWN")


def number(description: str, *, nullable: bool = False) -> fields.Float:
    return fields.Float(required=True, allow_none=nullable, metadata={"description": description, "minimum": 0})


def counts(description: str) -> fields.Dict:
    return fields.Dict(
        keys=fields.String(), values=fields.Integer(), required=True, metadata={"description": description}
    )


class ComponentSchema(Answer):
    status = word("Of this component.", *HEALTH)
    details = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata={"description": "Figures, written as text."},
    )


class HealthSchema(Answer):
    status = word("DOWN if requests cannot be accepted, DEGRADED if they have to wait.", *HEALTH)
    timestamp = epoch_millis()
    components = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(ComponentSchema),
        required=True,
        metadata={"description": "`queue`, `authorization`, `callbacks`, `database`, `redis`, `relay`, `workers`."},
    )


class ProbeSchema(Answer):
    status = word("The answer.", "UP", "DOWN")
    timestamp = epoch_millis()


class MetricsSchema(Answer):
    requests_total = count("Requests accepted.")
    requests_ended = counts("Requests that reached their end, by state.")
    authorization_decisions = counts("Decisions, by decision.")
    authorization_errors = count("Decisions that no service made.")
    authorization_time_avg_ms = number("Mean time of a decision.")
    authorization_time_p95_ms = number("95 % were faster in the last hour.")
    callback_results = counts("Callback attempts: `succeeded`, `failed`.")
    callback_time_avg_ms = number("Mean time of a callback attempt.")
    callback_time_p95_ms = number("95 % were faster in the last hour.")
    queue_size_current = count("Requests not decided yet.")
    queue_size_max = count("Requests not decided yet beyond which the API refuses.")
    outbox_rows_waiting = counts("Rows on their way, by queue.")
    dead_letters = counts("Rows that could not be processed, by queue.")
    oldest_waiting_seconds = number("Age of the oldest undecided request.")
    circuit_breaker = text("`closed`, or what the worker in trouble says.")
    workers = counts("Workers alive, by queue.")
    relay_last_seen_seconds = number("Since the relay worked; null if it never did.", nullable=True)
