"""What failed, found and counted in the database, whichever keeps it."""

from collections import Counter

from sqlalchemy import update
from support.builders import NOW, STATION, accept, attempt, change, decide, end

from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.charging_session import Reason
from chargeapp.services.failed_requests import Wanted, ids_in, look, page_of_failed
from chargeapp.services.redeliveries import Obstacle, count_obstacles, obstacles, redeliver_all
from chargeapp.storage.database import Database
from chargeapp.storage.models import SessionRequest

GONE = Reply(Outcome.FINAL, 5, 410, "answered 410", Reason.GONE)
BLOCKED = Reply(Outcome.FINAL, 5, None, "refused", Reason.BLOCKED)


def ended(database: Database, reply: Reply, number: int = 1) -> list[str]:
    ids = accept(database, number)
    decide(database)
    attempt(database, reply)
    end(database)
    return ids


def test_obstacles_are_counted_as_each_is_found(database: Database) -> None:
    free, erased, under_way = ended(database, GONE, 2), ended(database, GONE), ended(database, GONE)
    delivered, undecided = ended(database, Reply(Outcome.DELIVERED, 5, 204)), accept(database)
    ids = [*free, *erased, *under_way, *delivered, *undecided]
    change(database, lambda session: redeliver_all(session, under_way, 900, NOW))
    erase = update(SessionRequest).where(SessionRequest.id.in_(erased)).values(token_sealed=None)
    change(database, lambda session: session.execute(erase))

    with database.reading() as session:
        each = obstacles(session, [*ids, "req-unknown"], undelivered_only=True)
        counted = count_obstacles(session, [SessionRequest.id.in_(ids)], undelivered_only=True)

    assert each == {
        **dict.fromkeys(free),
        **dict.fromkeys(erased, Obstacle.ERASED),
        **dict.fromkeys([*under_way, *undecided], Obstacle.UNDER_WAY),
        **dict.fromkeys(delivered, Obstacle.DELIVERED),
        "req-unknown": Obstacle.MISSING,
    }
    assert counted == Counter(value for key, value in each.items() if key != "req-unknown")


def test_a_look_ends_where_the_next_one_begins(database: Database) -> None:
    ids = sorted(ended(database, GONE, 5), reverse=True)

    with database.reading() as session:
        first = look(session, Wanted(), None, 2)
        second = look(session, Wanted(station_id=STATION), first.before, 2)
        last = look(session, Wanted(), second.before, 2)

        assert [ids_in(session, each) for each in (first, second, last)] == [ids[:2], ids[2:4], ids[4:]]
        assert last.before is None


def test_a_page_has_those_that_ended_for_the_reason_asked_for(database: Database) -> None:
    (blocked,) = ended(database, BLOCKED)
    ended(database, GONE, 2)

    with database.reading() as session:
        page = page_of_failed(session, Wanted(reason=Reason.BLOCKED), None, 50)

    assert [(each.request.id, each.reason) for each in page.found] == [(blocked, Reason.BLOCKED)]
