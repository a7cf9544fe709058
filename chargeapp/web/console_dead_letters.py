"""The page of what could not be processed, and putting it on its way again."""

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError

from chargeapp.clock import utcnow
from chargeapp.runtime import Runtime
from chargeapp.services.dead_letters import count_dead_letters, list_dead_letters, replay
from chargeapp.web.auth import for_operators
from chargeapp.web.console_acts import note
from chargeapp.web.console_schemas import DeadLettersSchema, ReplayedSchema

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
        replayed = replay_rows(runtime, rows)
        done = {"replayed": replayed, "gone": len(rows) - replayed}
        note("Dead letters replayed", "dead_letters_replayed", which=asked["which"], rows=asked["row"], **done)
        return redirect(url_for(".dead_letters", replayed=replayed, gone=done["gone"]), 303)


def replay_rows(runtime: Runtime, rows: list[tuple[str, int]]) -> int:
    """How many there were; the others were no dead letters any more."""
    replayed = 0
    for start in range(0, len(rows), ROWS_PER_TRANSACTION):
        with runtime.database.writing() as session:
            done = [each for each in rows[start : start + ROWS_PER_TRANSACTION] if replay(session, *each, utcnow())]
        for queue in {queue for queue, _ in done}:
            runtime.wakeups.ring(queue)
        replayed += len(done)
    return replayed
