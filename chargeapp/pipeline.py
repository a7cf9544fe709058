"""The map: which outbox feeds which queue, and which job works there.

    outbox                                    queue             job
    charging_session_request_outbox        -> authorization   -> asks who may charge
    authorization_decision_callback_outbox -> callbacks       -> tells the caller
    callback_delivery_outbox               -> delivery-events -> ends the request, or starts another round

Jobs are named as text: the application publishes them, only a worker imports them.
"""

from dataclasses import dataclass

from chargeapp.storage.models import (
    AuthorizationDecisionCallbackOutbox,
    CallbackDeliveryOutbox,
    ChargingSessionRequestOutbox,
    OutboxRow,
)


@dataclass(frozen=True)
class Stage:
    outbox: type[OutboxRow]
    queue: str
    job: str


AUTHORIZATION = Stage(ChargingSessionRequestOutbox, "authorization", "jobs.authorization.authorize")
CALLBACKS = Stage(AuthorizationDecisionCallbackOutbox, "callbacks", "jobs.callbacks.deliver")
DELIVERY_EVENTS = Stage(CallbackDeliveryOutbox, "delivery-events", "jobs.delivery_events.record")

STAGES = (AUTHORIZATION, CALLBACKS, DELIVERY_EVENTS)
