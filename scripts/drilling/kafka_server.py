"""A Kafka of one's own, of its published jars: one broker that is its own controller, on free ports of loopback."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from drilling.deployment import free_port

POM = Path(__file__).parent / "kafka" / "pom.xml"
# Made once for each pom; the jars themselves are in Maven's own repository.
RESOLVE_SECONDS = 300
START_SECONDS = 120.0
STOP_SECONDS = 30.0
JAVA = ["java", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
CLUSTER = "AAAAAAAAQACAAAAAAAAAAQ"
LOGGING = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


def find_kafka() -> str:
    """The class path; raises LookupError, which says what to do."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        raise LookupError(f"{' and '.join(missing)} not installed. On Debian or Ubuntu: sudo apt-get install maven")
    with tempfile.NamedTemporaryFile("r") as found:
        command: list[str | Path] = [
            "mvn",
            "-B",
            "-ntp",
            "-f",
            POM,
            "dependency:build-classpath",
            f"-Dmdep.outputFile={found.name}",
        ]
        if _runs([*command, "-o", "-q"]):
            return found.read()
        print("Maven fetches the jars of Kafka, about 60 MB, once ...", file=sys.stderr, flush=True)
        if _runs(command):
            return found.read()
    raise LookupError(f"Maven cannot get the jars of Kafka within {RESOLVE_SECONDS} s: mvn -f {POM} dependency:resolve")


def _runs(command: list[str | Path]) -> bool:
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=RESOLVE_SECONDS, check=False)  # noqa: S603 - ours
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


class KafkaServer:
    """May be stopped and started again, and keeps what it has. `settings` may be changed before `initialize`."""

    def __init__(self, class_path: str) -> None:
        self._class_path = class_path
        self.directory = Path(tempfile.mkdtemp(prefix="kafka-"))
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._settings_file = self.directory / "server.properties"
        controller = f"127.0.0.1:{free_port()}"
        self.settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
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

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def version(self) -> str:
        found = re.search(r"/kafka_[\d.]+-([\d.]+)\.jar", self._class_path)
        return found[1] if found else "of another kind"

    def initialize(self) -> None:
        self._settings_file.write_text("\n".join(f"{name}={value}" for name, value in self.settings.items()))
        words = ("format", "-t", CLUSTER, "-c", str(self._settings_file))
        if self._spawn("kafka.tools.StorageTool", *words).wait(START_SECONDS):
            raise RuntimeError(f"Kafka cannot be prepared:\n{self._log()}")

    def start(self) -> None:
        self._process = self._spawn("kafka.Kafka", str(self._settings_file))
        give_up_at = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"Kafka does not start:\n{self._log()}")
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """SIGKILL: as when its machine dies."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(STOP_SECONDS)
            self._process = None

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self, *words: str) -> "subprocess.Popen[bytes]":
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - jars that Maven has checked
                [*JAVA, LOGGING, "-cp", self._class_path, *words],
                cwd=self.directory,
                stdout=log,
                stderr=log,
                # Ctrl-C is for whoever uses it, who then stops it last.
                start_new_session=True,
            )

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _log(self) -> str:
        return (self.directory / "log").read_text()[-5000:]
