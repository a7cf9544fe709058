"""The two HTTP calls of every peer, over connections that stay open."""

import os

import requests
from requests.adapters import HTTPAdapter

http = requests.Session()
http.mount("http://", HTTPAdapter(pool_maxsize=32))


def ask(station_id: str, driver_token: str) -> str:
    """The authorization service's decision."""
    answer = http.post(
        os.environ["AUTHORIZATION_SERVICE_URL"],
        json={"station_id": station_id, "driver_token": driver_token},
        timeout=30,
    )
    answer.raise_for_status()
    return str(answer.json()["status"])


def tell(url: str, station_id: str, driver_token: str, decision: str) -> None:
    body = {"station_id": station_id, "driver_token": driver_token, "status": decision}
    http.post(url, json=body, timeout=10).raise_for_status()
