"""The job as a team with Celery would do it: two tasks, no outbox. What Redis loses is lost."""

import os

import requests
from calls import ask, tell
from celery import Celery
from flask import Flask, request
from request_body import RequestBody

queue = Celery("peer", broker=os.environ["REDIS_URL"])
queue.conf.update(task_acks_late=True, task_ignore_result=True)
again = {"autoretry_for": (requests.RequestException,), "retry_backoff": True, "max_retries": 3}
app = Flask(__name__)


@app.post("/api/v1/charging-session")
def accept() -> dict[str, str]:
    wanted = RequestBody().load(request.get_json())
    authorize.delay(str(wanted["stationId"]), wanted["driverToken"], wanted["callbackUrl"])
    return {"status": "accepted"}


@queue.task(**again)
def authorize(station_id: str, driver_token: str, url: str) -> None:
    call_back.delay(url, station_id, driver_token, ask(station_id, driver_token))


@queue.task(**again)
def call_back(url: str, station_id: str, driver_token: str, decision: str) -> None:
    tell(url, station_id, driver_token, decision)
