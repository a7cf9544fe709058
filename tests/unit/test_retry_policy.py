"""When the next attempt and the next round begin, if at all."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from chargeapp.domain.retry_policy import JITTER, RetryPolicy

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(days=30)
POLICY = RetryPolicy(max_retries=3, first_delay_seconds=1.0, rounds_seconds=(30, 120, 600))
policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 20),
    first_delay_seconds=st.floats(0.001, 10),
    rounds_seconds=st.lists(st.integers(1, 3600), max_size=5),
)


def test_pauses_double() -> None:
    assert POLICY.intervals == [1, 2, 4]


@given(policies, st.integers(1, 40))
def test_a_round_has_one_attempt_and_the_retries_allowed(policy: RetryPolicy, attempts: int) -> None:
    follows = policy.next_attempt_at(attempts, NOW, NOW + timedelta(days=10_000)) is not None

    assert follows == (attempts <= policy.max_retries)


@given(st.integers(1, 3))
def test_a_pause_is_never_shorter_than_planned_and_hardly_longer(attempts: int) -> None:
    moment = POLICY.next_attempt_at(attempts, NOW, LATER)

    assert moment is not None
    pause = (moment - NOW).total_seconds()
    assert 2 ** (attempts - 1) <= pause <= 2 ** (attempts - 1) * (1 + JITTER)


@given(policies, st.integers(1, 20), st.floats(0, 100_000), st.floats(1, 100_000))
def test_no_attempt_is_planned_for_when_the_request_has_expired(
    policy: RetryPolicy, attempts: int, retry_after: float, ttl: float
) -> None:
    expires_at = NOW + timedelta(seconds=ttl)
    moment = policy.next_attempt_at(attempts, NOW, expires_at, retry_after)

    assert moment is None or NOW + timedelta(seconds=retry_after) <= moment < expires_at


@given(policies, st.integers(1, 20), st.floats(1, 100_000))
def test_no_round_is_planned_for_when_the_request_has_expired(policy: RetryPolicy, rounds: int, ttl: float) -> None:
    expires_at = NOW + timedelta(seconds=ttl)
    moment = policy.next_round_at(rounds, NOW, expires_at)

    assert moment is None or NOW < moment < expires_at


def test_the_last_pause_between_rounds_repeats() -> None:
    moments = [POLICY.next_round_at(rounds, NOW, LATER) for rounds in (1, 2, 3, 4, 9)]

    assert [(moment - NOW).total_seconds() for moment in moments if moment] == [30, 120, 600, 600, 600]


def test_without_pauses_between_rounds_there_is_one_round() -> None:
    assert RetryPolicy(3, 1.0, ()).next_round_at(1, NOW, LATER) is None
