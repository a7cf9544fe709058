"""Shared by tests that need an application and no process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from support.builders import new_runtime
from support.callers import open_api
from support.console import Visitor

from chargeapp.runtime import Runtime


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """Without Redis; a file whose tests need one has its own."""
    with new_runtime(tmp_path) as runtime:
        yield runtime


@pytest.fixture
def visitor(runtime: Runtime) -> Visitor:
    """Logged in as an admin."""
    return Visitor(runtime)


@pytest.fixture
def console(runtime: Runtime) -> tuple[Runtime, FlaskClient]:
    """Open, because there is no key yet."""
    return runtime, open_api(runtime)
