"""The built-in authorization service over HTTP."""

from flask import Blueprint, Response, jsonify

from chargeapp.clock import wall_clock
from chargeapp.domain.charging_session import Decision
from chargeapp.domain.identifiers import canonical_station_id
from chargeapp.outbound import access_list
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.web.auth import requires
from chargeapp.web.charging_sessions import json_object
from chargeapp.web.schemas import AuthorizeSchema, SessionRequestSchema


def authorize(runtime: Runtime) -> Blueprint:
    routes = Blueprint("authorize", __name__, url_prefix="/internal/v1")
    schema = AuthorizeSchema()
    well_formed = SessionRequestSchema(runtime.settings.driver_token_min_length)

    @routes.post("/authorize")
    @requires(Scope.OPERATE)
    def decide() -> Response:
        asked = schema.load(json_object())
        if well_formed.validate(asked, partial=("callback_url",)):
            return jsonify(asked | {"status": Decision.INVALID})
        station_id = canonical_station_id(asked["station_id"])
        with runtime.database.reading() as session:
            answer = access_list.decide(session, runtime.vault.hash(asked["driver_token"]), station_id, wall_clock())
        return jsonify(asked | {"status": answer.decision})

    return routes
