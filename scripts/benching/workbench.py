"""What the measurements share: the plan, the display, a folder, and stubs and peers once somebody asks for them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

import click
from drilling.deployment import ROOT
from drilling.progress import Display

from benching.peers_venv import peers_bin
from benching.plans import Plan
from benching.stubs import Stubs, find_nginx, stubs

CACHE = ROOT / ".bench"
PACKAGES = {"nginx": "nginx-light", "wrk": "wrk"}


class Workbench:
    def __init__(self, plan: Plan, display: Display, folder: Path, closing: ExitStack) -> None:
        self.plan = plan
        self.display = display
        self._folder = folder
        self._closing = closing
        self._folders = 0

    def new_folder(self) -> Path:
        self._folders += 1
        folder = self._folder / str(self._folders)
        folder.mkdir()
        return folder

    @cached_property
    def stubs(self) -> Stubs:
        return self._closing.enter_context(stubs(self._folder / "stubs"))

    @cached_property
    def peers(self) -> Path:
        """The folder of the peers' programs."""
        return peers_bin(CACHE, self.display.say)


@contextmanager
def workbench(plan: Plan, display: Display) -> Iterator[Workbench]:
    """In the checkout, because a temporary folder may be in memory, where a commit costs nothing."""
    CACHE.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
    try:
        with ExitStack() as closing:
            yield Workbench(plan, display, folder, closing)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_programs(names: set[str]) -> None:
    """Raises ClickException that says what to install."""
    found = {"nginx": find_nginx(), "wrk": shutil.which("wrk")}
    missing = [package for name, package in PACKAGES.items() if name in names and not found[name]]
    if missing:
        raise click.ClickException(f"This measurement needs more:  sudo apt-get install {' '.join(missing)}")
