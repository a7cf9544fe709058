"""scripts/install with a Python that only pretends, so nothing is downloaded."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "dirname", "readlink", "cat", "cmp", "cp", "flock", "grep", "mkdir", "mv", "rm", "sleep", "uname")
PRETENDED_PYTHON = """\
#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
    "-m venv .venv")
        mkdir -p .venv/bin .venv/lib/python3.11/site-packages
        cp "$0" .venv/bin/python
        echo "command = python3 -m venv $(readlink -f .venv)" >.venv/pyvenv.cfg ;;
    *"import venv, ensurepip"*) [ ! -e no-venv ] ;;
    *"print("*) echo 3.12 ;;
    "-m pip install"*) sleep 0.2; [ ! -e no-index ] ;;
esac
"""


class Checkout:
    """A copy of what scripts/install reads, on a machine with next to nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder.parent / "bin"
        self.calls_file = folder.parent / "calls"
        (folder / "scripts").mkdir(parents=True)
        for name in ("scripts/install", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
            shutil.copy(ROOT / name, folder / name)
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)

    def add_python(self, name: str = "python3", script: str = PRETENDED_PYTHON) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def start(self, lock: str = "requirements.lock") -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.folder / "scripts" / "install", lock],
            env={"PATH": str(self.bin), "CALLS": str(self.calls_file)},
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def install(self, lock: str = "requirements.lock") -> tuple[int, str]:
        """Run it; answer its status and what it said."""
        with self.start(lock) as process:
            _, said = process.communicate(timeout=30)
        return process.returncode, said

    def calls(self) -> list[str]:
        """What Python was asked to make or install since the last call."""
        text = self.calls_file.read_text() if self.calls_file.exists() else ""
        self.calls_file.unlink(missing_ok=True)
        return [line for line in text.splitlines() if line.startswith(("-m venv", "-m pip install"))]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def with_python(checkout: Checkout) -> Checkout:
    checkout.add_python()
    return checkout


VENV = "-m venv .venv"
RUNTIME = "-m pip install --quiet --require-hashes -r requirements.lock"
DEVELOPMENT = "-m pip install --quiet --require-hashes -r requirements-dev.lock"
PROJECT = "-m pip install --quiet --no-deps --no-build-isolation -e ."


def test_without_python_it_names_the_packages_to_install(checkout: Checkout) -> None:
    status, said = checkout.install()

    assert status == 1
    assert "needs Python 3.11 or newer" in said
    assert "sudo apt-get install python3 python3-venv" in said
    assert not (checkout.folder / ".venv").exists()


def test_an_old_python_is_not_enough(checkout: Checkout) -> None:
    checkout.add_python(script="#!/bin/sh\nexit 1\n")

    status, said = checkout.install()

    assert status == 1
    assert "needs Python 3.11 or newer" in said


def test_without_venv_it_names_the_package_to_install(checkout: Checkout) -> None:
    with_python(checkout)
    (checkout.folder / "no-venv").touch()

    status, said = checkout.install()

    assert status == 1
    assert "Python 3.12 is here, but without its venv module" in said
    assert "sudo apt-get install python3.12-venv" in said


def test_a_second_run_does_nothing(checkout: Checkout) -> None:
    with_python(checkout)

    first, second = checkout.install(), checkout.install()

    assert first[0] == 0
    assert "about a minute the first time" in first[1]
    assert second == (0, "")
    assert checkout.calls() == [VENV, RUNTIME, PROJECT]


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_a_changed_file_installs_again(checkout: Checkout, changed: str) -> None:
    with_python(checkout).install()
    checkout.calls()
    with (checkout.folder / changed).open("a") as file:
        file.write("\n# changed\n")

    assert checkout.install()[0] == 0
    assert checkout.calls() == [RUNTIME, PROJECT]


def test_removed_packages_are_installed_again(checkout: Checkout) -> None:
    with_python(checkout)
    checkout.install()
    checkout.calls()
    packages = checkout.folder / ".venv/lib/python3.11/site-packages"
    later = packages.stat().st_mtime + 5  # what removing one does; the shell compares whole seconds
    os.utime(packages, (later, later))

    assert checkout.install()[0] == 0
    assert checkout.calls() == [RUNTIME, PROJECT]


def test_half_made_environments_are_made_again(checkout: Checkout) -> None:
    with_python(checkout)
    (checkout.folder / ".venv/bin").mkdir(parents=True)
    (checkout.folder / ".venv/bin/python").symlink_to("/nowhere/python3")

    assert checkout.install()[0] == 0
    assert checkout.calls() == [VENV, RUNTIME, PROJECT]


def test_a_moved_checkout_gets_a_new_environment(checkout: Checkout, tmp_path: Path) -> None:
    with_python(checkout).install()
    checkout.calls()
    checkout.folder = checkout.folder.rename(tmp_path / "moved")

    assert checkout.install()[0] == 0
    assert checkout.calls() == [VENV, RUNTIME, PROJECT]


def test_a_failed_installation_is_explained_and_tried_again(checkout: Checkout) -> None:
    with_python(checkout)
    (checkout.folder / "no-index").touch()
    status, said = checkout.install()
    (checkout.folder / "no-index").unlink()
    checkout.calls()

    assert status == 1
    assert "out of reach" in said
    assert "sudo apt-get install build-essential" in said
    assert checkout.install()[0] == 0
    assert checkout.calls() == [RUNTIME, PROJECT]


def test_a_developers_environment_stays_one(checkout: Checkout) -> None:
    with_python(checkout)
    checkout.install("requirements.lock")
    checkout.install("requirements-dev.lock")
    assert checkout.calls() == [VENV, RUNTIME, PROJECT, DEVELOPMENT, PROJECT]

    assert checkout.install("requirements.lock") == (0, "")
    assert checkout.install("requirements-dev.lock") == (0, "")
    assert checkout.calls() == []


def test_two_at_once_take_turns(checkout: Checkout) -> None:
    with_python(checkout)

    with checkout.start() as first, checkout.start() as second:
        said = first.communicate(timeout=30)[1] + second.communicate(timeout=30)[1]

    assert (first.returncode, second.returncode) == (0, 0)
    assert "waiting for it" in said
    assert checkout.calls() == [VENV, RUNTIME, PROJECT]


@pytest.mark.parametrize("name", ["scripts/up", "scripts/test", "scripts/install", "scripts/bench", ".ci/run"])
def test_the_scripts_can_be_run(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_lock_files_name_no_place(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()

    assert "Make it again with" in lines[0]
    assert not [line for line in lines if "://" in line or "index-url" in line or "find-links" in line]
    assert any(line.startswith("setuptools==") for line in lines)
