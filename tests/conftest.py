"""What every test relies on: no setting leaks in from the shell that runs the tests."""

from collections.abc import Iterator
from dataclasses import fields

import pytest

from chargeapp.config import ALIASES, Settings


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: waits for a period that the contract fixes")


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    names = {field.name.upper() for field in fields(Settings)} | set(ALIASES) | {"CHARGEAPP_CONFIG"}
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delenv(name, raising=False)
        yield
