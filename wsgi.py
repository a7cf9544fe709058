"""For any WSGI server: `gunicorn wsgi:app`."""

from chargeapp.app import create_app
from chargeapp.config import load_settings
from chargeapp.logs import configure_logging

settings = load_settings()
configure_logging(settings, "web")
app = create_app(settings)
