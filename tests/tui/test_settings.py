"""Settings: colours that can be read on every theme, names of keys that exist."""

from pathlib import Path

import pytest

from emcfsys_engine.colours import contrast
from emcfsys_tui.app import EmcfApp
from emcfsys_tui.settings import Settings, key_faults, known_keys
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
