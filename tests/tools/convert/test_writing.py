"""One file after another is written; a disk that takes none ends it, a bad file does not."""

import errno
from pathlib import Path

import pytest

from emcfsys_engine.errors import OutputError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.tools.convert import writing
from emcfsys_engine.tools.convert.conversion import plan_labels
from emcfsys_engine.tools.convert.writing import Converter, gathered
from tests.tools.drawn_masks import blobs, save_mask


def _two(folder: Path) -> str:
    save_mask(folder / "masks/a.png", blobs(1))
    (folder / "masks/b.png").write_bytes(b"\x89PNG\r\n\x1a\n none")
    return str(folder / "masks")


def test_what_cannot_be_read_is_skipped_and_the_rest_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan, book = plan_labels(_two(tmp_path), out, to="coco"), OutputBook(out)
    converter = Converter(plan.of_all, out, book)
    became = [(one, converter.one(one)) for one in plan.items]
    assert not (out / "annotations.json").exists()  # of all together, at the end
    found = gathered(plan.of_all, became, out, book)
    assert found.written == (f"{out / 'annotations.json'} (a)",)
    assert [Path(one.file).name for one in found.skipped] == ["b.png"]
    assert found.summary == "1 written, 1 skipped"


def test_a_full_disk_is_told_with_its_number_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    plan = plan_labels(_two(tmp_path), out, to="geojson")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "place_own", full)
    with pytest.raises(OutputError, match="a.geojson: cannot be written: No space left") as told:
        Converter(plan.of_all, out, OutputBook(out)).one(plan.items[0])
    assert told.value.errno == errno.ENOSPC
    assert not out.exists()
