"""What `chargeapp doctor` looks at: each check says what it found, and what to do where that is not well."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    check: str
    status: Status
    found: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{self.status:<4}  {self.check:<15} {self.found}"
        return f"{line} → {self.advice}" if self.advice else line


def ok(check: str, found: str) -> Finding:
    return Finding(check, Status.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Status.WARN, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Status.FAIL, found, advice)
