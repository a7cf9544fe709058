"""Nothing but Flask: the request's JSON is parsed and forgotten."""

from flask import Flask, request

app = Flask(__name__)


@app.post("/api/v1/charging-session")
def accept() -> dict[str, str]:
    request.get_json()
    return {"status": "accepted"}
