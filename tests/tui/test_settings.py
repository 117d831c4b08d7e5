"""Settings: colours that can be read on every theme."""

import pytest

from emcfsys_engine.colours import contrast
from emcfsys_tui.app import EmcfApp

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
