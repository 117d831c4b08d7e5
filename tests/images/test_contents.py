"""Images are known again by all their bytes, which are read again only where a file changed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from emcfsys_engine.images import contents
from emcfsys_engine.images.contents import Contents
from emcfsys_engine.images.output_book import OutputBook


@pytest.fixture(autouse=True)
def old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file for one that was left alone for long."""
    monkeypatch.setattr(contents, "_COARSEST_NS", -(10**12))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was read."""
    seen: list[Path] = []
    real = contents._digest_of

    def counted(image: Path, *more: object) -> str:
        seen.append(image)
        return real(image, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(contents, "_digest_of", counted)
    return seen


def _image(folder: Path) -> Path:
    file = folder / "a.tif"
    file.write_bytes(bytes(100_000))
    return file


def _change_keeping_size_and_time(file: Path) -> None:
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(50_000)
        stream.write(b"x")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_image_is_read_once_and_again_when_it_changed_whatever_its_times_say(
    tmp_path: Path, reads: list[Path]
) -> None:
    image, known = _image(tmp_path), Contents()
    first = known.of(image)
    assert known.of(image) == first
    assert len(reads) == 1
    _change_keeping_size_and_time(image)
    assert known.of(image) != first
    assert len(reads) == 2


def test_a_copy_of_the_same_content_is_read_once_and_then_known(
    tmp_path: Path, reads: list[Path]
) -> None:
    image, book = _image(tmp_path), OutputBook(tmp_path / "out")
    book.refuse_gone()
    first = book.contents.of(image)
    book.note_contents()
    shutil.copy(image, tmp_path / "copy")
    (tmp_path / "copy").replace(image)
    for reads_by_now in (2, 2):
        later = OutputBook(tmp_path / "out")
        assert later.contents.of(image) == first
        later.note_contents()
        assert len(reads) == reads_by_now


def test_what_was_written_a_moment_ago_is_read_again_by_the_next_run(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some disks count times in steps of two seconds."""
    monkeypatch.setattr(contents, "_COARSEST_NS", 10**12)
    image, known = _image(tmp_path), Contents()
    known.of(image)
    known.of(image)
    assert len(reads) == 1
    assert known.take_new() == known.lines() == []


def test_a_zarr_image_is_another_when_one_of_its_chunks_is(
    tmp_path: Path, reads: list[Path]
) -> None:
    image, known = tmp_path / "a.zarr", Contents()
    array = zarr.create_array(image, shape=(64, 64), chunks=(32, 32), dtype="uint8")
    array[:] = 1
    first = known.of(image)
    assert first
    assert known.of(image) == first
    assert len(reads) == 1
    array[40, 40] = np.uint8(2)
    assert known.of(image) != first


def test_what_cannot_be_read_or_must_not_be_waited_for_has_no_digest(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    large = tmp_path / "large.tif"
    large.write_bytes(bytes(1_000_000))
    known = Contents()
    assert known.of(tmp_path / "gone.tif") == ""
    assert known.of(tmp_path / "folder") == ""
    assert known.of(large, lambda: True) == ""
    assert known.of(large) != ""


def test_an_older_program_passes_over_what_it_does_not_know(tmp_path: Path) -> None:
    """It takes a line for a file's or a stem's: this one is neither."""
    image, book = _image(tmp_path), OutputBook(tmp_path / "out")
    book.refuse_gone()
    book.contents.of(image)
    book.note_contents()
    line = book.file.read_text()
    assert '"seen"' in line
    assert '"file"' not in line and '"stem"' not in line
