"""Python's garbage collector does not stop a process for long."""

import re
from collections.abc import Callable
from pathlib import Path

from deployment import Deployment

TOLD = """
import gc

freeze = gc.freeze

def told():
    freeze()
    print(f"spared: {gc.get_freeze_count()}.", flush=True)

gc.freeze = told
"""
PROCESSES = 6  # the relay, two of the API, and three workers
MOST_OF_WHAT_IS_IMPORTED = 100_000


def test_collections_leave_out_what_every_process_imported(data_dir: Callable[[], Path], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(TOLD)
    with Deployment(data_dir(), PYTHONPATH=str(tmp_path)) as deployment:
        deployment.up()
        deployment.until(lambda: len(spared(deployment)) == PROCESSES, "not every process spares what stays")

        assert min(spared(deployment)) > MOST_OF_WHAT_IS_IMPORTED


def spared(deployment: Deployment) -> list[int]:
    return [int(count) for count in re.findall(r"spared: (\d+)\.", deployment.output())]
