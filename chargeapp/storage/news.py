"""What a transaction has to tell the log of single requests: a line each, written once it is committed."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from chargeapp.logs import get_logger

log = get_logger()

NEWS = "news"


@dataclass(frozen=True, slots=True)
class News:
    """`type` in the past tense, such as RequestAccepted: the sentence and the action are made of it.

    What goes as it should is told at the level debug only: every line is a write, at which a busy process loses its
    turn, and there would be four for each request.
    """

    request_id: str
    type: str
    details: dict[str, Any] = field(default_factory=dict)
    as_it_should: bool = False


def note(session: Session, news: Iterable[News]) -> None:
    """To be told after the commit, and not at all if it, or a savepoint around this, is rolled back."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    session.info.setdefault(NEWS, []).append((transaction, tuple(news)))


def tell(session: Session) -> None:
    """Call it after the commit."""
    for _, news in session.info.pop(NEWS, ()):
        for each in news:
            sentence, action = _words(each.type)
            level = logging.DEBUG if each.as_it_should else logging.INFO
            log.log(level, sentence, **{**each.details, "action": action, "request_id": each.request_id})


@event.listens_for(Session, "after_soft_rollback")
def forget(session: Session, transaction: SessionTransaction) -> None:
    if noted := session.info.get(NEWS):
        session.info[NEWS] = [each for each in noted if each[0] is not transaction]


@cache
def _words(type_: str) -> tuple[str, str]:
    words = re.findall(r"[A-Z][a-z]+", type_)
    return " ".join(words).capitalize(), "_".join(words).lower()
