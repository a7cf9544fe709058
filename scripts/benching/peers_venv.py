"""The peers' packages, in an environment of their own, made once and kept in .bench."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

LOCK = Path(__file__).with_name("peers.lock")


def peers_bin(cache: Path, say: Callable[[str], None]) -> Path:
    """The folder with their programs; installs them when they, or the interpreter, have changed."""
    folder = cache / "peers"
    made_of = f"{Path(sys.executable).resolve()}\n{folder.resolve()}\n{LOCK.read_text()}"
    stamp = folder / "installed-from"
    if not stamp.exists() or stamp.read_text() != made_of:
        say("Installing the peers (about a minute, the first time only) ...")
        _run(sys.executable, "-m", "venv", "--clear", folder)
        _run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--require-hashes", "-r", LOCK)
        stamp.write_text(made_of)
    return folder / "bin"


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603 - our own programs


def pinned() -> dict[str, str]:
    """Versions by name."""
    lines = [line.split()[0] for line in LOCK.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return {name: version for name, _, version in (line.partition("==") for line in lines)}
