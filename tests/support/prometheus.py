"""Prometheus and promtool: those installed, else those of Debian's package, unpacked beside pytest's cache."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which

PACKAGE = "prometheus"
MISSING = f"prometheus and promtool are not installed (apt-get install {PACKAGE}), and the package cannot be fetched"
FETCH_SECONDS = 120


@dataclass(frozen=True)
class Programs:
    prometheus: Path
    promtool: Path

    def check(self, *words: str, cwd: Path | None = None, given: str | None = None) -> str:
        """What `promtool words…` says; fails unless it is content."""
        done = subprocess.run(
            [self.promtool, *words], cwd=cwd, input=given, capture_output=True, text=True, timeout=FETCH_SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def find_programs(cache: Path) -> Programs | None:
    """None where there is neither the package nor a way to it. Nothing is installed, and no service started."""
    installed = which("prometheus"), which("promtool")
    if all(installed):
        return Programs(*(Path(str(each)) for each in installed))
    unpacked = cache / "usr" / "bin"
    programs = Programs(unpacked / "prometheus", unpacked / "promtool")
    if not programs.promtool.exists() and not _fetch(cache):
        return None
    return programs


def _fetch(cache: Path) -> bool:
    if not (which("apt-get") and which("dpkg")):
        return False
    if not _runs(["apt-get", "--quiet", "download", PACKAGE], cache):
        return False
    (package,) = cache.glob(f"{PACKAGE}_*.deb")
    unpacked = _runs(["dpkg", "-x", str(package), str(cache)], cache)
    package.unlink()
    return unpacked


def _runs(command: Sequence[str], cwd: Path) -> bool:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
