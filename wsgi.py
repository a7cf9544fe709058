"""For any WSGI server: `gunicorn wsgi:app`."""

from chargeapp.app import create_app

app = create_app()
