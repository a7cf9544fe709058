"""nginx as authorization service that allows everybody, and as receiver that notes when each callback came."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drilling.deployment import free_port

from benching.programs import HOST, running, wait_for_port

CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    log_format arrival '$msec $arg_n';
    server {{
        listen {host}:{authorization_port};
        default_type application/json;
        location / {{ return 200 '{{"status": "allowed"}}'; }}
    }}
    server {{
        listen {host}:{callback_port} backlog=4096;
        location / {{ access_log {folder}/arrivals.log arrival; return 204; }}
    }}
}}
"""


@dataclass(frozen=True)
class Stubs:
    pid: int
    authorization_url: str
    callback_url: str
    """To be followed by the request's name."""
    arrivals: Path


def find_nginx() -> str | None:
    """Debian keeps it where only root looks."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


@contextmanager
def stubs(folder: Path) -> Iterator[Stubs]:
    folder.mkdir()
    authorization_port, callback_port = free_port(), free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder, host=HOST, authorization_port=authorization_port, callback_port=callback_port
        )
    )
    log = folder / "nginx.log"
    command: list[str | Path] = [find_nginx() or "nginx", "-c", configuration, "-p", folder, "-e", "stderr"]
    with running(command, log) as nginx:
        wait_for_port(nginx, callback_port, log)
        yield Stubs(
            nginx.pid,
            f"http://{HOST}:{authorization_port}/authorize",
            f"http://{HOST}:{callback_port}/callback?n=",
            folder / "arrivals.log",
        )
