"""No secret is checked in, and nothing is installed whose bytes are not pinned. Needs no network."""

import base64
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Published with Standard Webhooks; one that says of itself that it is an example; one that is all the same letter.
EXAMPLES = {
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_" + base64.b64encode(b"an example, never to be used for real").decode(),
    base64.urlsafe_b64encode(b"A" * 32).decode(),
}
PATTERNS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a webhook secret of 24 bytes or more": r"whsec_[A-Za-z0-9+/]{32,}={0,2}",
    "a private webhook key": r"whsk_[A-Za-z0-9+/]{43,}={0,2}",
    "an API key of ours": r"cak_[0-9a-f]{12}_[A-Za-z0-9_-]{43}",
    "a key that seals driver tokens": r"(?<![A-Za-z0-9_/+-])[A-Za-z0-9_-]{43}=(?![A-Za-z0-9=])",
    "an AWS key": r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])",
    "a GitHub token": r"gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,}",
    "a Slack token": r"xox[abprs]-[A-Za-z0-9-]{20,}",
    "a Google key": r"AIza[A-Za-z0-9_-]{35}",
    "a JSON web token": r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a password in a URL": r"\b(?:postgresql|postgres|mysql|rediss?|amqps?)(?:\+\w+)?://[^\s:/@{}<]+:(?!CHANGE-ME)[^\s:/@{}<]{12,}@",
}
LOCKS = {
    "requirements.lock": 20,
    "requirements-dev.lock": 20,
    "requirements-dashboard.lock": 1,
    "requirements-postgres.lock": 1,
    "requirements-kafka.lock": 1,
    "scripts/benching/peers.lock": 20,
}


def files() -> list[Path]:
    """All that is, or would be, checked in."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("This is no Git checkout, so nobody knows which files belong to it.")
    paths = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file() and path.suffix != ".lock"]


def found_in(text: str) -> list[str]:
    return [name for name, each in PATTERNS.items() if set(re.findall(each, text)) - EXAMPLES]


def test_no_secret_is_checked_in() -> None:
    found = {str(path): names for path in files() if (names := found_in(path.read_text(errors="replace")))}

    assert found == {}


def test_every_file_is_looked_at() -> None:
    assert {ROOT / "chargeapp" / "config.py", ROOT / "tests" / "conftest.py", ROOT / "pyproject.toml"} <= set(files())


@pytest.mark.parametrize(
    ("name", "parts"),
    {
        # In parts, so that this file is not found itself.
        "a private key": ("-----BEGIN RSA PRIV", "ATE KEY-----"),
        "a webhook secret of 24 bytes or more": ("whsec_", "A" * 32),
        "a private webhook key": ("whsk_", "A" * 43 + "="),
        "an API key of ours": ("cak_", "0123456789ab_" + "x" * 43),
        "a key that seals driver tokens": ('"' + "A" * 43, '="'),
        "an AWS key": ("AKIA", "IOSFODNN7EXAMPLE"),
        "a GitHub token": ("ghp_", "a" * 36),
        "a Slack token": ("xoxb-", "1" * 24),
        "a Google key": ("AIza", "a" * 35),
        "a JSON web token": ("eyJhbGciOiJIUzI1", "NiJ9.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4"),
        "a password in a URL": ("rediss://user:", "correct-horse-battery@host"),
    }.items(),
)
def test_the_scan_would_find(name: str, parts: tuple[str, ...]) -> None:
    assert name in found_in(f"KEY = {''.join(parts)}\n")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_by_version_and_hash(lock: str) -> None:
    packages = requirements(lock)

    assert len(packages) > LOCKS[lock]
    for text in packages:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s;]+", text), text
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", text), text


def test_the_installation_insists_on_the_hashes() -> None:
    assert "--require-hashes" in (ROOT / "scripts" / "install").read_text()


def test_what_is_installed_is_what_is_pinned() -> None:
    differing = {}
    for text in requirements("requirements-dev.lock"):
        if ";" in text.partition("--hash")[0]:
            continue  # for other platforms only, or perhaps
        name, _, pinned = text.split()[0].partition("==")
        try:
            found = version(name.partition("[")[0])
        except PackageNotFoundError:
            found = "missing"
        if found != pinned:
            differing[name] = f"{found} instead of {pinned}"

    assert differing == {}


def requirements(lock: str) -> list[str]:
    lines = [line for line in (ROOT / lock).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]
