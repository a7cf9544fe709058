"""A real Kafka of its published jars: one broker that is its own controller, on free ports of loopback."""

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.builders import eventually
from support.certificates import Authority
from support.ports import free_port

POM = Path(__file__).parent / "kafka" / "pom.xml"
# Made once for each pom; the jars themselves are in Maven's own repository.
RESOLVE_SECONDS = 300
START_SECONDS = 60.0
JAVA = ["java", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
CLUSTER = "AAAAAAAAQACAAAAAAAAAAQ"
USER, PASSWORD = "chargeapp", "password-of-the-tests"
LOGIN_MODULE = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
LOGGING = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


def needed_kafka() -> str:
    """The class path; skips the test where it cannot be had."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed. On Debian or Ubuntu: sudo apt-get install maven")
    with tempfile.NamedTemporaryFile("r") as found:
        command = ["mvn", "-B", "-ntp", "-f", POM, "dependency:build-classpath", f"-Dmdep.outputFile={found.name}"]
        if _runs([*command, "-o", "-q"]):
            return found.read()
        print("Maven fetches the jars of Kafka, about 60 MB, once ...", flush=True)
        if _runs(command):
            return found.read()
    pytest.skip(f"Maven cannot get the jars of Kafka within {RESOLVE_SECONDS} s: mvn -f {POM} dependency:resolve")


def _runs(command: list[str | Path]) -> bool:
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, timeout=RESOLVE_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


class KafkaServer:
    """A context manager; may be stopped and started again in between, and keeps what it has."""

    def __init__(self, class_path: str) -> None:
        self._class_path = class_path
        self.directory = Path(tempfile.mkdtemp(prefix="kafka-"))
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.address_with_login = f"127.0.0.1:{free_port()}"
        self.authority = Authority(self.directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = self.directory / "server.properties"
        self._write_settings(f"127.0.0.1:{free_port()}")

    def _write_settings(self, controller: str) -> None:
        certificate, key = self.authority.issue()
        (self.directory / "both.pem").write_text(key.read_text() + certificate.read_text())
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{self.address},SASL_SSL://{self.address_with_login},CONTROLLER://{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": LOGIN_MODULE,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.directory / "both.pem"),
            "log.dirs": str(self.directory / "data"),
            "auto.create.topics.enable": "false",
            # One broker can hold one copy, and nobody else will come into a group while it begins.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # Small machines have little memory.
            "log.cleaner.dedupe.buffer.size": str(2 * 1024 * 1024),
        }
        self._settings.write_text("\n".join(f"{name}={value}" for name, value in settings.items()))

    def start(self) -> None:
        self._process = self._spawn("kafka.Kafka", str(self._settings))
        eventually(self._listens, f"Kafka does not start: {self._log()}", START_SECONDS)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """SIGKILL: as when its machine dies."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def _format(self) -> None:
        made = self._spawn("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(self._settings))
        assert made.wait(START_SECONDS) == 0, self._log()

    def _spawn(self, *words: str) -> "subprocess.Popen[bytes]":
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [*JAVA, LOGGING, "-cp", self._class_path, *words], cwd=self.directory, stdout=log, stderr=log
            )

    def _listens(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self._log()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _log(self) -> str:
        return (self.directory / "log").read_text()[-5000:]

    def __enter__(self) -> "KafkaServer":
        self._format()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory)
