"""Driver tokens: sealed, found by a keyed hash, shown masked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargeapp.errors import MisconfiguredError, PermanentFailure
from chargeapp.security.driver_tokens import TokenUnreadable, TokenVault, mask, new_key

OLD, NEW = new_key(), new_key()
TOKEN = "DRIVER-TOKEN-0123456789"
tokens = st.text("ABCabc019-._~", min_size=1, max_size=80)


def vault(*keys: str, hash_key: str = "one") -> TokenVault:
    return TokenVault(keys or [OLD], hash_key)


@given(tokens)
def test_a_sealed_token_can_be_opened_and_does_not_show(token: str) -> None:
    sealed = vault().seal(token)

    assert vault().open(sealed) == token
    assert len(token) < 4 or token.encode() not in sealed


def test_the_same_token_is_sealed_differently_each_time() -> None:
    assert vault().seal(TOKEN) != vault().seal(TOKEN)


def test_after_a_rotation_old_tokens_are_still_read_and_new_ones_are_sealed_with_the_new_key() -> None:
    rotated = vault(NEW, OLD)

    assert rotated.open(vault(OLD).seal(TOKEN)) == TOKEN
    assert vault(NEW).open(rotated.seal(TOKEN)) == TOKEN


@pytest.mark.parametrize("sealed", [b"", b"nonsense", vault(NEW).seal(TOKEN)])
def test_what_was_erased_or_sealed_with_a_lost_key_can_never_be_read(sealed: bytes) -> None:
    with pytest.raises(TokenUnreadable) as raised:
        vault(OLD).open(sealed)

    assert isinstance(raised.value, PermanentFailure)


def test_a_token_is_found_by_its_hash_under_any_sealing_key_but_one_hash_key_only() -> None:
    assert vault(OLD).hash(TOKEN) == vault(NEW).hash(TOKEN)
    assert vault(hash_key="one").hash(TOKEN) != vault(hash_key="two").hash(TOKEN)
    assert vault().hash(TOKEN) != vault().hash(TOKEN + "x")


@pytest.mark.parametrize("keys", [["short"], [OLD, "x" * 44]])
def test_a_wrong_key_is_named_but_not_shown(keys: list[str]) -> None:
    with pytest.raises(MisconfiguredError, match="DRIVER_TOKEN_KEYS") as raised:
        TokenVault(keys, "one")

    assert keys[-1] not in str(raised.value)


def test_a_masked_token_shows_its_ends() -> None:
    assert mask(TOKEN) == "DRIV…6789"


@given(tokens)
def test_a_masked_token_shows_at_most_eight_characters_and_less_than_half(token: str) -> None:
    shown = mask(token).replace("…", "")

    assert len(shown) <= 8
    assert len(shown) <= len(token) / 2
