"""The page of a session says what came, what failed, what changed and when."""

import os
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.commands.runs import report
from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.report.session import session_page, write_session
from tests.commands.made import say
from tests.hotfolder.test_recipe import project_in
from tests.hotfolder.test_series import BEGAN, SHARP, session


def test_a_session_is_told_whole_and_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    project = project_in(tmp_path, SHARP)
    output = session(project)
    grey = np.zeros((20, 30), np.uint8)
    (tmp_path / "incoming" / "g1").mkdir()
    for place in range(60, 100):  # those that failed
        Image.fromarray(grey).save(tmp_path / "incoming" / "g1" / f"{place:04d}.tif")
    Image.fromarray(grey).save(output / "m.png")
    content = write_session(project).read_text()
    told = re.sub("<[^>]+>", " ", content)
    when = datetime.fromtimestamp(BEGAN + 3600).strftime("%Y-%m-%d %H:%M:%S")
    assert f"at {when}, from g1/0060.tif on" in told
    assert "data:image/png;base64,i" in content  # an example of FAIL
    assert "cannot be shown" in told  # those of PASS are gone from the watched folder
    assert re.search(r"bad0\.tif +is cut", told)
    assert "No recipe is followed" in told
    assert "whole" in told.partition("Journal")[2]
    assert 'src="http' not in content
    assert "<script" not in content


def test_a_change_of_the_recipe_is_told_once_marked_in_each_chart_and_parts_the_limits(
    tmp_path: Path,
) -> None:
    project = project_in(tmp_path)
    session(project, recipes={60: "b" * 16})
    content = session_page(project)
    told = re.sub("<[^>]+>", "\n", content)
    changed, _, rest = told.partition("What changed")[2].partition("Verdicts")
    assert changed.count("recipe bbbbbbbb instead of no recipe at") == 1
    assert "sharpness fell" in told
    assert "b_fraction fell" not in told
    assert content.count('class="best"') >= 3 * 2  # a line and its words, in each chart
    assert re.search(r"no recipe: 60 images", rest)
    assert re.search(r"recipe bbbbbbbb: 40 images", rest)


def test_a_page_of_somebody_else_is_kept(tmp_path: Path) -> None:
    project = project_in(tmp_path, SHARP)
    session(project)
    out = tmp_path / "page.html"
    out.write_text("a person's")
    with pytest.raises(InputError, match="is not as this program wrote it"):
        write_session(project, out)
    assert out.read_text() == "a person's"


def test_a_folder_without_predictions_has_no_session(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no predictions of this session"):
        session_page(project_in(tmp_path))


def test_report_of_a_project_is_its_session_and_since_leaves_out_what_is_older(
    tmp_path: Path,
) -> None:
    session(project_in(tmp_path, SHARP))
    file = Path(say(report, str(tmp_path)).strip())
    assert "<b>100</b><span>images with masks" in file.read_text()
    since = datetime.fromtimestamp(BEGAN + 60 * 95).strftime("%Y-%m-%dT%H:%M")
    say(report, str(tmp_path), "--since", since)
    found = re.search(r"<b>(\d+)</b><span>images with masks", file.read_text())
    assert found is not None
    assert 5 <= int(found[1]) <= 6
    refused = CliRunner().invoke(report, [str(tmp_path), "--numbers", os.curdir])
    assert "--numbers goes with a run" in refused.output
