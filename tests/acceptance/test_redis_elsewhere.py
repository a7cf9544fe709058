"""A Redis that others run: encrypted, watched by Sentinels, or a Valkey. Everything works as with our own."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from aftermath import submit_burst
from deployment import Deployment
from servers import Answer, Receiver
from support.certificates import Authority
from support.ports import free_port
from support.redis_elsewhere import PASSWORD, Watched, plain_server, tls_server

pytestmark = pytest.mark.only_on("rq", reason="about Redis")
COUNT = 300
SECONDS = 90.0


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with Watched(tmp_path, free_port) as started:
        yield started


def delivered(deployment: Deployment) -> int:
    return deployment.requests_with_events("CallbackDeliverySucceeded")


def one_request_is_delivered(deployment: Deployment, receiver: Receiver) -> None:
    path = receiver.path()
    request_id = deployment.submit("driver-token-of-another-redis", receiver.url(path))
    deployment.wait_until(request_id, state="delivered")
    assert len(receiver.at(path)) == 1


@pytest.mark.parametrize("program", ["redis-server", "valkey-server"])
def test_with_a_password_on_a_port(
    program: str, tmp_path: Path, data_dir: Callable[[], Path], receiver: Receiver
) -> None:
    with plain_server(tmp_path / "server", free_port(), program) as server:
        url = f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
        with Deployment(data_dir(), REDIS_URL=url, RATE_LIMIT="1000/minute") as deployment:
            one_request_is_delivered(deployment.up(), receiver)
            assert PASSWORD not in deployment.output()
        with redis.Redis(port=server.port, password=PASSWORD) as client:
            assert [key for key in client.scan_iter() if key.startswith(b"LIMITS")]


def test_with_tls_and_a_user(tmp_path: Path, data_dir: Callable[[], Path], receiver: Receiver) -> None:
    authority = Authority(tmp_path)
    with tls_server(tmp_path / "server", free_port(), authority) as server:
        url = f"rediss://chargeapp:{PASSWORD}@localhost:{server.port}/0?ssl_ca_certs={authority.certificate}"
        with Deployment(data_dir(), REDIS_URL=url, RATE_LIMIT="1000/minute") as deployment:
            one_request_is_delivered(deployment.up(), receiver)
            assert PASSWORD not in deployment.output()


def test_nothing_is_lost_when_a_replica_takes_over_in_the_middle(
    watched: Watched, data_dir: Callable[[], Path], receiver: Receiver
) -> None:
    path = receiver.path(Answer(204, delay_seconds=0.5))
    with Deployment(data_dir(), REDIS_URL=watched.url) as deployment, ThreadPoolExecutor(1) as pool:
        deployment.up()
        burst = pool.submit(submit_burst, deployment, receiver.url(path), COUNT)
        receiver.wait_for(path, COUNT // 10)

        watched.kill_master()
        done_meanwhile = delivered(deployment)
        accepted = burst.result() | submit_burst(deployment, receiver.url(path), COUNT)
        deployment.until(lambda: delivered(deployment) == 2 * COUNT, "not all delivered", SECONDS)
        deployment.until(lambda: deployment.health()["status"] == "UP", "not healthy", SECONDS)

        assert done_meanwhile < COUNT
        assert set(receiver.by_request(path)) == accepted
        assert all(len(deployment.terminal_events(each)) == 1 for each in accepted)
        assert PASSWORD not in deployment.output()
