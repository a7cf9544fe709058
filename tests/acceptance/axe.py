"""axe-core, the usual checker of accessibility: fetched by npm for the tests, never part of the project.

It is put into the page by the browser's driver, so the policy of the page stays as it is.
"""

import base64
import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from shutil import which
from typing import Any

import pytest

PACKAGE = "axe-core@4.14.1"
INTEGRITY = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
FETCH_SECONDS = 60
RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(done, error => done({error: String(error)}));
"""
BAD = ("serious", "critical")


def source(cache: Path) -> str:
    """The script; skips the test, saying why, where npm is missing or finds no registry."""
    archive = cache / f"{PACKAGE.replace('@', '-')}.tgz"
    if not archive.exists():
        if which("npm") is None:
            pytest.skip("npm is not installed, so axe-core cannot be fetched")
        try:
            subprocess.run(
                ["npm", "pack", PACKAGE, "--silent", "--fetch-retries=0", "--pack-destination", str(cache)],
                cwd=cache,
                check=True,
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm could not fetch {PACKAGE}: {error.stderr or error}")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert f"sha512-{digest}" == INTEGRITY, f"{archive} is not {PACKAGE}"
    with tarfile.open(archive) as files:
        script = files.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def findings(driver: Any, script: str) -> list[str]:
    """What is serious or critical on the page, and where."""
    driver.execute_script(script)
    result = driver.execute_async_script(RUN)
    assert "error" not in result, result["error"]
    assert result["testEngine"]["version"] == PACKAGE.partition("@")[2]
    return [
        f"{each['impact']} {each['id']}: {each['help']}: {json.dumps([node['html'] for node in each['nodes'][:5]])}"
        f" {each['nodes'][0].get('failureSummary', '')}"
        for each in result["violations"]
        if each["impact"] in BAD
    ]
