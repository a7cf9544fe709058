"""The job as a team with Dramatiq would do it: two actors, no outbox. What Redis loses is lost."""

import os

import dramatiq
from calls import ask, tell
from dramatiq.brokers.redis import RedisBroker
from flask import Flask, request
from request_body import RequestBody

dramatiq.set_broker(RedisBroker(url=os.environ["REDIS_URL"]))
app = Flask(__name__)


@app.post("/api/v1/charging-session")
def accept() -> dict[str, str]:
    wanted = RequestBody().load(request.get_json())
    authorize.send(str(wanted["stationId"]), wanted["driverToken"], wanted["callbackUrl"])
    return {"status": "accepted"}


@dramatiq.actor(max_retries=3)
def authorize(station_id: str, driver_token: str, url: str) -> None:
    call_back.send(url, station_id, driver_token, ask(station_id, driver_token))


@dramatiq.actor(max_retries=3)
def call_back(url: str, station_id: str, driver_token: str, decision: str) -> None:
    tell(url, station_id, driver_token, decision)
