"""The page of the webhook secrets: a new one is shown once, the old one signs beside it until it is retired."""

import re
from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from support.console import Visitor, words

from chargeapp.clock import utcnow
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.security.signatures import fingerprint
from chargeapp.storage import webhook_secrets

SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]{44}")
PUBLIC = re.compile(r"whpk_[A-Za-z0-9+/=]{44}")
LEEWAY = timedelta(minutes=1)


def signing(runtime: Runtime, caller: str = "") -> list[str]:
    """The newest first."""
    with runtime.database.reading() as session:
        found = webhook_secrets.signing(session, caller, utcnow())
    return [runtime.secret_vault.open(each.secret_sealed) for each in found]


def rotate(visitor: Visitor, **fields: str) -> str:
    answer = visitor.post("/secrets", **{"latest": visitor.hidden("/secrets", "latest"), **fields})
    assert answer.status_code == 200
    return answer.text


def retire_buttons(visitor: Visitor) -> list[str]:
    return re.findall(r'name="id" value="(\d+)"', visitor.get("/secrets").text)


def test_before_any_is_made_the_configured_one_is_listed_by_fingerprint(visitor: Visitor) -> None:
    page = visitor.get("/secrets").text
    configured = visitor.runtime.secrets.webhook_secret

    assert f"all others symmetric {fingerprint(configured)} \N{EN DASH} configured" in words(page)
    assert configured not in page


def test_a_new_secret_signs_at_once_and_the_old_one_beside_it(visitor: Visitor) -> None:
    configured = visitor.runtime.secrets.webhook_secret

    (shown,) = SECRET.findall(rotate(visitor, caller="hub", overlap="24"))

    assert signing(visitor.runtime, "hub") == [shown, configured]
    assert signing(visitor.runtime, "another") == []
    with visitor.runtime.database.reading() as session:
        ends = [each.retires_at for each in webhook_secrets.own(session, "hub", utcnow())]
    assert ends[0] is None
    assert ends[1] is not None
    assert abs(ends[1] - utcnow() - timedelta(hours=24)) < LEEWAY


def test_a_secret_that_leaked_signs_nothing_any_more(visitor: Visitor) -> None:
    rotate(visitor)

    (shown,) = SECRET.findall(page := rotate(visitor, overlap="0"))

    assert signing(visitor.runtime) == [shown]
    assert "signs nothing any more" in page


def test_of_a_key_pair_the_public_key_is_shown_and_stays_in_the_list(visitor: Visitor) -> None:
    (shown,) = PUBLIC.findall(page := rotate(visitor, caller="hub", kind="ed25519"))

    assert "whsk_" not in page
    assert shown in visitor.get("/secrets").text


def test_the_secret_is_shown_once_and_kept_only_sealed(visitor: Visitor) -> None:
    with capture_logs() as lines:
        answer = visitor.post("/secrets", latest="0")

    (secret,) = SECRET.findall(answer.text)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers
    assert answer.location is None
    assert secret not in str(lines)
    assert secret not in visitor.get("/secrets").text
    assert secret.encode() not in b"".join(
        path.read_bytes() for path in visitor.runtime.settings.chargeapp_data_dir.glob("chargeapp.db*")
    )


def test_a_form_sent_twice_makes_one_secret(visitor: Visitor) -> None:
    (shown,) = SECRET.findall(visitor.post("/secrets", latest="0", overlap="0").text)

    again = visitor.post("/secrets", latest="0", overlap="0")

    assert again.status_code == 400
    assert "A secret was made since this page was loaded" in again.text
    assert signing(visitor.runtime) == [shown]


def test_a_caller_without_a_key_is_said(visitor: Visitor) -> None:
    assert "No API key belongs to a caller of this name" in rotate(visitor, caller="nobody")
    assert "No API key belongs" not in rotate(visitor, caller="staff")


@pytest.mark.parametrize("fields", [{"overlap": "5"}, {"overlap": "x"}, {"kind": "rsa"}, {"caller": "x" * 81}])
def test_a_wrong_form_makes_nothing(visitor: Visitor, fields: dict[str, str]) -> None:
    answer = visitor.post("/secrets", latest="0", **fields)

    assert (answer.status_code, "Nothing was changed" in answer.text) == (400, True)
    assert signing(visitor.runtime) == []


def test_an_old_secret_can_be_retired_before_its_overlap_ends_and_the_newest_cannot(visitor: Visitor) -> None:
    (newest,) = SECRET.findall(rotate(visitor, caller="hub"))
    (old,) = retire_buttons(visitor)

    page = visitor.follow(visitor.post("/secrets/retirement", id=old))

    assert "It signs nothing any more" in page
    assert signing(visitor.runtime, "hub") == [newest]
    assert retire_buttons(visitor) == []
    others = {old: 404, str(int(old) + 1): 404, "x": 400, "9" * 40: 400}
    assert {each: visitor.post("/secrets/retirement", id=each).status_code for each in others} == others
    assert signing(visitor.runtime, "hub") == [newest]


def test_an_operator_looks_and_changes_nothing(runtime: Runtime) -> None:
    rotate(Visitor(runtime), caller="hub")
    before = signing(runtime, "hub")
    operator = Visitor(runtime, Scope.OPERATE)

    page = operator.get("/secrets").text
    codes = [operator.post(path, id="1", latest="2").status_code for path in ("/secrets", "/secrets/retirement")]

    assert fingerprint(before[0]) in page
    assert 'action="/secrets' not in page
    assert codes == [403, 403]
    assert signing(runtime, "hub") == before


def test_rotating_and_retiring_are_one_line_each_in_the_log(visitor: Visitor) -> None:
    with capture_logs() as lines:
        (secret,) = SECRET.findall(rotate(visitor, caller="hub"))
        visitor.post("/secrets/retirement", id=retire_buttons(visitor)[0])

    rotated, retired = (dict(each) for each in lines)
    assert (rotated["action"], rotated["caller"], rotated["key_name"]) == (
        "webhook_secret_rotated",
        "hub",
        "key of staff",
    )
    assert rotated["fingerprint"] == fingerprint(secret)
    assert (retired["action"], retired["caller"]) == ("webhook_secret_retired", "hub")


def test_forms_of_another_session_change_nothing(visitor: Visitor) -> None:
    for path in ("/secrets", "/secrets/retirement"):
        assert visitor.post(path, token="", latest="0", id="1").status_code == 403
    assert signing(visitor.runtime) == []
