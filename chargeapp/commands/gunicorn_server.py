"""gunicorn from within, so that its settings come from ours."""

from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from chargeapp.app import create_app
from chargeapp.commands.loop_worker import LoopWorker
from chargeapp.config import Settings
from chargeapp.garbage import spare_what_stays

KEEP_ALIVE_SECONDS = 30
GRACEFUL_SECONDS = 15


class WebServer(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "workers": self._settings.web_workers,
            "worker_class": LoopWorker,
            "keepalive": KEEP_ALIVE_SECONDS,
            "graceful_timeout": GRACEFUL_SECONDS,
            "preload_app": True,
            "limit_request_line": 4094,
            "limit_request_fields": 64,
            "proc_name": "chargeapp web",
            # Our own log lines tell what happens; these only where something is wrong.
            "loglevel": "warning",
            "control_socket_disable": True,
            "post_worker_init": _begin,
            "worker_exit": lambda server, worker: worker.app.wsgi().extensions["tracing"].flush(),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_app(self._settings)


def _begin(worker: Any) -> None:
    worker.app.wsgi().extensions["loop"].enter()
    spare_what_stays()


def run_web(settings: Settings) -> None:
    WebServer(settings).run()
