"""`chargeapp acl`: the built-in access list from the command line."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from cli_support import DRIVER, STATION, Ended, chargeapp, data_dir, runtime, shown, start, tables, terminal

from chargeapp.clock import utcnow
from chargeapp.commands import access_list_entries, access_list_import
from chargeapp.outbound.access_list import decide

__all__ = ["data_dir", "tables"]

HEADER = "driver_token,station_id,blocked,valid_from,valid_until"
OTHER_DRIVER = "driver-token-number-0002"


@pytest.fixture(autouse=True)
def with_tables(tables: Path) -> None:
    """Every test here has an empty access list."""


def entries() -> list[dict[str, object]]:
    listed = chargeapp("acl", "list", "--json")
    assert listed.status == 0
    found: list[dict[str, object]] = json.loads(listed.out)
    return found


def decision(token: str = DRIVER, station: str = STATION) -> tuple[str, str | None]:
    with runtime() as app, app.database.reading() as session:
        answer = decide(session, app.vault.hash(token), station, utcnow())
    return answer.decision, answer.reason


def import_lines(*lines: str, header: str = HEADER, options: tuple[str, ...] = ()) -> Ended:
    return chargeapp("acl", "import", *options, "-", given="\n".join([header, *lines]) + "\n")


def test_an_added_driver_may_charge_anywhere() -> None:
    added = chargeapp("acl", "add", DRIVER)

    assert (added.status, added.out) == (0, "Allowed: driver driv…0001 at station *.\n")
    assert decision() == ("allowed", None)


def test_a_token_is_read_from_standard_input() -> None:
    assert chargeapp("acl", "add", "-", given=f"{DRIVER}\n").status == 0

    assert decision() == ("allowed", None)


def test_a_terminal_is_asked_for_the_token_and_does_not_show_it() -> None:
    with terminal() as (ours, theirs):
        command = start("acl", "add", "-", stdin=theirs, stderr=subprocess.PIPE)
        assert command.stderr is not None
        while b"Driver token" not in command.stderr.read1():
            assert command.poll() is None
        os.write(ours, f"{DRIVER}\n".encode())
        assert command.wait() == 0
        command.stderr.close()

        assert DRIVER.encode() not in shown(ours)
    assert decision() == ("allowed", None)


def test_no_command_prints_a_whole_token() -> None:
    said = [
        chargeapp("acl", "add", "-", given=DRIVER),
        chargeapp("acl", "list"),
        chargeapp("acl", "list", "--json"),
        chargeapp("acl", "remove", "-", given=DRIVER),
        chargeapp("acl", "remove", "-", given=DRIVER),
        chargeapp("acl", "add", "-", given=f"{DRIVER} {DRIVER}"),
        import_lines(f"{DRIVER},{DRIVER}", f"{DRIVER},,{DRIVER}", f'"{DRIVER}', f"{DRIVER} ,,,,,{DRIVER}"),
        import_lines(header=f"{DRIVER},{STATION}"),
    ]

    assert not [each for each in said if DRIVER in each.out + each.err]


def test_a_blocked_driver_may_not_charge() -> None:
    assert chargeapp("acl", "add", "*").status == 0
    assert chargeapp("acl", "add", DRIVER, "--blocked").out.startswith("Blocked: ")

    assert decision() == ("not_allowed", "blocked")
    assert decision(OTHER_DRIVER) == ("allowed", None)


def test_an_entry_counts_within_its_window_only() -> None:
    assert chargeapp("acl", "add", DRIVER, "--until", "2020-01-01").status == 0
    assert chargeapp("acl", "add", OTHER_DRIVER, "--from", "2999-01-01T00:00:00+01:00").status == 0

    assert decision() == ("not_allowed", "expired")
    assert decision(OTHER_DRIVER) == ("not_allowed", "not_yet_valid")


def test_times_are_utc_unless_they_say_otherwise() -> None:
    window = ("--from", "2026-01-31T08:00", "--until", "2026-01-31T10:00:00+01:00")
    assert chargeapp("acl", "add", DRIVER, *window).status == 0

    [entry] = entries()
    assert (entry["validFrom"], entry["validUntil"]) == ("2026-01-31T08:00:00+00:00", "2026-01-31T09:00:00+00:00")


@pytest.mark.parametrize("spelling", [STATION.upper(), STATION.replace("-", "")])
def test_a_station_is_found_however_its_uuid_was_written(spelling: str) -> None:
    assert chargeapp("acl", "add", DRIVER, "--station", spelling).status == 0

    assert decision() == ("allowed", None)
    assert chargeapp("acl", "remove", DRIVER, "--station", spelling).status == 0


def test_remove_takes_away_the_entry_of_exactly_this_station() -> None:
    assert chargeapp("acl", "add", DRIVER).status == 0
    assert chargeapp("acl", "add", DRIVER, "--station", STATION).status == 0

    assert chargeapp("acl", "remove", DRIVER).status == 0

    assert [entry["stationId"] for entry in entries()] == [STATION]


def test_removing_what_is_not_there_ends_with_1_and_says_so() -> None:
    removed = chargeapp("acl", "remove", DRIVER)

    assert removed.status == 1
    assert removed.err.splitlines() == [
        "chargeapp: There is no entry for driver driv…0001 at station *. See: chargeapp acl list"
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["short"], 1, "driver_token must be 20 to 80 characters"),
        ([f"{DRIVER}!"], 1, "driver_token must be 20 to 80 characters"),
        ([DRIVER, "--station", "one"], 2, "must be a UUID or * for every station"),
        ([DRIVER, "--station", "{" + STATION[2:] + "}"], 2, "must be a UUID or * for every station"),
        ([DRIVER, "--station", STATION.replace("-", "").replace("1", "_", 1)], 2, "must be a UUID"),
        ([DRIVER, "--from", "soon"], 2, "must be a date or time such as"),
        ([DRIVER, "--until", "0001-01-01T00:00:00+14:00"], 2, "must be a date or time such as"),
        ([DRIVER, "--from", "2026-02-01", "--until", "2026-01-01"], 2, "--until must be later than --from"),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_stored(arguments: list[str], status: int, message: str) -> None:
    ended = chargeapp("acl", "add", *arguments)

    assert ended.status == status
    assert message in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert entries() == []


def test_the_shortest_token_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIVER_TOKEN_MIN_LENGTH", "8")

    assert chargeapp("acl", "add", "04a1b2c3").status == 0
    assert import_lines("04a1b2c4,,,,").status == 0


def test_a_list_of_several_pages_is_printed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_list_entries, "ENTRIES_PER_PAGE", 2)
    assert import_lines(*(f"driver-token-number-{number:04},,,," for number in range(5))).status == 0

    assert len(entries()) == 5
    assert len(chargeapp("acl", "list").out.splitlines()) == 1 + 5


def test_an_empty_list_is_an_empty_array() -> None:
    assert chargeapp("acl", "list", "--json").out == "[]\n"


def test_a_table_tells_station_window_and_block() -> None:
    assert import_lines(f"{DRIVER},{STATION},yes,2026-01-01,2027-01-01").status == 0

    heading, line = chargeapp("acl", "list").out.splitlines()
    assert heading.split() == ["DRIVER", "STATION", "BLOCKED", "FROM", "UNTIL"]
    assert line.split() == ["driv…0001", STATION, "blocked", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"]


def test_a_file_is_imported(tmp_path: Path) -> None:
    file = tmp_path / "drivers.csv"
    file.write_bytes(f"\ufeff{HEADER}\r\n{DRIVER},{STATION.upper()},,,\r\n\r\n*,*,true,,\r\n".encode())

    ended = chargeapp("acl", "import", str(file))

    assert (ended.status, ended.out, ended.err) == (0, "Imported 2 entries.\n", "")
    assert {(each["driverToken"], each["stationId"], each["blocked"]) for each in entries()} == {
        ("driv…0001", STATION, False),
        ("*", "*", True),
    }


def test_only_the_column_of_tokens_is_required() -> None:
    assert import_lines(DRIVER, header="driver_token").out == "Imported 1 entries.\n"

    assert decision() == ("allowed", None)


def test_importing_again_changes_nothing_and_the_last_of_two_lines_counts() -> None:
    lines = (f"{DRIVER},,,,", f"{DRIVER},,true,,")

    assert [import_lines(*lines).status for _ in range(2)] == [0, 0]

    assert [entry["blocked"] for entry in entries()] == [True]


BAD_LINES = [
    ("short,,,,", "driver_token must be 20 to 80 characters out of A-Z a-z 0-9 - . _ ~, or * for every driver"),
    (",,,,", "driver_token must be 20 to 80 characters"),
    (f"{DRIVER},one,,,", "station_id must be a UUID, or * or nothing for every station"),
    (f"{DRIVER},,perhaps,,", "blocked must be true or false, or nothing for false"),
    (f"{DRIVER},,,yesterday,", "valid_from must be a date or time such as 2026-01-31T08:00:00Z, or nothing"),
    (f"{DRIVER},,,,0001-01-01T00:00:00+14:00", "valid_until must be a date or time"),
    (f"{DRIVER},,,2026-02-01,2026-01-01", "valid_until must be later than valid_from"),
    (f"{DRIVER},", "2 values, but line 1 names 5 columns"),
    (f"{DRIVER},,,,,", "6 values, but line 1 names 5 columns"),
    (f'"{DRIVER},,,,', "not CSV. Close every quote"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_with_what_to_do(line: str, message: str) -> None:
    ended = import_lines(f"{OTHER_DRIVER},,,,", line)

    assert ended.status == 1
    assert ended.err.startswith(f"line 3: {message}")


def test_every_bad_line_is_reported_and_nothing_is_stored() -> None:
    ended = import_lines(f"{DRIVER},,,,", *(line for line, _ in BAD_LINES))

    assert ended.status == 1
    assert [line.partition(":")[0] for line in ended.err.splitlines()[:-1]] == [f"line {n}" for n in range(3, 13)]
    assert ended.err.splitlines()[-1].startswith("chargeapp: 10 bad lines, so nothing was imported.")
    assert entries() == []


def test_skip_bad_imports_the_good_lines() -> None:
    lines = [f"{DRIVER},,,,", *(line for line, _ in BAD_LINES), f"{OTHER_DRIVER},,,,"]

    ended = import_lines(*lines, options=("--skip-bad",))

    assert (ended.status, ended.out) == (0, "Imported 2 entries. Skipped 10 bad lines.\n")
    assert len(ended.err.splitlines()) == 10
    assert len(entries()) == 2


def test_text_in_another_encoding_is_reported() -> None:
    ended = chargeapp("acl", "import", "-", given=f"{HEADER}\n{DRIVER},,nö,,\n".encode("latin-1"))

    assert (ended.status, ended.err.splitlines()[0]) == (1, "line 2: not UTF-8. Save the file as UTF-8.")


@pytest.mark.parametrize(
    "header", ["", "token,station", f"{DRIVER},{STATION}", "driver_token,driver_token", "driver_token;station_id", '"']
)
def test_a_file_that_does_not_name_its_columns_is_refused(header: str) -> None:
    ended = import_lines(f"{DRIVER},,,,", header=header, options=("--skip-bad",))

    assert ended.status == 1
    assert ended.err.startswith("chargeapp: line 1: ")
    assert entries() == []


def test_a_file_that_is_not_there_is_said_in_one_line() -> None:
    ended = chargeapp("acl", "import", "nowhere.csv")

    assert ended.status == 2
    assert "No such file or directory" in ended.err


def test_each_thousand_lines_are_a_transaction_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    put = access_list_import.put_entries
    monkeypatch.setattr(access_list_import, "put_entries", lambda *given: (sizes.append(len(given[1])), put(*given)))

    assert import_lines(*(f"driver-token-number-{number:04},,,," for number in range(2_500))).status == 0

    assert sizes == [1_000, 1_000, 500]
    assert len(entries()) == 2_500


def test_what_comes_through_a_pipe_is_checked_as_a_whole_too() -> None:
    def through_a_pipe(content: str) -> int:
        command = start("acl", "import", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        command.communicate(f"{HEADER}\n{content}\n".encode())
        return command.returncode

    assert through_a_pipe(f"{DRIVER},,,,\nshort,,,,") == 1
    assert entries() == []
    assert through_a_pipe(f"{DRIVER},,,,\n{OTHER_DRIVER},,,,") == 0
    assert len(entries()) == 2


def test_a_terminal_sees_how_far_the_import_is(tmp_path: Path) -> None:
    file = tmp_path / "drivers.csv"
    file.write_text(f"{HEADER}\n{DRIVER},,,,\n")

    with terminal() as (ours, theirs):
        command = start("acl", "import", str(file), stdout=subprocess.PIPE, stderr=theirs)
        assert command.communicate()[0] == b"Imported 1 entries.\n"
        bar = shown(ours)

    assert b"Checking" in bar
    assert b"Importing" in bar
