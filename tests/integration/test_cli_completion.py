"""The TAB key: shells get a script, and answers that come without the database."""

import json
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
from cli_support import chargeapp, data_dir

from chargeapp.commands import COMMANDS

__all__ = ["data_dir"]

SHELLS = ("bash", "zsh", "fish")


def answer(*words: str) -> list[str]:
    """What bash would be told for the last of the words."""
    program = "from chargeapp.commands import main; main()"
    environment = {
        "_CHARGEAPP_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["chargeapp", *words]),
        "COMP_CWORD": str(len(words)),
    }
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_that_the_shell_can_read(data_dir: Path, tmp_path: Path, shell: str) -> None:
    script = chargeapp("completion", shell).out

    assert json.loads(chargeapp("completion", shell, "--json").out) == {"shell": shell, "script": script.rstrip("\n")}
    assert f"_CHARGEAPP_COMPLETE={shell}_complete" in script
    if (program := which(shell)) is not None:
        (tmp_path / "script").write_text(script)
        assert subprocess.run([program, "-n", tmp_path / "script"], capture_output=True).returncode == 0
    assert not data_dir.exists()


@pytest.mark.skipif(which("bash") is None, reason="bash is not installed")
def test_bash_completes_with_the_script(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(chargeapp("completion", "bash").out)
    bin_ = Path(sys.executable).parent
    asked = f"""
        PATH={bin_}:$PATH; source {tmp_path}/script
        COMP_WORDS=(chargeapp requests l); COMP_CWORD=2; _chargeapp_completion chargeapp; echo "${{COMPREPLY[@]}}"
    """

    ended = subprocess.run(["bash", "--norc", "-c", asked], capture_output=True, text=True, check=True)

    assert ended.stdout.split() == ["list"]


def test_commands_options_and_values_are_completed(data_dir: Path) -> None:
    assert answer("") == list(COMMANDS)
    assert answer("requests", "list", "--st") == ["--state", "--station"]
    assert answer("worker", "de") == ["delivery-events"]
    assert not data_dir.exists()
