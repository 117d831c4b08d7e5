"""Widgets alone: the virtual list, the chart, the picture."""

from pathlib import Path


def test_no_file_name_of_this_package_is_a_junk_drawer() -> None:
    root = Path(__file__).resolve().parents[2] / "emcfsys_tui"
    names = {file.stem for file in root.rglob("*.py")}
    assert not names & {"utils", "helpers", "common"}
