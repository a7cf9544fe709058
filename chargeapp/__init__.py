"""Asynchronous authorization for EV charging.

A caller posts a station, a driver token and a callback URL and is answered at once; the decision follows as a
signed HTTP callback. Every step is one database transaction that ends with a row in an outbox:

    web                    stores the request            -> charging_session_request_outbox
    jobs.authorization     asks who may charge           -> authorization_decision_callback_outbox
    jobs.callbacks         tells the caller              -> callback_delivery_outbox
    jobs.delivery_events   writes the event, ends the request or schedules another round

`relay.py` moves due rows of each outbox into the queue of the same stage, and finds again whatever was lost on the
way. `pipeline.py` is the map of the stages. The database holds the truth; Redis or Kafka holds the next few seconds of
work.
"""

__version__ = "0.1.0"
