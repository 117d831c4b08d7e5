"""convert --dry-run: tasks, time and bytes by a few files, and nothing is written."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.run.records import ConvertRequest
from emcfsys_engine.tools.convert.conversion import convert_labels
from emcfsys_engine.tools.convert.forecast import forecast
from tests.tools.drawn_masks import blobs, save_mask

pytestmark = pytest.mark.usefixtures("own_cache")


def _request(folder: Path, to: str) -> ConvertRequest:
    return ConvertRequest(
        source=str(folder / "masks"),
        out=str(folder / f"out-{to}"),
        to=to,  # type: ignore[arg-type]
        shards=4,
        shards_at_once=2,
    )


@pytest.mark.parametrize("to", ["geojson", "coco"])
def test_bytes_and_tasks_are_those_that_follow(to: str, tmp_path: Path) -> None:
    for number in range(12):
        save_mask(tmp_path / f"masks/{number}.png", blobs(number, 200))
    request = _request(tmp_path, to)
    found = forecast(request)
    assert (found.images, found.tasks, found.at_once, found.tried) == (12, 4, 2, 3)
    assert found.pixels == 12 * 200 * 207
    assert found.read_bytes == sum(f.stat().st_size for f in (tmp_path / "masks").iterdir())
    out = Path(request.out)
    assert not out.exists()
    assert found.lines[0].startswith("12 files, ")
    convert_labels(request.source, out, to=to)  # type: ignore[arg-type]
    written = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    assert 0.7 * written < found.written_bytes < 1.4 * written
    with pytest.raises(InputError, match="nothing of it is left to convert. Look at --out"):
        forecast(request)


def test_files_of_which_none_can_be_converted_are_named(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for n in range(3):
        (tmp_path / f"masks/{n}.png").write_bytes(b"\x89PNG\r\n\x1a\n none")
    with pytest.raises(InputError, match="none of the files that were tried can be converted"):
        forecast(_request(tmp_path, "geojson"))
