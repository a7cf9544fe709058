"""Shared deployments and servers; when a test fails, the logs of the processes that ran are shown with it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aftermath import Aftermath, kill_a_worker_in_a_burst
from browser import Browser, open_browser
from deployment import Deployment
from servers import Receiver
from support.postgres_server import PostgresServer
from troubled_console import Console

LOG_SHOWN = 5_000


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: tmp_path_factory.mktemp("deployment")


@pytest.fixture
def chargeapp(request: pytest.FixtureRequest) -> Deployment:
    """Everything by default, for tests that disturb nobody; on another database if they ask for it."""
    found: Deployment = request.getfixturevalue(f"chargeapp_on_{getattr(request, 'param', 'sqlite')}")
    return found


@pytest.fixture(scope="session")
def chargeapp_on_sqlite(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(data_dir()) as deployment:
        yield deployment.up()


@pytest.fixture(scope="session")
def chargeapp_on_postgresql(data_dir: Callable[[], Path], postgres: PostgresServer) -> Iterator[Deployment]:
    with postgres.new_database() as url, Deployment(data_dir(), DATABASE_URL=url) as deployment:
        yield deployment.up()


@pytest.fixture(scope="module")
def deployment(data_dir: Callable[[], Path], request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Everything, for the tests of one file; the driver with their TOKEN may charge."""
    with Deployment(data_dir()) as deployment:
        deployment.allow(request.module.TOKEN)
        yield deployment.up()


@pytest.fixture
def browser(deployment: Deployment, request: pytest.FixtureRequest) -> Iterator[Browser]:
    with open_browser(deployment.url, request.module.__name__) as browser:
        yield browser


@pytest.fixture(scope="module")
def console(deployment: Deployment, receiver: Receiver) -> Console:
    """Not all went well in it, and nobody gets in without a key."""
    return Console(deployment, receiver)


@pytest.fixture(scope="session")
def aftermath(data_dir: Callable[[], Path], receiver: Receiver) -> Iterator[Aftermath]:
    """Begins as soon as a test asks for it, so that a long one may let it wait its minute meanwhile."""
    with Deployment(data_dir()) as deployment:
        yield kill_a_worker_in_a_burst(deployment.up(), receiver)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        for deployment in Deployment.live:
            report.sections.append((f"log of {deployment.data_dir}", deployment.output()[-LOG_SHOWN:]))
    return report
