"""Shared deployments and servers; when a test fails, the logs of the processes that ran are shown with it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aftermath import Aftermath, kill_a_worker_in_a_burst
from browser import Browser, open_browser
from deployment import Deployment
from servers import Receiver
from stacks import DEFAULT, STACKS, Kafkas, Stack
from support.kafka_server import needed_kafka
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of `chargeapp` are of promises that hold on every stack; all of them are quick."""
    if "chargeapp" in metafunc.fixturenames:
        asked = metafunc.config.getoption("stack")
        metafunc.parametrize("chargeapp", [asked] if asked else STACKS, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    stack = config.getoption("stack") or DEFAULT
    for item in items:
        for mark in item.iter_markers("only_on"):
            if mark.args[0] not in stack.split("+"):
                item.add_marker(pytest.mark.skip(reason=f"not on {stack}: {mark.kwargs['reason']}"))


def stack_of(request: pytest.FixtureRequest, name: str) -> Stack:
    return Stack(
        request.getfixturevalue("postgres") if "postgresql" in name else None,
        request.getfixturevalue("kafkas") if "kafka" in name else None,
    )


@pytest.fixture(scope="session")
def kafkas() -> Iterator[Kafkas]:
    with Kafkas(needed_kafka()) as kafkas:
        yield kafkas


@pytest.fixture(scope="session", autouse=True)
def stack(request: pytest.FixtureRequest) -> None:
    Deployment.stack = stack_of(request, request.config.getoption("stack") or DEFAULT)


@pytest.fixture
def chargeapp(request: pytest.FixtureRequest) -> Deployment:
    """Everything by default, for tests that disturb nobody."""
    found: Deployment = request.getfixturevalue(f"on_{request.param.replace('+', '_')}")
    return found


@pytest.fixture(scope="session")
def on_sqlite_rq(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(data_dir(), Stack()) as deployment:
        yield deployment.up()


@pytest.fixture(scope="session")
def on_postgresql_rq(data_dir: Callable[[], Path], postgres: PostgresServer) -> Iterator[Deployment]:
    with Deployment(data_dir(), Stack(postgres)) as deployment:
        yield deployment.up()


@pytest.fixture(scope="session")
def on_postgresql_kafka(data_dir: Callable[[], Path], postgres: PostgresServer, kafkas: Kafkas) -> Iterator[Deployment]:
    with Deployment(data_dir(), Stack(postgres, kafkas)) as deployment:
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
