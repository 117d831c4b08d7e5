"""Rows of runs as an interface that starts now reads them."""

from pathlib import Path

from emcfsys_tui.engine.runs_reader import RunsReader
from emcfsys_tui.view_models import RunRow


def rows_of(folder: Path) -> tuple[RunRow, ...]:
    """Return the rows as an interface that is started now reads them."""
    reader = RunsReader(folder)
    read = reader.read()
    while read is not None and not read.is_complete:
        read = reader.read()
    assert read is not None
    return read.runs
