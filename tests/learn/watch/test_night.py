"""A night at a microscope: what went wrong stands in the morning's report, with when it began."""

import io
import os
import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from emcfsys_engine.hotfolder import scan
from emcfsys_engine.hotfolder.group_files import folder_of
from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.hotfolder.recipe import lock_recipe
from emcfsys_engine.hotfolder.review import groups_of, read_verdicts, verify_journal
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import WatchRequest
from emcfsys_engine.tools.demo import make_micrograph
from emcfsys_engine.tools.report.session import write_session
from tests.learn.conftest import run_here
from tests.learn.hot import Hot

DUSK = datetime(2026, 11, 26, 20)
EVERY = timedelta(minutes=4)
NUMBER = 180  # images: twelve hours
SIDE_PX = 96
LIMITS = """
[limits]
group = "folder"
[limits.sharpness]
fail_below = 0.06
[limits.saturation]
review_above = 0.05
[limits.pixel_nm]
review_above = 9
[limits.groups.fail_share]
review_above = 0.2
"""


def is_in(when: datetime, hour: float, hours: float) -> bool:
    first = datetime(2026, 11, 27) + timedelta(hours=hour)
    return first <= when < first + timedelta(hours=hours)


def picture(number: int, when: datetime) -> bytes:
    """A micrograph as the microscope of this hour makes it: 02:00 defocus, 04:00 charging."""
    _, grey = make_micrograph(3, number, SIDE_PX)
    pixels = grey.astype(np.float32)
    if is_in(when, 2, 1.5):
        pixels = ndimage.gaussian_filter(pixels, 4)
    if is_in(when, 4, 1):
        rows = np.linspace(0, 6, SIDE_PX)[:, None]
        pixels = pixels + 140 * (np.sin(rows) > 0)
    stream = io.BytesIO()
    pixel_nm = 16 if when.hour >= 6 and when.day == 27 else 8  # another magnification
    dpi = 0.0254 / (pixel_nm * 1e-9)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "PNG", dpi=(dpi, dpi))
    return stream.getvalue()


def play_night(incoming: Path) -> None:
    """Write what a night leaves: a folder an hour, every ninth file cut off as it was copied."""
    for number in range(NUMBER):
        when = DUSK + number * EVERY
        folder = incoming / when.strftime("%d-%Hh")
        folder.mkdir(parents=True, exist_ok=True)
        content = picture(number, when)
        file = folder / f"{number:04d}.png"
        file.write_bytes(content[: len(content) // 2] if number % 9 == 4 else content)
        os.utime(file, (when.timestamp(), when.timestamp()))


@pytest.mark.long
def test_a_night_that_went_wrong_ends_in_a_report_that_says_so(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_BACK_OFF_S", (0.0,) * scan.MAX_ATTEMPTS)
    hot = Hot(tmp_path, model_file)
    file = hot.folder / "project.toml"
    file.write_text(file.read_text() + LIMITS)
    play_night(hot.incoming)
    project = load_project(hot.folder)
    recipe = lock_recipe(project, model_file, tmp_path / "night.json")
    request = WatchRequest(
        model=str(model_file),
        watch=str(hot.incoming),
        output=str(hot.output),
        once=True,
        recipe=str(tmp_path / "night.json"),
    )
    run_here(new_run(project.runs_folder, request, project=project))

    cut = [entry for entry in read_ledger(hot.output) if entry.state == "failed"]
    assert len(cut) == 20
    counts, _ = read_verdicts(hot.output, ())
    assert counts["fail"] >= 18  # of 22 or so out of focus
    assert sum(counts.values()) == NUMBER - 20
    assert {group.name for group in groups_of(hot.output) if group.state == "review"} >= {"27-02h"}
    assert (folder_of(hot.output) / "27-02h.json").exists()

    content = write_session(project).read_text()
    told = re.sub("<[^>]+>", "\n", content)
    changed = told.partition("What changed")[2].partition("Verdicts")[0]
    assert re.search(r"sharpness fell .* at 2026-11-27 02:0", changed), changed
    assert re.search(r"sharpness rose .* at 2026-11-27 03:[23]", changed), changed
    assert re.search(r"(saturation|mean|contrast) rose .* at 2026-11-27 04:0", changed), changed
    assert re.search(r"pixel_nm rose from 8 to 16 at 2026-11-27 06:0", changed), changed
    assert re.search(r"20\n+could not be predicted", told)
    assert recipe.id in told
    assert verify_journal(hot.output).head in told
