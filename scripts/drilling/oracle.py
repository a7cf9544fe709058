"""Judges the records of a drill: every invariant with its figure, whether it holds, and examples where it does not."""

import base64
import hashlib
import hmac
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

from drilling.receiver import ALLOWED_HOST, MARK, decision_for
from drilling.records import Arrival, Event, Records

Key = TypeVar("Key")
Item = TypeVar("Item")

EXAMPLES = 5
# Seconds: what receivers that verify as Standard Webhooks has it (the published library) tolerate.
SIGNED_WITHIN = 300.0
# A gap may be this part of the planned one.
TOLERANCE = 0.8
ENDED_BY = {
    "delivered": "CallbackDeliverySucceeded",
    "failed": "CallbackDeliveryFailed",
    "expired": "CallbackDeliveryFailed",
}


@dataclass(frozen=True)
class Bounds:
    """What the deployment was configured to do, and what the faults of the drill excuse."""

    webhook_secret: str
    max_retries: int = 3
    first_delay_seconds: float = 1.0
    duplicates: int = 0
    # Faults that leave a call unrecorded: each may cost a request one attempt that nobody counted.
    worker_faults: int = 0
    # A late process may send at any time, and a claim that a crash took back is had again at once.
    early: int = 0
    wal_bytes: int = 128 * 1024 * 1024
    only_allowed_decisions: bool = False


@dataclass(frozen=True)
class Surroundings:
    """What was measured beside the records."""

    jobs_left: int = 0
    events_changed: bool = False
    # Of SQLite alone, and of PostgreSQL alone.
    wal_bytes: int | None = 0
    idle_transactions: int | None = 0


@dataclass(frozen=True)
class Finding:
    """`number` is that of the invariant in the reports; 0 for what the drill adds to them."""

    number: int
    name: str
    figure: int
    bound: int
    examples: list[str] = field(default_factory=list)
    remark: str = ""

    @property
    def holds(self) -> bool:
        return self.figure <= self.bound


class Oracle:
    def __init__(self, records: Records, bounds: Bounds, surroundings: Surroundings) -> None:
        self._records = records
        self._bounds = bounds
        self._around = surroundings
        self._requests = {each.request_id: each for each in records.requests}
        self._arrivals = _grouped(sorted(records.arrivals, key=lambda each: each.at), lambda each: each.request_id)
        self._events = _grouped(records.events, lambda each: each.request_id)
        self._posts = _grouped(records.posts, lambda each: each.number)

    def judge(self) -> list[Finding]:
        return [
            self.lost(),
            self.falsely_delivered(),
            self.stuck(),
            self.dead_letters(),
            self.phantoms(),
            self.keys(),
            self.same_content(),
            self.signatures(),
            self.duplicates(),
            self.attempts(),
            self.gaps(),
            self.terminal_events(),
            self.append_only(),
            *self.database(),
            self.server_errors(),
            self.canary(),
            self.decisions(),
        ]

    @cached_property
    def accepted(self) -> set[str]:
        return {each.request_id for each in self._records.posts if each.outcome == "200"}

    def lost(self) -> Finding:
        lost = [
            id_
            for id_ in self.accepted
            if not self._delivered(id_) and not any(event.terminal for event in self._events.get(id_, ()))
        ]
        gone = [id_ for id_ in self.accepted if id_ not in self._requests]
        return _none(1, "lost: accepted, but neither delivered nor ended", {*lost, *gone})

    def falsely_delivered(self) -> Finding:
        wrong = [
            each.request_id
            for each in self._records.requests
            if each.state == "delivered" and not self._delivered(each.request_id)
        ]
        return _none(1, "recorded as delivered, but no callback was answered 2xx", wrong)

    def stuck(self) -> Finding:
        unended = [each.request_id for each in self._records.requests if not each.ended]
        left = max(len(unended), self._records.open_rows + self._around.jobs_left)
        remark = f"{self._records.open_rows} open rows, {self._around.jobs_left} jobs left in queues"
        return Finding(2, "stuck: not ended, or still due", left, 0, unended[:EXAMPLES], remark)

    def dead_letters(self) -> Finding:
        return Finding(2, "dead letters", self._records.dead_rows, 0)

    def phantoms(self) -> Finding:
        """Of one number there may be as many requests as answers allow: with a key one, else one for each POST."""
        allowed = {number: self._most_requests(number) for number in self._posts}
        stored = Counter(each.number for each in self._records.requests)
        too_many = [
            f"number {number}: {count} stored" for number, count in stored.items() if count > allowed.get(number, 0)
        ]
        strangers = [
            f"{each.request_id} for number {each.number}"
            for each in self._records.arrivals
            if not allowed.get(each.number)
            or each.request_id not in self._requests
            or self._requests[each.request_id].number != each.number
        ]
        return _none(3, "phantom: request or callback that nobody posted", [*too_many, *strangers])

    def _most_requests(self, number: int) -> int:
        posts = self._posts[number]
        perhaps = sum(each.outcome in ("200", "reset") for each in posts)
        return min(1, perhaps) if posts[0].key else perhaps

    def keys(self) -> Finding:
        ids = defaultdict(set)
        for post in self._records.posts:
            if post.key and post.outcome == "200":
                ids[post.number].add(post.request_id)
        keyed = {post.number for post in self._records.posts if post.key}
        for request in self._records.requests:
            if request.number in keyed:
                ids[request.number].add(request.request_id)
        asked_again = sum(
            len([each for each in posts if each.outcome in ("200", "reset", "503")]) > 1
            for number, posts in self._posts.items()
            if number in keyed
        )
        broken = [f"number {number}: {len(found)} ids" for number, found in ids.items() if len(found) > 1]
        return _none(
            4, "idempotency keys with more than one request", broken, f"{asked_again} keys asked more than once"
        )

    def same_content(self) -> Finding:
        tokens = {each.number: each.token for each in self._records.posts}
        changed = []
        for id_, arrivals in self._arrivals.items():
            if len({each.body for each in arrivals}) > 1:
                changed.append(f"{id_}: body changed between attempts")
            elif not _says(arrivals[0], tokens.get(arrivals[0].number, "")):
                changed.append(f"{id_}: body is not about its request")
        ids = _grouped(self._records.arrivals, lambda each: each.number)
        changed += [
            f"number {number}: several ids"
            for number, arrivals in ids.items()
            if len({each.request_id for each in arrivals})
            > max(1, self._most_requests(number) if number in self._posts else 0)
        ]
        return _none(5, "attempts of one request with another id or body", changed)

    def signatures(self) -> Finding:
        wrong = [each.request_id for each in self._records.arrivals if not verify(each, self._bounds.webhook_secret)]
        return _none(5, "callbacks without a valid signature", wrong, f"{len(self._records.arrivals)} verified")

    def duplicates(self) -> Finding:
        twice = {
            id_: count - 1
            for id_, arrivals in self._arrivals.items()
            if (count := sum(each.answer == "204" for each in arrivals)) > 1
        }
        return Finding(
            6,
            "duplicates: 2xx deliveries beyond the first",
            sum(twice.values()),
            self._bounds.duplicates,
            list(twice)[:EXAMPLES],
        )

    def attempts(self) -> Finding:
        """Recorded ones exactly; those at the receiver beyond them only for a fault."""
        most = 1 + self._bounds.max_retries
        wrong = []
        unrecorded = 0
        for request in self._records.requests:
            recorded = self._recorded(request.request_id)
            rounds = Counter(event.details.get("round") for event in recorded)
            arrived = len(self._arrivals.get(request.request_id, ()))
            unrecorded += max(0, arrived - len(recorded))
            if any(count > most for count in rounds.values()):
                wrong.append(f"{request.request_id}: {max(rounds.values())} attempts in one round")
            elif len({(event.details.get("round"), event.details.get("attempt")) for event in recorded}) < len(
                recorded
            ):
                wrong.append(f"{request.request_id}: one attempt recorded twice")
            elif request.callback_attempts != len(recorded):
                wrong.append(f"{request.request_id}: {request.callback_attempts} counted, {len(recorded)} recorded")
            elif arrived > len(recorded) + self._bounds.worker_faults:
                wrong.append(f"{request.request_id}: {arrived} arrived, {len(recorded)} recorded")
        return _none(
            7, "attempts above the maximum or miscounted", wrong, f"{unrecorded} arrived without being recorded"
        )

    def gaps(self) -> Finding:
        """Between arrivals of one round: at least the planned pause after the attempt that came before."""
        early: list[str] = []
        shortest = float("inf")
        for id_, arrivals in self._arrivals.items():
            attempts = _match(arrivals, self._recorded(id_))
            for (before, attempt), (after, _) in pairwise(zip(arrivals, attempts, strict=True)):
                planned = self._bounds.first_delay_seconds * 2 ** (max(attempt, 1) - 1)
                if attempt > self._bounds.max_retries:
                    planned = self._bounds.first_delay_seconds
                part = (after.at - before.at) / planned
                shortest = min(shortest, part)
                if part < TOLERANCE:
                    again = "" if before.served == 1 else f", on a connection used {before.served} times"
                    early.append(
                        f"{id_}: {after.at - before.at:.3f} s after attempt {attempt or '?'} ({before.answer}{again})"
                    )
        remark = f"shortest: {shortest:.2f}" if shortest < float("inf") else "no attempt was repeated"
        name = f"attempts earlier than {TOLERANCE} of the planned pause"
        return Finding(7, name, len(early), self._bounds.early, early[:EXAMPLES], remark)

    def terminal_events(self) -> Finding:
        wrong = []
        for request in self._records.requests:
            ends = [event.type for event in self._events.get(request.request_id, ()) if event.terminal]
            if len(ends) != 1:
                wrong.append(f"{request.request_id}: {len(ends)} terminal events")
            elif ends[0] != ENDED_BY.get(request.state):
                wrong.append(f"{request.request_id}: {request.state}, but {ends[0]}")
        return _none(8, "requests without exactly one terminal event", wrong)

    def append_only(self) -> Finding:
        return Finding(8, "events changed after they were written", int(self._around.events_changed), 0)

    def database(self) -> list[Finding]:
        """What was looked at of it: that differs from one engine to the other."""
        found, around = self._records.integrity, self._around
        damage = [found] if found not in (None, "ok") else []
        remark = "amcheck is not to be had here" if found is None else ""
        findings = [Finding(9, "faults in the database's own structures", len(damage), 0, damage, remark)]
        if around.wal_bytes is not None:
            findings.append(
                Finding(9, "bytes of the write-ahead log at most", around.wal_bytes, self._bounds.wal_bytes)
            )
        if around.idle_transactions is not None:
            findings.append(Finding(9, "transactions left open", around.idle_transactions, 0))
        return findings

    def server_errors(self) -> Finding:
        """No 5xx but 503. (That no 200 comes while the database cannot commit is a test of its own.)"""
        answers = Counter(each.outcome for each in self._records.posts)
        other = [outcome for outcome in answers.elements() if outcome not in ("200", "400", "503", "reset", "refused")]
        remark = ", ".join(f"{count} x {outcome}" for outcome, count in sorted(answers.items()))
        return _none(10, "answers other than 200 and 503", other, remark)

    def canary(self) -> Finding:
        """A listener on an address that is not allowed, reachable by a redirect and posted as a callback address."""
        let_in = [each.outcome for each in self._records.posts if each.number == 0 and each.outcome == "200"]
        elsewhere = [each.host for each in self._records.arrivals if each.host.partition(":")[0] != ALLOWED_HOST]
        probes = sum(each.number == 0 for each in self._records.posts)
        redirects = sum(each.answer == "302" for each in self._records.arrivals)
        figure = self._records.canary_connections + len(let_in) + len(elsewhere)
        remark = f"{probes} forbidden addresses posted, {redirects} redirects to one"
        return Finding(11, "connections to a forbidden address", figure, 0, elsewhere[:EXAMPLES], remark)

    def decisions(self) -> Finding:
        """Never another one than the service gave, and `unknown` only where it failed."""
        tokens = {each.number: each.token for each in self._records.posts}
        excused = () if self._bounds.only_allowed_decisions else ("unknown",)
        wrong = [
            f"{each.request_id}: {each.decision}"
            for each in self._records.requests
            if each.decision not in (decision_for(tokens.get(each.number, MARK)), *excused)
        ]
        found = Counter(each.decision or "none" for each in self._records.requests)
        remark = ", ".join(f"{count} {decision}" for decision, count in sorted(found.items()))
        return _none(0, "decisions that the authorization service did not give", wrong, remark)

    def _delivered(self, request_id: str) -> bool:
        return any(each.answer == "204" for each in self._arrivals.get(request_id, ()))

    def _recorded(self, request_id: str) -> list[Event]:
        return [event for event in self._events.get(request_id, ()) if event.type == "CallbackAttempted"]


def verify(arrival: Arrival, secret: str) -> bool:
    """Standard Webhooks, written down a second time: the signer cannot vouch for itself."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{arrival.request_id}.{arrival.timestamp}.{arrival.body}".encode()
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    fresh = arrival.timestamp.isdigit() and abs(int(arrival.timestamp) - arrival.at) <= SIGNED_WITHIN
    return fresh and expected in arrival.signature.split(" ")


def _says(arrival: Arrival, token: str) -> bool:
    try:
        body = json.loads(arrival.body)
    except ValueError:
        return False
    return bool(body.get("request_id") == arrival.request_id and body.get("driver_token") == token)


def _match(arrivals: Sequence[Arrival], recorded: Iterable[Event]) -> list[int]:
    """Which attempt of its round each arrival was; 0 for one that was never recorded."""
    attempts = [0] * len(arrivals)
    for event in sorted(recorded, key=lambda each: each.at):
        # The event carries the moment just before the call.
        after = [index for index, each in enumerate(arrivals) if each.at >= event.at - 0.005 and not attempts[index]]
        if after:
            attempts[after[0]] = int(event.details.get("attempt", 0))
    return attempts


def _grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    found: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return dict(found)


def _none(number: int, name: str, wrong: Iterable[str], remark: str = "") -> Finding:
    found = list(wrong)
    return Finding(number, name, len(found), 0, found[:EXAMPLES], remark)
