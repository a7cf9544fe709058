"""What one caller posts, no other caller can see, change or disturb; operators see everything."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from support.builders import accept, attempt, decide, end, facts
from support.callers import API, BODY, api_of, bearer, make_key, revoke

from chargeapp.clock import utcnow
from chargeapp.domain.charging_session import Event
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope

SUBMIT, READ, OPERATE, ADMIN = Scope


@dataclass(frozen=True)
class Api:
    """An API with two callers, and the ids of what each has posted."""

    runtime: Runtime
    client: FlaskClient
    hub: dict[str, str]
    fleet: dict[str, str]
    operator: dict[str, str]

    def post(self, headers: dict[str, str], key: str | None = None) -> tuple[int, str]:
        more = {"Idempotency-Key": key} if key else {}
        answer = self.client.post(API, json=BODY, headers=headers | more)
        return answer.status_code, answer.get_json().get("requestId", "")

    def listed(self, headers: dict[str, str], **query: str | int) -> list[str]:
        answer = self.client.get(API, headers=headers, query_string=query)
        return [each["requestId"] for each in answer.get_json()["requests"]]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with api_of(tmp_path) as (runtime, client):
        yield Api(
            runtime,
            client,
            bearer(make_key(runtime, SUBMIT, READ, caller="hub")),
            bearer(make_key(runtime, SUBMIT, READ, caller="fleet")),
            bearer(make_key(runtime, OPERATE, caller="staff")),
        )


def test_a_caller_lists_and_sees_its_own_requests_only(api: Api) -> None:
    _, of_hub = api.post(api.hub)
    _, of_fleet = api.post(api.fleet)

    assert api.listed(api.hub) == [of_hub]
    assert api.listed(api.fleet) == [of_fleet]
    assert api.client.get(f"{API}/{of_hub}", headers=api.hub).status_code == 200
    assert api.client.get(f"{API}/{of_hub}", headers=api.fleet).status_code == 404


def test_what_belongs_to_others_looks_like_what_does_not_exist(api: Api) -> None:
    _, of_hub = api.post(api.hub)

    others = api.client.get(f"{API}/{of_hub}", headers=api.fleet).get_json()
    nobodys = api.client.get(f"{API}/req-{'0' * 32}", headers=api.fleet).get_json()

    assert others | {"timestamp": 0} == nobodys | {"timestamp": 0}


def test_a_foreign_cursor_opens_nothing(api: Api) -> None:
    older = [api.post(api.hub)[1] for _ in range(2)]
    _, of_fleet = api.post(api.fleet)

    assert api.listed(api.hub, cursor=of_fleet) == older[::-1]
    assert api.listed(api.fleet, cursor=older[1]) == []


def test_all_keys_of_a_caller_see_the_same(api: Api) -> None:
    second = bearer(make_key(api.runtime, SUBMIT, READ, caller="hub"))
    _, first = api.post(api.hub)
    _, other = api.post(second)

    assert api.listed(api.hub) == api.listed(second) == [other, first]


def test_what_a_revoked_key_posted_stays_with_its_caller(api: Api) -> None:
    old = make_key(api.runtime, SUBMIT, caller="hub")
    _, request_id = api.post(bearer(old))

    revoke(api.runtime, old)

    assert api.listed(api.hub) == [request_id]


def test_an_operator_sees_the_requests_of_all(api: Api) -> None:
    ids = [api.post(headers)[1] for headers in (api.hub, api.fleet)]

    assert api.listed(api.operator) == ids[::-1]
    assert [api.client.get(f"{API}/{each}", headers=api.operator).status_code for each in ids] == [200, 200]


def test_what_was_posted_before_there_were_keys_is_for_operators(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, client):
        request_id = client.post(API, json=BODY).get_json()["requestId"]
        hub, staff = (bearer(make_key(runtime, scope, caller=scope)) for scope in (READ, OPERATE))

        seen = [len(client.get(API, headers=each).get_json()["requests"]) for each in (hub, staff)]
        codes = [client.get(f"{API}/{request_id}", headers=each).status_code for each in (hub, staff)]

    assert (seen, codes) == ([0, 1], [404, 200])


def test_idempotency_keys_of_two_callers_do_not_meet(api: Api) -> None:
    first = api.post(api.hub, "order-1")
    second = api.post(api.fleet, "order-1")
    again = api.post(api.hub, "order-1")

    assert first[0] == second[0] == again[0] == 200
    assert first == again
    assert first[1] != second[1]


def test_idempotency_keys_of_two_keys_of_a_caller_do_meet(api: Api) -> None:
    second = bearer(make_key(api.runtime, SUBMIT, caller="hub"))

    assert api.post(api.hub, "order-1") == api.post(second, "order-1")


def test_only_its_caller_and_operators_have_a_callback_sent_again(api: Api) -> None:
    now = utcnow() - timedelta(seconds=1)
    database, vault = api.runtime.database, api.runtime.vault
    ids = accept(database, 2, now=now, vault=vault, caller="hub")
    decide(database, now=now)
    attempt(database, now=now)
    end(database, now=now)

    def again(request_id: str, headers: dict[str, str]) -> int:
        return api.client.post(f"{API}/{request_id}/redelivery", headers=headers).status_code

    foreign = [again(each, api.fleet) for each in ids]
    reader = again(ids[0], bearer(make_key(api.runtime, READ, caller="hub")))
    own, operator = again(ids[0], api.hub), again(ids[1], api.operator)

    assert (foreign, reader, own, operator) == ([404, 404], 403, 202, 202)
    assert all(len(facts(database, each, Event.REDELIVERY_REQUESTED)) == 1 for each in ids)


def test_the_list_of_a_caller_is_read_from_an_index(api: Api) -> None:
    api.post(api.hub)
    with api.runtime.database.reading() as session:
        plan = session.execute(
            text(
                "EXPLAIN QUERY PLAN SELECT * FROM charging_session_requests WHERE caller = 'hub' AND id < 'req-9'"
                " ORDER BY id DESC LIMIT 50"
            )
        ).all()

    assert "USING INDEX ix_requests_caller" in str(plan)
    assert "TEMP B-TREE" not in str(plan)
