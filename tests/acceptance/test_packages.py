"""The sdist, the wheel, and the image's build steps: what they make runs far from any checkout."""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from deployment import ROOT, Deployment, stop
from servers import Receiver

from chargeapp import __version__

DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
_, BUILD, IMAGE = DOCKERFILE.replace("\\\n", "").split("\nFROM ")
PACKAGES = ("chargeapp", "jobs")
BUILD_SECONDS = 300


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=BUILD_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def checked_in(*names: str) -> set[str]:
    """Those of Git, or where there is none, those that are there."""
    if (ROOT / ".git").exists():
        return set(run("git", "ls-files", "--cached", "--others", "--exclude-standard", *names, cwd=ROOT).splitlines())
    paths = (path for name in names for path in (ROOT / name).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made in a copy, because building leaves things behind; unpacked."""
    directory = tmp_path_factory.mktemp("sdist")
    for name in checked_in("."):
        if (ROOT / name).is_file():
            (directory / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / "copy" / name)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", directory, cwd=directory / "copy")
    with tarfile.open(directory / f"chargeapp-{__version__}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return directory / f"chargeapp-{__version__}"


@pytest.fixture(scope="module")
def image(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the Dockerfile's build was done step by step, with what it copies taken from the sdist."""
    directory = tmp_path_factory.mktemp("image")
    source = directory / "src"
    source.mkdir()
    for instruction, rest in re.findall(r"^(COPY|RUN) (.*)$", BUILD, re.MULTILINE):
        if instruction == "COPY":
            *names, _ = rest.split()
            for name in names:
                kind = shutil.copytree if (sdist / name).is_dir() else shutil.copy
                kind(sdist / name, source / name)
        else:
            command = rest.replace("/opt/", f"{directory}/opt/").replace("/data", f"{directory}/data")
            command = command.replace("python -m venv", f"{sys.executable} -m venv", 1)
            (directory / "opt").mkdir(exist_ok=True)
            run("/bin/sh", "-c", command, cwd=source, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    return directory


def test_the_sdist_has_all_it_takes_to_build_and_lock(sdist: Path) -> None:
    wanted = checked_in(*PACKAGES) | {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "pyproject.toml",
        "requirements.lock",
        "requirements-dashboard.lock",
        "requirements-postgres.lock",
        "requirements-kafka.lock",
    }

    assert [name for name in sorted(wanted) if not (sdist / name).is_file()] == []


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(image: Path) -> None:
    with zipfile.ZipFile(image / "src" / "dist" / f"chargeapp-{__version__}-py3-none-any.whl") as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        told = email.message_from_bytes(wheel.read(f"chargeapp-{__version__}.dist-info/METADATA"))

    assert names == checked_in(*PACKAGES)
    assert (told["Name"], told["Version"], told["Requires-Python"]) == ("chargeapp", __version__, ">=3.11")
    assert {"postgres", "kafka"} <= set(told.get_all("Provides-Extra", []))


def test_everything_runs_from_the_wheel_and_calls_back(
    image: Path, data_dir: Callable[[], Path], receiver: Receiver
) -> None:
    program = image / "opt" / "chargeapp" / "bin" / "chargeapp"
    elsewhere = image / "data"
    with Deployment(data_dir()) as deployment:
        with deployment.log.open("ab") as log:
            process = subprocess.Popen(
                [program, "up", "--no-demo"],
                cwd=elsewhere,
                env=deployment.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deployment.processes.append(process)
        deployment.until(lambda: deployment.health()["status"] == "UP", deployment.output)
        path = receiver.path()
        request_id = deployment.submit("driver-token-of-a-wheel-0001", receiver.url(path))
        (arrival,) = receiver.wait_for(path)
        pages = [deployment.get(each) for each in ("/", "/docs", "/openapi.json", "/static/console.css")]
        healthy = subprocess.run(health_check(image), env=deployment.environment, timeout=30).returncode
        stopped = stop(process)
        unhealthy = subprocess.run(
            health_check(image), env=deployment.environment, stderr=subprocess.DEVNULL, timeout=30
        ).returncode

    assert arrival.json["request_id"] == request_id
    assert [each.status_code for each in pages] == [200] * 4
    assert (healthy, stopped, unhealthy) == (0, 0, 1)


def health_check(image: Path) -> list[str]:
    (text,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", IMAGE, re.MULTILINE)
    python, *words = json.loads(text)
    return [str(image / "opt" / "chargeapp" / "bin" / python), *words]


def test_the_image_starts_commands_that_the_wheel_has(image: Path) -> None:
    (entry,) = re.findall(r"^ENTRYPOINT \[\"(.*)\"\]$", IMAGE, re.MULTILINE)
    (command,) = re.findall(r"^CMD \[\"(.*)\"\]$", IMAGE, re.MULTILINE)
    program = image / "opt" / "chargeapp" / "bin" / entry

    said = run(program, command, "--help", cwd=image / "data")
    version = run(program, "--version", cwd=image / "data")

    assert "Run the API" in said
    assert version == f"chargeapp, version {__version__}\n"


def test_the_image_is_nobodys_root_and_stops_as_our_processes_do() -> None:
    assert re.findall(r"^(USER|STOPSIGNAL) (.*)$", IMAGE, re.MULTILINE) == [
        ("USER", "10001:10001"),
        ("STOPSIGNAL", "SIGTERM"),
    ]
