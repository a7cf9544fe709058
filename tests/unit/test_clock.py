"""The time goes on steadily while the wall clock is set."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chargeapp import clock

HOUR = 3600.0


class Machine:
    """One with a wall clock to set, and a second one to wait for; `clock` takes it for `time`."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.uptime = 100.0

    def time(self) -> float:
        return self.wall

    def clock_gettime(self, _: int) -> float:
        return self.uptime

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine()
    monkeypatch.setattr(clock, "time", machine)
    monkeypatch.setattr(clock, "BOOT_ID", tmp_path / "boot_id")
    clock.BOOT_ID.write_text("first\n")
    begin_process(tmp_path)
    machine.wait(1)
    yield machine
    clock._course = None


def begin_process(directory: Path) -> None:
    clock.keep_steady(directory / "note")


def now() -> float:
    return clock.utcnow().timestamp()


def test_it_is_the_wall_clock_while_nobody_sets_that(machine: Machine) -> None:
    machine.wait(HOUR)

    assert now() == machine.wall


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_it_goes_on_where_it_was_when_the_wall_clock_jumps(machine: Machine, jump: float) -> None:
    before = now()
    machine.wall += jump

    assert now() == before


@pytest.mark.parametrize(("jump", "passes"), [(HOUR, 31.5), (-HOUR, 28.5)])
def test_it_catches_up_so_slowly_that_30_seconds_stay_less_than_32(
    machine: Machine, jump: float, passes: float
) -> None:
    before = now()
    machine.wall += jump
    now()

    machine.wait(30)

    assert now() - before == pytest.approx(passes, abs=0.01)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_it_has_caught_up_with_an_hour_after_twenty(machine: Machine, jump: float) -> None:
    machine.wall += jump
    now()
    machine.wait(19 * HOUR)
    on_the_way = machine.wall - now()

    machine.wait(2 * HOUR)

    assert on_the_way == pytest.approx(jump / 20, abs=0.01)
    assert now() == machine.wall


@pytest.mark.parametrize("jump", [4.0, -4.0, 3 * HOUR, -3 * HOUR])
def test_small_corrections_and_long_jumps_are_followed_at_once(machine: Machine, jump: float) -> None:
    machine.wall += jump

    assert now() == machine.wall


def test_a_clock_that_is_set_and_set_right_again_leaves_nothing_behind(machine: Machine) -> None:
    machine.wall += HOUR
    now()
    machine.wall -= HOUR

    assert now() == machine.wall


def test_a_process_that_begins_after_the_jump_has_the_same_time(machine: Machine, tmp_path: Path) -> None:
    before = now()
    machine.wall += HOUR
    begin_process(tmp_path)
    assert now() == before
    machine.wait(HOUR)

    begin_process(tmp_path)

    assert now() == pytest.approx(before + 1.05 * HOUR, abs=0.01)


def test_a_jump_that_another_process_has_noted_counts_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    before, as_before = now(), clock._course
    machine.wall += HOUR
    now()
    machine.wait(10)
    monkeypatch.setattr(clock, "_course", as_before)

    assert now() == pytest.approx(before + 10.5, abs=0.01)


def test_after_a_start_of_the_machine_it_is_the_wall_clock(machine: Machine, tmp_path: Path) -> None:
    machine.wall += HOUR
    now()
    clock.BOOT_ID.write_text("second\n")
    machine.uptime = 1.0

    begin_process(tmp_path)

    assert now() == machine.wall


def test_a_pause_of_the_process_between_two_readings_is_no_jump(machine: Machine) -> None:
    read = machine.time

    def stopped_after_reading() -> float:
        found = read()
        machine.wait(60)
        machine.time = read  # type: ignore[method-assign]
        return found

    machine.time = stopped_after_reading  # type: ignore[method-assign]
    now()

    assert now() == machine.wall


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"boot": "first", "offset": "x"}'])
def test_a_note_that_cannot_be_read_is_written_anew(machine: Machine, tmp_path: Path, content: str) -> None:
    (tmp_path / "note").write_text(content)

    begin_process(tmp_path)

    assert now() == machine.wall
    assert clock._noted() == clock._course


def test_who_cannot_write_the_note_goes_on_alone(machine: Machine, tmp_path: Path) -> None:
    begin_process(tmp_path / "missing")
    before = now()
    machine.wall += HOUR

    assert now() == before


def test_where_hosts_have_to_agree_it_is_the_time_of_all(machine: Machine, tmp_path: Path) -> None:
    everybodys = datetime(2026, 1, 2, tzinfo=UTC)
    clock.follow(lambda: everybodys)
    machine.wall += HOUR

    assert clock.utcnow() == everybodys
    begin_process(tmp_path)
    assert clock.utcnow() != everybodys


def test_the_wall_clock_is_at_hand_for_what_stands_in_calendars() -> None:
    assert abs(clock.wall_clock().timestamp() - datetime.now().astimezone().timestamp()) < 60


def test_small_corrections_do_not_add_up_to_a_jump(machine: Machine, tmp_path: Path) -> None:
    for _ in range(4):
        machine.wall += 2.0

        assert now() == machine.wall

    begin_process(tmp_path)
    assert now() == machine.wall


def test_a_note_from_before_nothing_could_be_written_does_not_count(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = now()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", disk_full)
        machine.wall += HOUR
        assert now() == before
    machine.wait(600)
    after = now()
    machine.wall -= HOUR / 2

    assert now() == pytest.approx(after, abs=0.01)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("note.")] == []
