"""The callers' routes, and the callback, for the OpenAPI document."""

from chargeapp.web import answers, openapi_examples, schemas
from chargeapp.web.openapi_parts import Operation, Part, answer, json_of

REQUEST_ID = {
    "name": "requestId",
    "in": "path",
    "required": True,
    "description": "What the acknowledgement said.",
    "schema": {"type": "string"},
    "example": openapi_examples.REQUEST_ID,
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Repeats a request safely: for 24 hours the same key with the same fields gets the first answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
REPLAYED = {
    "Idempotency-Replayed": {
        "description": "Sent when this is the answer to an earlier request with the same key.",
        "schema": {"const": "true"},
    }
}


def callback() -> Part:
    headers = {
        "webhook-id": "The request id, the same on every attempt.",
        "webhook-timestamp": "When it was sent, in seconds since 1970.",
        "webhook-signature": "As Standard Webhooks 1.0.0 says, over the exact bytes sent.",
    }
    return {
        "summary": "The decision",
        "description": "Posted to the `callbackUrl` once it is decided. Redirects are not followed.",
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        ],
        "requestBody": {"required": True, "content": json_of(answers.CallbackSchema, openapi_examples.CALLBACK)},
        "responses": {
            "2XX": {"description": "Delivered."},
            "410": {"description": "Never again: it is not tried any more."},
            "default": {"description": "Tried again, not before `Retry-After` if there is one, until it expires."},
        },
    }


def session_operations() -> list[Operation]:
    base = "/api/v1/charging-session"
    return [
        Operation(
            "charging_sessions.accept",
            "post",
            base,
            "Charging sessions",
            "Ask whether a driver may charge",
            {
                "200": answer(
                    "The request is on disk. The decision follows as a callback.",
                    answers.AcknowledgementSchema,
                    openapi_examples.ACKNOWLEDGEMENT,
                    headers=REPLAYED,
                )
            },
            "`station_id`, `driver_token`, `callback_url` and `ttl_seconds` are understood too, but not both"
            " spellings of one field.",
            parameters=(IDEMPOTENCY_KEY,),
            body={
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ChargingSessionRequest"},
                    "examples": {
                        "usual": {"value": openapi_examples.REQUEST},
                        "short-lived": {"value": openapi_examples.REQUEST_WITH_TTL},
                    },
                }
            },
            refusals=(400, 413, 415, 422, 503),
            callbacks={"decision": {"{$request.body#/callbackUrl}": {"post": callback()}}},
        ),
        Operation(
            "charging_sessions.page",
            "get",
            base,
            "Charging sessions",
            "List requests, newest first",
            {"200": answer("One page.", answers.PageOfRequestsSchema, openapi_examples.PAGE)},
            parameters=({"in": "query", "schema": schemas.PageSchema},),
            refusals=(400, 503),
        ),
        Operation(
            "charging_sessions.show",
            "get",
            base + "/{requestId}",
            "Charging sessions",
            "Look at one request and its timeline",
            {"200": answer("The request.", answers.SessionRequestDetailsSchema, openapi_examples.DETAILS)},
            parameters=(REQUEST_ID,),
            refusals=(404, 503),
        ),
        Operation(
            "charging_sessions.send_again",
            "post",
            base + "/{requestId}/redelivery",
            "Charging sessions",
            "Have the callback of an ended request sent again",
            {"202": answer("It is due again.", answers.RedeliverySchema, openapi_examples.REDELIVERY)},
            parameters=(REQUEST_ID,),
            refusals=(404, 409, 503),
        ),
    ]
