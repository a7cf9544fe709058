"""The mechanism that all three outboxes share: one row, one worker at a time, and nothing is lost."""

import json
import subprocess
import sys
import threading
from datetime import datetime

import pytest
from support.builders import (
    NOW,
    Callbacks,
    Requests,
    accept,
    attempt,
    begin_callbacks,
    change,
    claim,
    claim_and_take,
    decide,
    only_row,
    rows,
    seconds,
    take,
    the_request,
)

from chargeapp.services.dead_letters import list_dead_letters, replay
from chargeapp.storage import outbox
from chargeapp.storage.database import Database
from chargeapp.storage.outbox import LEASE_SECONDS, RETRY_GRACE_SECONDS, Draft, OwnRow, Ticket

CLAIMER = """
import json, sys
from chargeapp.clock import utcnow
from chargeapp.storage import outbox
from chargeapp.storage.database import Database
from chargeapp.storage.models import ChargingSessionRequestOutbox as Requests

database = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
claimed = []
while True:
    with database.writing() as session:
        tickets = outbox.claim_due(session, Requests, job_id=sys.argv[2], limit=3, now=utcnow())
    if not tickets:
        break
    claimed += [[each.row_id, each.seq] for each in tickets]
database.close()
print(json.dumps(claimed))
"""


def put(database: Database, request_id: str, *due: datetime, destination: str = "") -> None:
    drafts = [Draft(request_id, "Command", {"request_id": request_id}, moment, destination) for moment in due]
    change(database, lambda session: outbox.put(session, Callbacks, drafts, NOW))


def own(database: Database, ticket: Ticket) -> OwnRow | None:
    return change(database, lambda session: outbox.own_rows(session, Callbacks, [ticket]).get(ticket.row_id))


def test_the_longest_due_is_claimed_first(database: Database) -> None:
    (request_id,) = accept(database)
    put(database, request_id, NOW - seconds(1), NOW - seconds(3), NOW - seconds(2), NOW + seconds(1))

    tickets = claim(database, Callbacks, limit=2)

    assert tickets == [Ticket(2, 1), Ticket(3, 1)]


def test_what_is_not_due_is_not_claimed(database: Database) -> None:
    (request_id,) = accept(database)
    put(database, request_id, NOW + seconds(0.001))

    assert claim(database, Callbacks, NOW) == []
    assert claim(database, Callbacks, NOW + seconds(0.001)) == [Ticket(1, 1)]


def test_a_claimed_row_is_claimed_by_nobody_else_until_its_lease_ends(database: Database) -> None:
    accept(database)
    claim(database, Requests)

    assert claim(database, Requests, NOW + seconds(LEASE_SECONDS - 0.001)) == []
    assert claim(database, Requests, NOW + seconds(LEASE_SECONDS)) == [Ticket(1, 2)]


def test_threads_never_claim_the_same_row(database: Database) -> None:
    accept(database, 60)
    start = threading.Barrier(4)
    claimed: list[Ticket] = []

    def claim_all() -> None:
        start.wait()
        while tickets := claim(database, Requests, limit=3):
            claimed.extend(tickets)

    threads = [threading.Thread(target=claim_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(each.row_id for each in claimed) == list(range(1, 61))
    assert {each.seq for each in claimed} == {1}


def test_processes_never_claim_the_same_row(database: Database) -> None:
    accept(database, 60)
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, str(database.url), f"job-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for claimer in claimers:
        assert claimer.stdout is not None
        assert claimer.stdout.readline() == "ready\n"

    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    claimed = [row for claimer in claimers for row in json.loads(claimer.communicate(timeout=30)[0])]

    assert [claimer.returncode for claimer in claimers] == [0, 0]
    assert sorted(claimed) == [[number, 1] for number in range(1, 61)]


def test_only_the_first_of_two_jobs_with_the_same_tickets_gets_the_rows(database: Database) -> None:
    accept(database)
    tickets = claim(database, Requests)

    assert take(database, Requests, tickets) == tickets
    assert take(database, Requests, tickets) == []


def test_a_stale_ticket_takes_nothing(database: Database) -> None:
    accept(database)
    stale = claim(database, Requests)
    claim(database, Requests, NOW + seconds(LEASE_SECONDS))

    assert take(database, Requests, stale) == []


def test_a_stale_ticket_owns_nothing_so_it_settles_nothing(database: Database) -> None:
    (request_id,) = accept(database)
    put(database, request_id, NOW)
    (stale,) = claim_and_take(database, Callbacks)
    (fresh,) = claim_and_take(database, Callbacks, NOW + seconds(LEASE_SECONDS))

    assert own(database, stale) is None
    assert own(database, fresh) == OwnRow(fresh, request_id, "Command", {"request_id": request_id}, 0)


@pytest.mark.parametrize("action", ["release", "bury", "renew"])
def test_a_stale_ticket_changes_nothing_for_the_job_that_has_the_row_now(database: Database, action: str) -> None:
    (request_id,) = accept(database)
    put(database, request_id, NOW)
    (stale,) = claim(database, Callbacks)
    (fresh,) = claim_and_take(database, Callbacks, NOW)
    before = only_row(database, Callbacks)
    later = NOW + seconds(10)
    actions = {
        "release": lambda session: outbox.release(session, Callbacks, [stale], later),
        "bury": lambda session: outbox.bury(session, Callbacks, stale, "Error", later),
        "renew": lambda session: outbox.renew(session, Callbacks, [stale], later),
    }

    change(database, actions[action])

    after = only_row(database, Callbacks)
    assert (after.lease_until, after.taken_at, after.dead_at) == (before.lease_until, before.taken_at, None)
    assert own(database, fresh) is not None


def test_a_settled_row_belongs_to_nobody(database: Database) -> None:
    (request_id,) = accept(database)
    put(database, request_id, NOW)
    (ticket,) = claim_and_take(database, Callbacks)

    change(database, lambda session: outbox.settle(session, Callbacks, [ticket.row_id], NOW))

    assert own(database, ticket) is None
    assert claim(database, Callbacks, NOW + seconds(1000)) == []


def test_a_job_that_goes_on_gets_rows_that_still_wait_for_another_job(database: Database) -> None:
    accept(database)
    waiting = claim(database, Requests)

    assert claim_and_take(database, Requests) == [Ticket(1, 2)]
    assert take(database, Requests, waiting) == []


def test_a_job_that_goes_on_leaves_alone_what_another_job_has_begun_with(database: Database) -> None:
    accept(database)
    take(database, Requests, claim(database, Requests))

    assert claim_and_take(database, Requests) == []


def test_rows_to_a_crowded_destination_are_left_alone(database: Database) -> None:
    (request_id,) = accept(database)
    put(database, request_id, NOW, destination="slow:443")
    put(database, request_id, NOW, destination="quick:443")

    taken = change(
        database,
        lambda session: outbox.claim_and_take(session, Callbacks, job_id="job", limit=9, now=NOW, not_to=["slow:443"]),
    )

    assert [row.ticket for row in taken] == [Ticket(2, 1)]


def test_rows_that_became_due_a_moment_ago_can_be_left_to_others(database: Database) -> None:
    accept(database)

    def look(due_before: datetime) -> bool:
        return change(database, lambda session: outbox.any_due(session, Requests, due_before, NOW))

    assert not look(NOW - seconds(0.5))
    assert look(NOW)


def test_rows_of_a_lost_job_are_claimable_again_at_once(database: Database) -> None:
    accept(database)
    claim(database, Requests, job_id="lost")

    released = change(database, lambda session: outbox.release_lost(session, Requests, ["lost", "other"]))

    assert released == 1
    assert claim(database, Requests) == [Ticket(1, 2)]


def test_a_row_that_was_begun_with_is_not_released_with_its_lost_job(database: Database) -> None:
    accept(database)
    take(database, Requests, claim(database, Requests, job_id="lost"))

    released = change(database, lambda session: outbox.release_lost(session, Requests, ["lost"]))

    assert released == 0
    assert claim(database, Requests) == []


def test_only_jobs_that_were_claimed_a_while_ago_are_expected_in_the_queue(database: Database) -> None:
    accept(database)
    claim(database, Requests, job_id="waiting")

    def expected(claimed_before: datetime) -> set[str]:
        return change(database, lambda session: outbox.jobs_in_queue(session, Requests, claimed_before))

    assert expected(NOW - seconds(1)) == set()
    assert expected(NOW) == {"waiting"}


def test_a_postponed_row_is_due_again_after_its_pause_and_counts_the_attempt(database: Database) -> None:
    (request_id,) = accept(database)
    put(database, request_id, NOW)
    (ticket,) = claim_and_take(database, Callbacks)
    row = own(database, ticket)
    assert row is not None
    until = NOW + seconds(4)

    change(database, lambda session: outbox.postpone(session, Callbacks, row, until, "answered 500"))

    postponed = only_row(database, Callbacks)
    assert (postponed.attempts, postponed.due_at, postponed.last_error) == (1, until, "answered 500")
    # The job brings it back; the relay steps in a while later only.
    assert claim(database, Callbacks, until + seconds(RETRY_GRACE_SECONDS - 0.001)) == []
    assert claim(database, Callbacks, until + seconds(RETRY_GRACE_SECONDS)) == [Ticket(1, 2)]


def test_a_job_knows_when_its_earliest_retry_is_due(database: Database) -> None:
    (request_id,) = accept(database)
    put(database, request_id, NOW, NOW)
    tickets = claim_and_take(database, Callbacks)

    def postpone(ticket: Ticket, pause: float) -> None:
        row = own(database, ticket)
        assert row is not None
        change(database, lambda session: outbox.postpone(session, Callbacks, row, NOW + seconds(pause), None))

    def next_retry(job_id: str) -> datetime | None:
        return change(database, lambda session: outbox.next_retry_at(session, Callbacks, job_id))

    assert next_retry("job") is None
    postpone(tickets[0], 4)
    postpone(tickets[1], 2)
    assert next_retry("job") == NOW + seconds(2)
    assert next_retry("other") is None


def test_a_retry_is_not_taken_before_it_is_due_though_its_job_comes_back_for_another(database: Database) -> None:
    (request_id,) = accept(database)
    put(database, request_id, NOW, NOW)
    soon, late = claim(database, Callbacks)
    for ticket, pause in ((soon, 1), (late, 60)):
        take(database, Callbacks, [ticket])
        row = own(database, ticket)
        assert row is not None
        change(
            database,
            lambda session, row=row, pause=pause: outbox.postpone(
                session, Callbacks, row, NOW + seconds(pause), "answered 429"
            ),
        )

    assert take(database, Callbacks, [soon, late], NOW + seconds(1)) == [soon]
    assert take(database, Callbacks, [soon, late], NOW + seconds(60)) == [late]


def test_a_renewed_lease_keeps_a_row_from_others(database: Database) -> None:
    accept(database)
    tickets = claim_and_take(database, Requests)
    change(database, lambda session: outbox.renew(session, Requests, tickets, NOW + seconds(50)))

    assert claim(database, Requests, NOW + seconds(LEASE_SECONDS + 1)) == []


def test_a_released_row_is_claimable_from_its_new_time_on(database: Database) -> None:
    accept(database)
    tickets = claim_and_take(database, Requests)
    change(database, lambda session: outbox.release(session, Requests, tickets, NOW + seconds(1)))

    assert claim(database, Requests, NOW) == []
    assert claim(database, Requests, NOW + seconds(1)) == [Ticket(1, 2)]


def test_a_buried_row_is_kept_with_its_reason_and_taken_by_nobody(database: Database) -> None:
    (request_id,) = accept(database)
    (ticket,) = claim_and_take(database, Requests)
    change(database, lambda session: outbox.bury(session, Requests, ticket, "TokenUnreadable", NOW))

    assert claim_and_take(database, Requests, NOW + seconds(1000)) == []
    with database.reading() as session:
        (dead,) = list_dead_letters(session)
    assert (dead.queue, dead.row_id, dead.request_id) == ("authorization", 1, request_id)
    assert (dead.error, dead.dead_at) == ("TokenUnreadable", NOW)


def test_a_replayed_dead_letter_is_due_at_once(database: Database) -> None:
    accept(database)
    (ticket,) = claim_and_take(database, Requests)
    change(database, lambda session: outbox.bury(session, Requests, ticket, "TokenUnreadable", NOW))

    replayed = change(database, lambda session: replay(session, "authorization", 1, NOW + seconds(9)))

    assert replayed
    assert claim(database, Requests, NOW + seconds(9)) == [Ticket(1, 2)]
    with database.reading() as session:
        assert list_dead_letters(session) == []


def test_only_dead_letters_can_be_replayed(database: Database) -> None:
    accept(database)

    assert not change(database, lambda session: replay(session, "authorization", 1, NOW))
    assert not change(database, lambda session: replay(session, "authorization", 2, NOW))


def test_the_newest_dead_letters_of_all_outboxes_are_listed_first(database: Database) -> None:
    accept(database, 2)
    first, second = claim_and_take(database, Requests)
    change(database, lambda session: outbox.bury(session, Requests, second, "Late", NOW + seconds(2)))
    change(database, lambda session: outbox.bury(session, Requests, first, "Early", NOW + seconds(1)))
    with database.reading() as session:
        listed = [each.error for each in list_dead_letters(session)]
        newest = [each.error for each in list_dead_letters(session, limit=1)]

    assert listed == ["Late", "Early"]
    assert newest == ["Late"]


def test_nothing_to_do_is_done_without_a_statement(database: Database) -> None:
    def nothing(session: object) -> None:
        outbox.put(session, Requests, [], NOW)  # type: ignore[arg-type]
        outbox.settle(session, Requests, [], NOW)  # type: ignore[arg-type]
        outbox.renew(session, Requests, [], NOW)  # type: ignore[arg-type]
        outbox.release(session, Requests, [], NOW)  # type: ignore[arg-type]
        assert outbox.own_rows(session, Requests, []) == {}  # type: ignore[arg-type]

    nothing(None)


def test_a_row_of_each_step_points_to_the_same_request(database: Database) -> None:
    (request_id,) = accept(database)
    decide(database)
    callbacks = begin_callbacks(database)

    assert [each.request_id for each in callbacks] == [request_id]
    assert [row.request_id for row in rows(database, Callbacks)] == [request_id]
    assert the_request(database, request_id).state == "decided"
    assert attempt(database) == []
