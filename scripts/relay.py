#!/usr/bin/env python3
"""Cron's relay: one pass over the outboxes, then the end. Safe beside the continuous relay and beside itself.

* * * * *  /srv/chargeapp/scripts/relay.py
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ROOT / ".venv" / "bin" / "python"

if __name__ == "__main__":
    python = str(INSTALLED) if INSTALLED.exists() else sys.executable
    if given := os.environ.get("CHARGEAPP_DATA_DIR"):
        os.environ["CHARGEAPP_DATA_DIR"] = str(Path(given).absolute())
    # Cron starts in the home directory; var/ and chargeapp.toml are here.
    os.chdir(ROOT)
    os.execv(python, [python, "-m", "chargeapp", "relay", "--once", *sys.argv[1:]])  # noqa: S606 - no shell is wanted
