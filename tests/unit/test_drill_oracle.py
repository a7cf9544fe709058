"""The drill's oracle can fail: each broken promise, made by hand, is found, and nothing else is."""

import base64
import hashlib
import hmac
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from drilling.oracle import Bounds, Oracle, Surroundings
from drilling.records import Arrival, Event, Post, Records, Request

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes too").decode()
BOUNDS = Bounds(webhook_secret=SECRET)
NOW = 1_800_000_000.0


def arrival(number: int, at: float = 0.0, answer: str = "204", body: str | None = None) -> Arrival:
    said = {"request_id": f"req-{number}", "driver_token": f"drill-allowed-{number}", "status": "allowed"}
    content = json.dumps(said) if body is None else body
    timestamp = str(int(NOW + at))
    signed = f"req-{number}.{timestamp}.{content}".encode()
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signature = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return Arrival(NOW + at, number, f"req-{number}", content, timestamp, signature, answer, "127.0.0.1:1")


def attempted(number: int, attempt: int, at: float = 0.0) -> Event:
    return Event(f"req-{number}", "CallbackAttempted", NOW + at - 0.001, {"round": 1, "attempt": attempt})


def delivered(number: int) -> Event:
    return Event(f"req-{number}", "CallbackDeliverySucceeded", NOW + 1, terminal=True)


def a_good_drill() -> Records:
    """Request 1 was delivered at once, 2 at the second attempt; 3 was posted twice with one key after a reset."""
    return Records(
        posts=[
            Post(0, None, "drill-allowed-0", "400"),
            Post(1, None, "drill-allowed-1", "200", "req-1"),
            Post(2, "key-2", "drill-allowed-2", "200", "req-2"),
            Post(3, "key-3", "drill-allowed-3", "reset"),
            Post(3, "key-3", "drill-allowed-3", "200", "req-3", replayed=True),
        ],
        arrivals=[arrival(1), arrival(2, answer="500"), arrival(2, at=1.05), arrival(3)],
        requests=[Request(f"req-{n}", n, "delivered", "allowed", True, 2 if n == 2 else 1) for n in (1, 2, 3)],
        events=[
            attempted(1, 1),
            delivered(1),
            attempted(2, 1),
            attempted(2, 2, at=1.05),
            delivered(2),
            attempted(3, 1),
            delivered(3),
        ],
    )


def failures(records: Records, around: Surroundings | None = None, bounds: Bounds = BOUNDS) -> set[str]:
    """What does not hold, by the first word of its name."""
    findings = Oracle(records, bounds, around or Surroundings()).judge()
    return {each.name.partition(":")[0] for each in findings if not each.holds}


def lose_one(records: Records) -> None:
    records.posts.append(Post(4, None, "drill-allowed-4", "200", "req-4"))


def lose_its_callback(records: Records) -> None:
    records.arrivals = [each for each in records.arrivals if each.number != 1]


def leave_one_stuck(records: Records) -> None:
    records.requests[0] = replace(records.requests[0], state="decided", ended=False)
    records.events.remove(delivered(1))
    records.open_rows = 1


def bury_one(records: Records) -> None:
    records.dead_rows = 1


def call_back_a_stranger(records: Records) -> None:
    records.arrivals.append(arrival(9))


def store_one_twice(records: Records) -> None:
    records.requests.append(Request("req-1b", 1, "delivered", "allowed", True, 0))
    records.events.append(replace(delivered(1), request_id="req-1b"))
    records.arrivals.append(replace(arrival(1), request_id="req-1b"))


def answer_one_key_twice(records: Records) -> None:
    records.posts.append(Post(2, "key-2", "drill-allowed-2", "200", "req-1"))


def deliver_twice(records: Records) -> None:
    records.arrivals.append(arrival(1, at=60))
    records.events.append(attempted(1, 2, at=60))
    records.requests[0] = replace(records.requests[0], callback_attempts=2)


def change_a_body(records: Records) -> None:
    said = {"request_id": "req-2", "driver_token": "drill-allowed-2", "status": "not_allowed"}
    records.arrivals[2] = arrival(2, at=1.05, body=json.dumps(said))


def send_a_body_of_another(records: Records) -> None:
    said = {"request_id": "req-1", "driver_token": "drill-allowed-3"}
    records.arrivals[0] = arrival(1, body=json.dumps(said))


def sign_badly(records: Records) -> None:
    records.arrivals[0] = replace(records.arrivals[0], signature="v1,AAAA")


def sign_long_before_sending(records: Records) -> None:
    records.arrivals[0] = replace(records.arrivals[0], at=NOW + 301)


def retry_too_early(records: Records) -> None:
    records.arrivals[2] = arrival(2, at=0.7)
    records.events[3] = attempted(2, 2, at=0.7)


def call_again_within_one_attempt(records: Records) -> None:
    """Unrecorded, as after a resend on a fresh connection."""
    records.arrivals.insert(1, arrival(2, at=-0.01, answer="reset"))


def attempt_too_often(records: Records) -> None:
    for attempt, at in ((3, 10), (4, 20), (5, 30)):
        records.arrivals.append(arrival(2, at=at, answer="500"))
        records.events.append(attempted(2, attempt, at=at))
    records.requests[1] = replace(records.requests[1], callback_attempts=5)


def miscount_attempts(records: Records) -> None:
    records.requests[1] = replace(records.requests[1], callback_attempts=3)


def end_twice(records: Records) -> None:
    records.events.append(delivered(3))


def damage_the_database(records: Records) -> None:
    records.integrity = "row 7 missing from index ix_requests_state"


def answer_500(records: Records) -> None:
    records.posts.append(Post(2, "key-2", "drill-allowed-2", "500"))


def touch_the_canary(records: Records) -> None:
    records.canary_connections = 1


def accept_a_forbidden_address(records: Records) -> None:
    records.posts[0] = replace(records.posts[0], outcome="200", request_id="req-1")


def let_anybody_charge(records: Records) -> None:
    records.posts = [replace(each, token=each.token.replace("allowed", "not_allowed")) for each in records.posts]
    records.arrivals = [replace(each, body=each.body) for each in records.arrivals]


def test_a_good_drill_holds() -> None:
    findings = Oracle(a_good_drill(), BOUNDS, Surroundings()).judge()

    assert {each.number for each in findings} == set(range(12))
    assert [each for each in findings if not each.holds] == []


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lose_one, "lost"),
        (lose_its_callback, "recorded as delivered, but no callback was answered 2xx"),
        (leave_one_stuck, "stuck"),
        (bury_one, "dead letters"),
        (call_back_a_stranger, "phantom"),
        (store_one_twice, "phantom"),
        (answer_one_key_twice, "idempotency keys with more than one request"),
        (deliver_twice, "duplicates"),
        (change_a_body, "attempts of one request with another id or body"),
        (send_a_body_of_another, "attempts of one request with another id or body"),
        (sign_badly, "callbacks without a valid signature"),
        (sign_long_before_sending, "callbacks without a valid signature"),
        (retry_too_early, "attempts earlier than 0.8 of the planned pause"),
        (call_again_within_one_attempt, "attempts earlier than 0.8 of the planned pause"),
        (attempt_too_often, "attempts above the maximum or miscounted"),
        (miscount_attempts, "attempts above the maximum or miscounted"),
        (end_twice, "requests without exactly one terminal event"),
        (damage_the_database, "faults in the database's own structures"),
        (answer_500, "answers other than 200 and 503"),
        (touch_the_canary, "connections to a forbidden address"),
        (accept_a_forbidden_address, "connections to a forbidden address"),
        (let_anybody_charge, "decisions that the authorization service did not give"),
    ],
)
def test_a_broken_promise_is_found(harm: Callable[[Records], None], found: str) -> None:
    records = a_good_drill()
    harm(records)

    assert found in failures(records)


@pytest.mark.parametrize(
    ("around", "found"),
    [
        (Surroundings(jobs_left=1), "stuck"),
        (Surroundings(events_changed=True), "events changed after they were written"),
        (Surroundings(wal_bytes=BOUNDS.wal_bytes + 1), "bytes of the write-ahead log at most"),
        (Surroundings(idle_transactions=1), "transactions left open"),
    ],
)
def test_what_was_measured_beside_the_records_counts(around: Surroundings, found: str) -> None:
    assert failures(a_good_drill(), around) == {found}


def test_a_killed_worker_excuses_one_duplicate_and_no_more() -> None:
    records = a_good_drill()
    deliver_twice(records)
    excused = replace(BOUNDS, duplicates=1)
    assert failures(records, bounds=excused) == set()

    records.arrivals.append(arrival(1, at=120))
    records.events.append(attempted(1, 3, at=120))
    records.requests[0] = replace(records.requests[0], callback_attempts=3)
    assert failures(records, bounds=excused) == {"duplicates"}


def test_an_ambiguous_post_without_a_key_may_or_may_not_have_been_accepted() -> None:
    records = a_good_drill()
    records.posts.append(Post(4, None, "drill-allowed-4", "reset"))
    assert failures(records) == set()

    records.requests.append(Request("req-4", 4, "delivered", "allowed", True, 1))
    records.arrivals.append(arrival(4))
    records.events += [attempted(4, 1), delivered(4)]
    assert failures(records) == set()


def test_unknown_is_a_decision_only_where_the_service_failed() -> None:
    records = a_good_drill()
    records.requests[0] = replace(records.requests[0], decision="unknown")
    assert failures(records) == set()

    strict = replace(BOUNDS, only_allowed_decisions=True)
    assert failures(records, bounds=strict) == {"decisions that the authorization service did not give"}
