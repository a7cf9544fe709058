"""What every response says to browsers: keep nothing, load nothing, show it nowhere; and who else may call the API."""

from flask import Flask, Response, request

from chargeapp.config import Settings

EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    # For JSON and the like; a page that needs more says so itself.
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
ONLY_TLS = "max-age=31536000"

CALLED_FROM_ELSEWHERE = "/api/"
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key",
    "Access-Control-Max-Age": "600",
}
READABLE = "Idempotency-Replayed, Retry-After"


def install_headers(app: Flask) -> None:
    @app.after_request
    def harden(response: Response) -> Response:
        for name, value in EVERYWHERE.items():
            response.headers.setdefault(name, value)
        if request.is_secure:
            response.headers.setdefault("Strict-Transport-Security", ONLY_TLS)
        return response


def install_cors(app: Flask, settings: Settings) -> None:
    """Lets browsers on exactly these origins call the API, with a key and never with cookies."""
    origins = frozenset(settings.cors_origins)
    if not origins:
        return

    @app.before_request
    def answer_preflight() -> Response | None:
        asked = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asked or not request.path.startswith(CALLED_FROM_ELSEWHERE):
            return None
        return Response(status=204, headers=PREFLIGHT if request.origin in origins else {})

    @app.after_request
    def allow_origin(response: Response) -> Response:
        if request.path.startswith(CALLED_FROM_ELSEWHERE):
            response.vary.add("Origin")
            if request.origin in origins:
                response.headers["Access-Control-Allow-Origin"] = request.origin
                response.headers["Access-Control-Expose-Headers"] = READABLE
        return response
