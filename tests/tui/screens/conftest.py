"""The demo in a folder of projects."""

from pathlib import Path

import pytest


@pytest.fixture
def project(demo: Path) -> Path:
    """The demo among the projects of the folder we stand in."""
    (demo.parent / "projects").mkdir()
    return demo.rename(demo.parent / "projects" / "demo")
