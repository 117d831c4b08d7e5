"""convert, measure and report replace only what they wrote themselves."""

import json
from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from emcfsys_engine.tools.report.page import write_report
from tests.tools.made import GRAINS


def test_tables_that_are_not_ours_are_kept(masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "numbers"
    out.mkdir()
    (out / "objects.csv").write_text("mine")
    for _ in range(2):
        made = measure_masks(str(masks), out, MeasureSettings(classes=GRAINS))
        assert (out / "objects.csv").read_text() == "mine"
        assert made.objects_file == str(out / "objects.v2.csv")
        assert "objects.v2.csv: the file beside it is not ours" in made.notes[-1]
    assert not list(out.glob("*.v3.*"))


def test_a_report_replaces_an_older_report_and_nothing_else(tmp_path: Path) -> None:
    run = new_run(tmp_path, PredictRequest(model="m", inputs=("/in",), out=str(tmp_path)))
    page = tmp_path / "page.html"
    for _ in range(2):
        assert write_report(run, page) == page
        assert write_report(run).name == "report.html"
    notes = tmp_path / "notes.html"
    notes.write_text("mine")
    page.write_text(json.dumps("changed"))
    for file in (notes, page):
        before = file.read_text()
        with pytest.raises(InputError, match="is not as this program wrote it"):
            write_report(run, file)
        assert file.read_text() == before
