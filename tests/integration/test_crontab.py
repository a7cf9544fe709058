"""The line of deploy/crontab, run as cron runs it: by /bin/sh, with what the file sets and nothing else."""

import re
import subprocess
from pathlib import Path

from cli_support import data_dir, running_redis, tables

from chargeapp.security.secrets_file import new_secrets

__all__ = ["data_dir", "running_redis", "tables"]

ROOT = Path(__file__).parents[2]
CRONTAB = (ROOT / "deploy" / "crontab").read_text()


def test_the_line_runs_the_relay_with_the_settings_of_the_units(
    tables: Path, running_redis: str, tmp_path: Path
) -> None:
    settings = tmp_path / "env"
    settings.write_text(
        "".join(f"{name}={value}\n" for name, value in {**new_secrets(), "REDIS_URL": running_redis}.items())
    )
    environment = dict(re.findall(r"^([A-Z_]+)=(.*)$", CRONTAB, re.MULTILINE))
    (line,) = re.findall(r"^\* \* \* \* \* root (.*)$", CRONTAB, re.MULTILINE)
    command = (
        line.replace("/etc/chargeapp/env", str(settings))
        .replace("runuser -u chargeapp -- ", "")
        .replace("/opt/chargeapp", str(ROOT))
    )

    done = subprocess.run(
        [environment["SHELL"], "-c", command],
        env=environment | {"CHARGEAPP_DATA_DIR": str(tables)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Published 0 to authorization")
