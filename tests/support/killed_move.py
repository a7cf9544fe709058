"""`chargeapp migrate-store` that kills itself just before it would call a certain function."""

import signal
import subprocess
import sys
from collections.abc import Mapping

SCRIPT = """
import os, signal, sys
from chargeapp.commands import main
from chargeapp.storage.moving import source, target, target_rows

module, name, call = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))
module = {"source": source, "target": target, "target_rows": target_rows}[module]
original = getattr(module, name)
calls = 0

def kill(*given):
    global calls
    calls += 1
    if calls == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*given)

setattr(module, name, kill)
main()
"""


def move_killed(
    url: str, module: str, function: str, call: int = 1, environment: Mapping[str, str] | None = None
) -> None:
    """At the so-manieth call of it."""
    command = [sys.executable, "-c", SCRIPT, module, function, str(call), "migrate-store", "--to", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
