"""The routes for operators, and the built-in authorization service, for the OpenAPI document."""

from chargeapp.web import answers, figures_answers, openapi_examples, schemas
from chargeapp.web.openapi_parts import Operation, answer, json_of


def service_operations() -> list[Operation]:
    return [
        Operation(
            "authorize.decide",
            "post",
            "/internal/v1/authorize",
            "Authorization",
            "Ask the built-in access list",
            {"200": answer("The decision.", answers.AuthorizationSchema, openapi_examples.AUTHORIZATION)},
            "A malformed station id or driver token is an answer too: `invalid`.",
            body=json_of(schemas.AuthorizeSchema, openapi_examples.QUESTION),
            refusals=(400, 413, 415, 503),
        ),
        Operation(
            "operations.health",
            "get",
            "/health",
            "Operations",
            "What works",
            {
                "200": answer("Requests are accepted.", figures_answers.HealthSchema, openapi_examples.HEALTH),
                "503": answer("Requests cannot be accepted.", figures_answers.HealthSchema, None),
            },
        ),
        Operation(
            "operations.live",
            "get",
            "/health/live",
            "Operations",
            "Does the process answer?",
            {"200": answer("It does.", figures_answers.ProbeSchema, openapi_examples.PROBE)},
        ),
        Operation(
            "operations.ready",
            "get",
            "/health/ready",
            "Operations",
            "Can the database commit?",
            {
                "200": answer("It can.", figures_answers.ProbeSchema, openapi_examples.PROBE),
                "503": answer("It cannot.", figures_answers.ProbeSchema, None),
            },
        ),
        Operation(
            "operations.metrics",
            "get",
            "/metrics",
            "Operations",
            "The figures, over all processes and restarts",
            {
                "200": {
                    "description": "JSON, or Prometheus text when Prometheus asks.",
                    "content": json_of(figures_answers.MetricsSchema)
                    | {"text/plain": {"schema": {"type": "string"}, "example": openapi_examples.PROMETHEUS}},
                }
            },
            parameters=(
                {
                    "name": "format",
                    "in": "query",
                    "description": "`prometheus` for Prometheus text, whatever the header Accept says.",
                    "schema": {"type": "string"},
                },
            ),
            refusals=(503,),
        ),
    ]
