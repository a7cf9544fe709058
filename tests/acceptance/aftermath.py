"""A worker killed in the middle of a burst. What it held is leased for a minute, while other tests go on."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from deployment import Deployment
from servers import Answer, Receiver

BURST = 100


@dataclass(frozen=True)
class Aftermath:
    deployment: Deployment
    receiver: Receiver
    path: str
    accepted: set[str]


def kill_a_worker_in_a_burst(deployment: Deployment, receiver: Receiver) -> Aftermath:
    path = receiver.path(Answer(204, delay_seconds=0.3))
    with ThreadPoolExecutor(1) as pool:
        burst = pool.submit(submit_burst, deployment, receiver.url(path), BURST)
        receiver.wait_for(path, BURST // 4)
        deployment.kill("worker callbacks")
        return Aftermath(deployment, receiver, path, accepted=burst.result())


def submit_burst(deployment: Deployment, url: str, count: int) -> set[str]:
    tokens = [f"driver-token-of-a-burst-{number:04}" for number in range(count)]
    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(lambda token: deployment.submit(token, url), tokens))
