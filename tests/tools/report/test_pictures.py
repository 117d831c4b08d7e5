"""A page shows the pictures that tell, as they lie or smaller, and names what it cannot show."""

from pathlib import Path

import numpy as np
from PIL import Image

from emcfsys_engine.run.events import PreviewSaved
from emcfsys_engine.run.folder import Run
from emcfsys_engine.tools.report import pictures
from emcfsys_engine.tools.report.pictures import embedded, previews


def _save(file: Path, side: int = 8) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(file)
    return file


def test_of_many_previews_best_first_middle_and_last_are_shown(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "run-0001")
    steps = [*range(10, 310, 10)]
    files = [_save(run.previews_folder / f"{step}.png") for step in steps]
    events = [
        PreviewSaved(file=str(file), image="a.tif", step=step)
        for file, step in zip(files, steps, strict=True)
    ]
    page = previews(run, events, 40)
    for words in ("step 40 (best)", "step 10<", "step 160<", "step 300<"):
        assert words in page
    assert page.index("(best)") < page.index("step 300<")
    assert "and 18 more in the folder previews" in page


def test_previews_behind_a_link_are_somebody_elses_and_stay_out(tmp_path: Path) -> None:
    _save(tmp_path / "private" / "10.png")
    run = Run(tmp_path / "run-0001")
    run.folder.mkdir()
    run.previews_folder.symlink_to(tmp_path / "private")
    assert previews(run, [], None) == ""


def test_a_large_picture_is_made_smaller_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    large = _save(tmp_path / "large.png", 1200)
    assert large.stat().st_size > 1 << 20
    small = embedded(large, "large")
    whole = embedded(_save(tmp_path / "small.png"), "small")
    assert len(small) < 4 * large.stat().st_size / 3 and "large" in small
    assert "base64" in whole
    (tmp_path / "cut.png").write_bytes(large.read_bytes()[:500])
    assert "cut cannot be shown" in embedded(tmp_path / "cut.png", "cut")
    assert pictures.previews(Run(tmp_path / "none"), [], None) == ""
