"""Names inside annotation files lead nowhere."""

import pytest

from emcfsys_engine.annotations.shapes import inner_path


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("C:\\data\\a.png", "data/a.png"),
        ("/abs/./b.png", "abs/b.png"),
        (7, ""),
    ],
)
def test_paths_inside_files_lead_nowhere(name: object, clean: str) -> None:
    assert inner_path(name) == clean
