"""What travels through the queue: row numbers, and nothing else gets in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargeapp.storage.outbox import Ticket
from chargeapp.transport.message import PoisonMessage, pack, unpack

tickets = st.builds(Ticket, st.integers(1, 2**62), st.integers(0, 2**31))
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(tickets, min_size=1, max_size=64))
def test_a_message_survives_its_journey(sent: list[Ticket]) -> None:
    assert unpack(json.loads(json.dumps(pack(sent)))) == sent


def test_a_message_is_row_numbers_only() -> None:
    assert pack([Ticket(7, 1), Ticket(8, 2)]) == {"rows": [[7, 1], [8, 2]]}


@given(junk)
def test_junk_is_refused(message: Any) -> None:
    with pytest.raises(PoisonMessage):
        unpack(message)


@given(st.lists(junk, min_size=1, max_size=4).filter(lambda rows: not all(is_ticket(row) for row in rows)))
def test_rows_that_are_junk_are_refused(rows: list[Any]) -> None:
    with pytest.raises(PoisonMessage):
        unpack({"rows": rows})


def is_ticket(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(each, int) for each in row)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"rows": []},
        {"rows": [[1]]},
        {"rows": [[1, 2, 3]]},
        {"rows": [["1", 2]]},
        {"rows": [[1.5, 2]]},
        {"rows": [[1, None]]},
        {"rows": [[1, 2]], "extra": 1},
        {"rows": [[1, 2]] * 1001},
        {"rows": {"1": 2}},
        [[1, 2]],
        "rows",
    ],
)
def test_what_is_nearly_a_message_is_refused(message: Any) -> None:
    with pytest.raises(PoisonMessage, match="Message refused"):
        unpack(message)
