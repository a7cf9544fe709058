"""The verifiers of docs/verifying-callbacks.md, copied from there and run, on callbacks that we signed."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chargeapp.security.signatures import Kind, Signer, new_secret, verification_key

PAGE = Path(__file__).parents[2] / "docs" / "verifying-callbacks.md"
BODY = '{"status":"allowed","reason":"Öl"}'.encode()
SECONDS = 300.0


@dataclass(frozen=True)
class Case:
    """What arrives, and whether it is genuine."""

    name: str
    headers: dict[str, str]
    body: bytes
    genuine: bool


def cases(secret: str) -> list[Case]:
    now = datetime.now(UTC)
    genuine = Case("genuine", Signer(secret).headers("req-1", BODY, now), BODY, True)

    def headers(**changes: str) -> dict[str, str]:
        return genuine.headers | {f"webhook-{name}": value for name, value in changes.items()}

    signature = genuine.headers["webhook-signature"]
    both = Signer(new_secret(), secret).headers("req-1", BODY, now)
    other = Signer(new_secret(), new_secret(Kind.ED25519)).headers("req-1", BODY, now)
    old = Signer(secret).headers("req-1", BODY, now - timedelta(minutes=6))
    early = Signer(secret).headers("req-1", BODY, now + timedelta(minutes=6))
    return [
        genuine,
        Case("old secret in second place", both, BODY, True),
        Case("behind an Ed25519 signature", headers(signature=f"v1a,AAAA {signature}"), BODY, True),
        replace(genuine, name="tampered body", body=BODY.replace(b"allowed", b"unknown"), genuine=False),
        replace(genuine, name="empty body", body=b"", genuine=False),
        Case("other id", headers(id="req-2"), BODY, False),
        Case("other time", headers(timestamp=str(int(now.timestamp()) - 1)), BODY, False),
        Case("too old", old, BODY, False),
        Case("from the future", early, BODY, False),
        Case("no number as time", headers(timestamp="now"), BODY, False),
        Case("no time", headers(timestamp=""), BODY, False),
        Case("other secrets", other, BODY, False),
        Case("no signature", headers(signature=""), BODY, False),
        Case("only the version", headers(signature="v1,"), BODY, False),
        Case("cut signature", headers(signature=signature[:-8]), BODY, False),
        Case("no headers", {}, BODY, False),
    ]


def code(language: str, *, nth: int = 0) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return str(found[nth])


def needs(program: str, hint: str = "") -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed here, so this verifier cannot be run. {hint}")
    return found


def run(*command: str | Path, cwd: Path, given: str = "") -> str:
    done = subprocess.run(command, cwd=cwd, input=given, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_python(directory: Path, given: str, *, nth: int = 0, function: str = "is_genuine") -> str:
    (directory / "verify.py").write_text(
        code("python", nth=nth)
        + "\n\nimport json, sys\n"
        + "for case in json.load(sys.stdin):\n"
        + f"    print({function}(case['secret'], case['headers'], bytes.fromhex(case['body'])))\n"
    )
    # Only the standard library where the page says so.
    isolated = ["-S"] if nth == 0 else []
    return run(sys.executable, *isolated, "-W", "error", "verify.py", cwd=directory, given=given)


def in_javascript(directory: Path, given: str) -> str:
    node = needs("node")
    (directory / "verify.js").write_text(
        code("javascript")
        + """
for (const each of JSON.parse(require("node:fs").readFileSync(0))) {
  console.log(isGenuine(each.secret, each.headers, Buffer.from(each.body, "hex")));
}
"""
    )
    return run(node, "verify.js", cwd=directory, given=given)


def in_java(directory: Path, given: str) -> str:
    javac = needs("javac", "It comes with a JDK.")
    (directory / "Callbacks.java").write_text(code("java"))
    (directory / "Main.java").write_text(MAIN_JAVA)
    run(javac, "Callbacks.java", "Main.java", cwd=directory)
    return run(needs("java"), "-cp", ".", "Main", cwd=directory, given=as_lines(given))


def in_kotlin(directory: Path, given: str) -> str:
    kotlinc = needs("kotlinc", "The test of the Java verifier runs the same calls of the same library.")
    (directory / "verify.kt").write_text(code("kotlin") + MAIN_KOTLIN)
    run(kotlinc, "verify.kt", "-include-runtime", "-d", "verify.jar", cwd=directory)
    return run(needs("java"), "-jar", "verify.jar", cwd=directory, given=as_lines(given))


def in_go(directory: Path, given: str) -> str:
    go = needs("go")
    (directory / "verify.go").write_text(code("go"))
    (directory / "main.go").write_text(MAIN_GO)
    return run(go, "run", "verify.go", "main.go", cwd=directory, given=given)


def as_lines(given: str) -> str:
    """For languages whose standard library reads no JSON: hex words, one case a line."""
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    lines = []
    for case in json.loads(given):
        words = [case["secret"], *(case["headers"].get(name, "") for name in names)]
        lines.append(",".join([*(f"x{word.encode().hex()}" for word in words), f"x{case['body']}"]))
    return "\n".join(lines) + "\n"


MAIN_JAVA = """
import java.io.*;
import java.util.*;

class Main {
    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null; ) {
            String[] words = line.split(",");
            Map<String, String> headers = new HashMap<>();
            String[] names = {"webhook-id", "webhook-timestamp", "webhook-signature"};
            for (int i = 0; i < 3; i++) {
                if (words[i + 1].length() > 1) headers.put(names[i], new String(hex(words[i + 1])));
            }
            System.out.println(Callbacks.isGenuine(new String(hex(words[0])), headers, hex(words[4])));
        }
    }

    static byte[] hex(String word) {
        byte[] found = new byte[(word.length() - 1) / 2];
        for (int i = 0; i < found.length; i++) {
            found[i] = (byte) Integer.parseInt(word.substring(2 * i + 1, 2 * i + 3), 16);
        }
        return found;
    }
}
"""
MAIN_KOTLIN = """
fun hex(word: String) = word.drop(1).chunked(2).map { it.toInt(16).toByte() }.toByteArray()

fun main() {
    for (line in generateSequence(::readLine)) {
        val words = line.split(",")
        val names = listOf("webhook-id", "webhook-timestamp", "webhook-signature")
        val given = names.zip(words.subList(1, 4)).filter { it.second.length > 1 }
        val headers = given.associate { it.first to String(hex(it.second)) }
        println(isGenuine(String(hex(words[0])), headers, hex(words[4])))
    }
}
"""
MAIN_GO = """package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	var cases []struct {
		Secret  string
		Headers map[string]string
		Body    string
	}
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	for _, each := range cases {
		body, _ := hex.DecodeString(each.Body)
		fmt.Println(isGenuine(each.Secret, each.Headers, body))
	}
}
"""


def described(secret: str, found: list[Case]) -> str:
    return json.dumps([{"secret": secret, "headers": each.headers, "body": each.body.hex()} for each in found])


@pytest.mark.parametrize(
    "verify",
    [in_python, in_javascript, in_java, in_kotlin, in_go],
    ids=["Python", "JavaScript", "Java", "Kotlin", "Go"],
)
def test_a_verifier_accepts_what_we_sign_and_nothing_else(verify: Callable[..., str], tmp_path: Path) -> None:
    secret = new_secret()
    tried = cases(secret)

    answers = verify(tmp_path, described(secret, tried)).split()

    verdicts = {each.name: answer.lower() == "true" for each, answer in zip(tried, answers, strict=True)}
    assert verdicts == {each.name: each.genuine for each in tried}


def test_the_ed25519_verifier_accepts_what_we_sign_and_nothing_else(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    secret, other = new_secret(Kind.ED25519), new_secret(Kind.ED25519)
    tried = [
        Case("genuine", Signer(secret).headers("req-1", BODY, now), BODY, True),
        Case("second", Signer(new_secret(), other, secret).headers("req-1", BODY, now), BODY, True),
        Case("tampered body", Signer(secret).headers("req-1", BODY, now), BODY + b" ", False),
        Case("too old", Signer(secret).headers("req-1", BODY, now - timedelta(minutes=6)), BODY, False),
        Case("other key", Signer(other).headers("req-1", BODY, now), BODY, False),
        Case("no headers", {}, BODY, False),
    ]

    given: Any = described(verification_key(secret), tried)
    answers = in_python(tmp_path, given, nth=1, function="is_genuine_ed25519").split()

    assert [answer == "True" for answer in answers] == [each.genuine for each in tried]
