"""What the interface remembers is small, whole, and done without where it is damaged."""

from pathlib import Path

import pytest

from emcfsys_engine.jobs.state_folder import prepare, state_folder
from emcfsys_tui.memory import Memory, pin_runs, pinned_runs, remember, remembered, with_recent


def test_a_start_finds_what_the_last_one_left() -> None:
    assert remembered() == Memory()
    remember(with_recent(Memory(theme="nord"), Path("/a"), "data"))
    assert remembered() == Memory(recent=("/a",), place="/a", tab="data", theme="nord")


def test_the_newest_project_stands_first_and_once() -> None:
    memory = Memory()
    for place in ("/a", "/b", "/a"):
        memory = with_recent(memory, Path(place), "runs")
    assert memory.recent == ("/a", "/b")
    for number in range(50):
        memory = with_recent(memory, Path(f"/{number}"), "runs")
    assert len(memory.recent) == 20


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"recent": 7}'])
def test_damaged_memory_is_none(damage: bytes) -> None:
    (prepare(state_folder()) / "interface.json").write_bytes(damage)
    assert remembered() == Memory()


def test_pins_are_a_projects_own_and_one_damaged_file_is_said_and_written_anew() -> None:
    pin_runs(Path("/a"), {"run-0002", "run-0001"})
    pin_runs(Path("/b"), {"run-0009"})
    assert pinned_runs(Path("/a")) == (frozenset({"run-0001", "run-0002"}), "")
    pin_runs(Path("/a"), ())
    assert pinned_runs(Path("/a")) == (frozenset(), "")
    assert pinned_runs(Path("/b"))[0] == {"run-0009"}
    (state_folder() / "pins.json").write_bytes(b"{")
    pinned, fault = pinned_runs(Path("/b"))
    assert pinned == frozenset()
    assert "is damaged" in fault
    pin_runs(Path("/b"), {"run-0001"})
    assert pinned_runs(Path("/b")) == (frozenset({"run-0001"}), "")
