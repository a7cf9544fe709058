"""What every peer asks of a request: the same rules as chargeapp's."""

from marshmallow import Schema, fields, validate


class RequestBody(Schema):
    stationId = fields.UUID(required=True)  # noqa: N815 - the contract's names
    driverToken = fields.String(required=True, validate=validate.Regexp(r"[A-Za-z0-9\-._~]{20,80}\Z"))  # noqa: N815
    callbackUrl = fields.Url(required=True, schemes={"http", "https"}, require_tld=False)  # noqa: N815
