"""measure --dry-run: tasks, time and bytes by a few masks, and nothing is written."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.run.records import MeasureRequest
from emcfsys_engine.tools.measure.forecast import forecast
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from tests.tools.drawn_masks import blobs, save_mask


def _request(folder: Path) -> MeasureRequest:
    masks, out = str(folder / "masks"), str(folder / "out")
    return MeasureRequest(masks=masks, out=out, shards=4, shards_at_once=2)


def test_bytes_and_tasks_are_those_that_follow(tmp_path: Path) -> None:
    for number in range(12):
        save_mask(tmp_path / f"masks/{number}.png", blobs(number, 200), (5.0, 5.0))
    found = forecast(_request(tmp_path))
    assert (found.images, found.tasks, found.at_once, found.tried) == (12, 4, 2, 3)
    assert found.pixels == 12 * 200 * 207
    assert found.read_bytes == sum(f.stat().st_size for f in (tmp_path / "masks").iterdir())
    assert not (tmp_path / "out").exists()
    assert found.lines[0].startswith("12 masks, ")
    done = measure_masks(str(tmp_path / "masks"), tmp_path / "out", MeasureSettings())
    written = sum(Path(file).stat().st_size for file in (done.objects_file, done.images_file))
    assert 0.7 * written < found.written_bytes < 1.5 * written


def test_masks_of_which_none_can_be_measured_are_named(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    request = _request(tmp_path)
    with pytest.raises(InputError, match="holds no masks"):
        forecast(request)
