"""The examples of the OpenAPI document; a test posts them to the API and holds its answers against them."""

STATION_ID = "123e4567-e89b-12d3-a456-426614174000"
DRIVER_TOKEN = "demo-driver-allowed-0001"  # noqa: S105 - of nobody
CALLBACK_URL = "https://caller.example/callback"
REQUEST_ID = "req-01a20171212d4e309f0909a71897465c"
TIMESTAMP = 1795320521005

REQUEST = {"stationId": STATION_ID, "driverToken": DRIVER_TOKEN, "callbackUrl": CALLBACK_URL}
REQUEST_WITH_TTL = {**REQUEST, "ttlSeconds": 300}
ACKNOWLEDGEMENT = {
    "status": "accepted",
    "message": "Request queued for async processing.",
    "requestId": REQUEST_ID,
    "timestamp": TIMESTAMP,
}
REDELIVERY = {"status": "accepted", "message": "The callback will be sent again.", "requestId": REQUEST_ID}
SUMMARY = {
    "requestId": REQUEST_ID,
    "stationId": STATION_ID,
    "driverToken": "demo…0001",
    "callbackUrl": CALLBACK_URL,
    "state": "delivered",
    "decision": "allowed",
    "reason": None,
    "source": "access_list",
    "attempts": 1,
    "lastError": None,
    "acceptedAt": "2026-11-22T04:08:41.005000+00:00",
    "decidedAt": "2026-11-22T04:08:41.208000+00:00",
    "expiresAt": "2026-11-22T04:23:41.005000+00:00",
    "endedAt": "2026-11-22T04:08:41.301000+00:00",
}
DETAILS = {
    **SUMMARY,
    "timeline": [
        {"type": "RequestAccepted", "at": "2026-11-22T04:08:41.005000+00:00"},
        {
            "type": "AuthorizationDecided",
            "at": "2026-11-22T04:08:41.208000+00:00",
            "decision": "allowed",
            "reason": None,
            "source": "access_list",
            "tries": 1,
            "millis": 2,
        },
    ],
}
PAGE = {"requests": [SUMMARY], "cursor": None}
QUESTION = {"station_id": STATION_ID, "driver_token": DRIVER_TOKEN}
AUTHORIZATION = {**QUESTION, "status": "allowed"}
CALLBACK = {
    **QUESTION,
    "status": "allowed",
    "timestamp": TIMESTAMP,
    "request_id": REQUEST_ID,
    "reason": None,
}
HEALTH = {
    "status": "UP",
    "timestamp": TIMESTAMP,
    "components": {
        "queue": {"status": "UP", "details": {"currentSize": "5", "maxSize": "10000"}},
        "database": {"status": "UP", "details": {}},
    },
}
PROBE = {"status": "UP", "timestamp": TIMESTAMP}
PROMETHEUS = "# HELP chargeapp_requests_total Requests accepted\n# TYPE chargeapp_requests_total counter\n"
