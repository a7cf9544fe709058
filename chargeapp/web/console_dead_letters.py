"""The page of what could not be processed, and putting it on its way again."""

from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError

from chargeapp.clock import utcnow
from chargeapp.errors import TemporaryFailure
from chargeapp.logs import get_logger
from chargeapp.runtime import Runtime
from chargeapp.services.dead_letters import count_dead_letters, list_dead_letters, replay
from chargeapp.web.auth import for_operators
from chargeapp.web.console_acts import note
from chargeapp.web.console_schemas import DeadLettersSchema, ReplayedSchema

log = get_logger()

ROWS_SHOWN = 100
ROWS_PER_TRANSACTION = 100
MOST_AT_ONCE = 5_000


def add_dead_letter_pages(routes: Blueprint, runtime: Runtime) -> None:
    @routes.get("/dead-letters")
    @for_operators
    def dead_letters() -> ResponseReturnValue:
        with runtime.database.reading() as session:
            found = list_dead_letters(session, ROWS_SHOWN)
            total = sum(count_dead_letters(session).values())
        done = ReplayedSchema().load(request.args)
        return render_template("dead_letters.html", found=found, total=total, done=done, most=MOST_AT_ONCE)

    @routes.post("/dead-letters/replay")
    @for_operators
    def replay_dead_letters() -> ResponseReturnValue:
        asked = DeadLettersSchema().load(request.form)
        if asked["which"] == "all":
            with runtime.database.reading() as session:
                rows = [(each.queue, each.row_id) for each in list_dead_letters(session, MOST_AT_ONCE)]
        else:
            rows = [(queue, int(number)) for queue, _, number in (each.partition(":") for each in asked["row"])]
            if not rows:
                raise ValidationError({"row": ["Select some dead letters first."]})
        replayed, gone = replay_rows(runtime, rows)
        done: dict[str, Any] = {"replayed": replayed, "gone": gone, "left": len(rows) - replayed - gone}
        note("Dead letters replayed", "dead_letters_replayed", which=asked["which"], rows=asked["row"], **done)
        return redirect(url_for(".dead_letters", **done), 303)


def replay_rows(runtime: Runtime, rows: list[tuple[str, int]]) -> tuple[int, int]:
    """How many there were, and how many were no dead letters any more.

    Raises TemporaryFailure only if nothing was done; after that it ends early.
    """
    replayed = gone = 0
    for start in range(0, len(rows), ROWS_PER_TRANSACTION):
        batch = rows[start : start + ROWS_PER_TRANSACTION]
        try:
            with runtime.database.writing() as session:
                done = [each for each in batch if replay(session, *each, utcnow())]
        except TemporaryFailure as error:
            if not start:
                raise
            log.warning("Replay ended early", action="replay_ended_early", error=str(error))
            break
        for queue in {queue for queue, _ in done}:
            runtime.wakeups.ring(queue)
        replayed += len(done)
        gone += len(batch) - len(done)
    return replayed, gone
