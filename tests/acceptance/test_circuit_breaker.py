"""A service that keeps failing is left alone for the 30 seconds of the contract, then tried again."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment
from servers import AuthorizationStub, Receiver

FAILURES = 5
OPEN_SECONDS = 30

numbers = count()


@pytest.fixture
def service() -> Iterator[AuthorizationStub]:
    service = AuthorizationStub()
    yield service
    service.close()


@pytest.fixture
def guarded(service: AuthorizationStub, data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(data_dir(), AUTHORIZATION_SERVICE_URL=service.url, AUTHORIZATION_MAX_RETRIES="0") as deployment:
        yield deployment.up()


@pytest.mark.slow
@pytest.mark.usefixtures("aftermath")  # its minute passes meanwhile
def test_five_failures_open_the_circuit_which_closes_by_itself(
    guarded: Deployment, service: AuthorizationStub, receiver: Receiver
) -> None:
    def decision() -> tuple[str, str | None]:
        path = receiver.path()
        guarded.submit(f"driver-token-of-the-circuit-{next(numbers):04}", receiver.url(path))
        told: dict[str, Any] = receiver.wait_for(path)[0].json
        return told["status"], told["reason"]

    def breaker() -> dict[str, Any]:
        found: dict[str, Any] = guarded.health()["components"]["authorization"]
        return found

    service.answers("driver", 500)
    assert [decision() for _ in range(FAILURES)] == [("unknown", "authorization_error")] * FAILURES

    service.answers("driver", "allowed")
    assert decision() == ("unknown", "circuit_open")
    assert len(service.arrivals) == FAILURES
    guarded.until(lambda: breaker()["details"]["circuitBreaker"] == "open", "health does not tell")
    assert breaker()["status"] == guarded.health()["status"] == "DEGRADED"

    guarded.until(lambda: decision() == ("allowed", None), "the circuit does not close", 2 * OPEN_SECONDS)
    probe = service.arrivals[FAILURES]
    assert probe.at - service.arrivals[FAILURES - 1].at >= OPEN_SECONDS
    guarded.until(lambda: guarded.health()["status"] == "UP", "health does not tell")
