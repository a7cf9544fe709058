"""rq-dashboard inside the console: it shows what Redis holds, changes nothing of it, and runs nothing of it."""

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from support.builders import new_runtime
from support.callers import open_api
from support.redis_server import RedisServer

from chargeapp.pipeline import STAGES
from chargeapp.runtime import Runtime
from chargeapp.web import job_dashboard
from chargeapp.web.job_dashboard_app import LOOKING, create_dashboard

QUEUE = STAGES[0].queue
JOB = f"{QUEUE}-{'0' * 32}"
PAGES = (
    "/rq",
    "/rq/0/view/queues",
    "/rq/0/view/workers",
    "/rq/0/view/jobs",
    f"/rq/0/view/jobs/{QUEUE}/started/8/dsc/1",
    f"/rq/0/view/job/{JOB}",
    "/rq/static/css/main.css",
)
DATA = (
    "/rq/0/data/queues.json",
    "/rq/0/data/workers.json",
    f"/rq/0/data/jobs/{QUEUE}/queued/8/asc/1.json",
    f"/rq/0/data/jobs/{QUEUE}/started/8/asc/1.json",
    f"/rq/0/data/job/{JOB}.json",
)
NOT_THERE = (
    "/rq/0/view/job/none",
    "/rq/1/",
    "/rq/9/data/queues.json",
    f"/rq/0/view/jobs/{QUEUE}/nothing/8/asc/1",
    f"/rq/0/view/jobs/{QUEUE}/queued/8/odd/1",
    f"/rq/0/data/jobs/{QUEUE}/queued/x/asc/1.json",
    f"/rq/0/data/jobs/{QUEUE}/queued/8/asc/-1.json",
    f"/rq/0/data/jobs/{QUEUE}/queued/100000/asc/1.json",
    "/rq/0/view/job/\u20ac",
    "/rq/0/view/job/a:b",
    "/rq/%ff",
    "/rq/favicon.ico",
    "/rq/static/../web.py",
)


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


@pytest.fixture
def runtime(tmp_path: Path, server: RedisServer) -> Iterator[Runtime]:
    server.client.flushall()
    with new_runtime(tmp_path, redis_url=server.url) as runtime:
        runtime.transport.publish(STAGES[0], [], JOB, {})
        yield runtime


@pytest.fixture
def client(runtime: Runtime) -> FlaskClient:
    return open_api(runtime)


@pytest.fixture
def busy(runtime: Runtime, server: RedisServer) -> RedisServer:
    """A worker has the job in hand; names of others that ended, and of a job, were left behind."""
    redis = server.client
    redis.sadd("rq:workers", "rq:worker:one", "rq:worker:gone")
    redis.hset("rq:worker:one", mapping={"state": "busy", "queues": QUEUE, "pid": 1, "birth": "2026-01-02T03:04:05Z"})
    redis.sadd("rq:worker:one:executions", f"{JOB}:1", f"{JOB}:2")
    redis.hset(f"rq:execution:{JOB}:1", mapping={"created_at": 1.0, "last_heartbeat": 1.0, "worker_name": "one"})
    redis.zadd(f"rq:wip:{QUEUE}", {f"{JOB}:1": 9e9})
    redis.rpush(f"rq:queue:{QUEUE}", "job-that-is-gone")
    return server


def contents(server: RedisServer) -> dict[bytes, bytes]:
    return {key: server.client.dump(key) for key in server.client.keys("*")}  # type: ignore[misc, union-attr]


def test_a_worker_is_shown_with_the_job_it_has_in_hand(client: FlaskClient, busy: RedisServer) -> None:
    (worker,) = client.get("/rq/0/data/workers.json").get_json()["workers"]

    assert (worker["name"], worker["queues"]) == ("one", [QUEUE])
    assert worker["current_job"]["job_id"] == JOB
    assert worker["current_job"]["call_string"] == f"{QUEUE}: 0 rows"


def test_looking_changes_nothing_in_redis(client: FlaskClient, busy: RedisServer) -> None:
    before = contents(busy)

    answers = {path: client.get(path) for path in (*PAGES, *DATA)}

    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(answers, 200)
    assert contents(busy) == before


def test_what_would_change_something_is_not_there(runtime: Runtime, client: FlaskClient, busy: RedisServer) -> None:
    before = contents(busy)
    rules = [rule for rule in create_dashboard(runtime.redis).url_map.iter_rules() if rule.endpoint not in LOOKING]
    names = {rule.endpoint.partition(".")[2] for rule in rules}
    paths = [re.sub("<[^>]*>", JOB, rule.rule) for rule in rules]

    codes = {client.open(f"/rq{path}", method=method).status_code for path in paths for method in ("GET", "POST")}

    assert names == {
        "delete_job_view", "requeue_job_view", "requeue_all", "empty_queue", "compact_queue", "favicon"
    }  # fmt: skip
    assert codes == {404, 405}
    assert contents(busy) == before


@pytest.mark.parametrize("path", NOT_THERE)
def test_an_address_that_makes_no_sense_is_not_found(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_nothing_that_redis_holds_is_unpickled(client: FlaskClient, busy: RedisServer, tmp_path: Path) -> None:
    planted = pickle.dumps(Planted(tmp_path / "planted"))
    busy.client.hset(f"rq:job:{JOB}", mapping=dict.fromkeys(("data", "meta", "result"), planted))

    codes = [client.get(path).status_code for path in DATA]

    assert codes == [200] * len(DATA)
    assert not (tmp_path / "planted").exists()


def test_scripts_run_only_from_its_own_files_or_with_a_nonce(client: FlaskClient) -> None:
    answers = [client.get("/rq/") for _ in range(2)]
    policies = [answer.headers["Content-Security-Policy"] for answer in answers]

    scripts, others = re.search("script-src ([^;]*)", policies[0]), re.findall("https?:", policies[0])
    nonce = re.search("'nonce-([^']*)'", policies[0])
    assert scripts is not None
    assert nonce is not None
    assert scripts[1].split() == ["'self'", f"'nonce-{nonce[1]}'", "'unsafe-eval'"]
    assert others == []
    assert f'<script nonce="{nonce[1]}">' in answers[0].text
    assert policies[0] != policies[1]


def test_without_redis_it_says_so(tmp_path: Path) -> None:
    with new_runtime(tmp_path) as runtime:
        answers = [open_api(runtime).get(path, headers={"Accept": "text/html"}) for path in ("/rq", *DATA)]

    assert {answer.status_code for answer in answers} == {503}
    assert "Redis does not answer" in answers[0].text


def test_without_the_extra_there_is_no_such_page(
    runtime: Runtime, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 'href="/rq/"' in client.get("/queues").text
    monkeypatch.setattr(job_dashboard, "find_spec", lambda _: None)

    without = open_api(runtime)

    assert without.get("/rq/").status_code == 404
    assert 'href="/rq/"' not in without.get("/queues").text
