"""Settings: colours that can be read on every theme, names of keys that exist."""

from pathlib import Path

import pytest

from emcfsys_engine.colours import contrast
from emcfsys_engine.jobs.state_folder import prepare, state_folder
from emcfsys_tui.app import EmcfApp
from emcfsys_tui.settings import (
    Memory,
    Settings,
    key_faults,
    known_keys,
    pin_runs,
    pinned_runs,
    remember,
    remembered,
    with_recent,
)
from tests.tui.conftest import opened, told, until

_WORDS = ("foreground", "primary", "secondary", "accent", "success", "warning", "error", "dim")
_PAPERS = ("background", "surface", "panel", "cursor")
_THEMES = [name for name, theme in EmcfApp().available_themes.items() if not theme.ansi]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@pytest.mark.parametrize("theme", _THEMES)
def test_all_words_are_readable_on_every_paper_of_every_theme(theme: str) -> None:
    app = EmcfApp()
    app.theme = theme
    variables = app.get_css_variables()
    weak = [
        (word, paper, round(apart, 2))
        for word in _WORDS
        for paper in _PAPERS
        if (word, paper) != ("dim", "cursor")  # no dim word stands there
        and (apart := contrast(_rgb(variables[word]), _rgb(variables[paper]))) < 4.5
    ]
    assert not weak


@pytest.mark.parametrize("theme", _THEMES)
def test_curves_and_classes_are_readable_on_every_theme(theme: str) -> None:
    app = EmcfApp()
    app.theme = theme
    paper = _rgb(app.get_css_variables()["background"])
    drawn = [*app.colours, *app.class_colours(12)]
    assert min(contrast(one, paper) for one in drawn if not isinstance(one, int)) >= 4.5


async def test_an_unknown_name_of_a_key_is_said_with_the_nearest(demo: Path) -> None:
    keys = {"runs.marc": "m", "data.next_bare": "b"}
    assert len(key_faults(keys)) == 1
    assert {"train.submit", "list.down", "tools.doctor", "app.help"} <= known_keys()
    async with opened(demo, "1", settings=Settings(bell=False, keys=keys)) as pilot:
        await until(pilot, lambda: "runs.marc" in told(pilot) and "'runs.mark'" in told(pilot))


def test_a_start_finds_what_the_last_one_left() -> None:
    assert remembered() == Memory()
    remember(with_recent(Memory(theme="nord"), Path("/a"), "data"))
    assert remembered() == Memory(recent=("/a",), place="/a", tab="data", theme="nord")
    remember(with_recent(Memory(), Path("/caf\udce9"), "data"))
    assert remembered().place == "/caf\udce9"


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
