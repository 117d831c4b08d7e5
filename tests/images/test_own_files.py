"""What an image's digest tells, and what no digest is ever taken of."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.images import own_files
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import (
    Contents,
    digest_of,
    digest_of_output,
    is_content,
    is_other_file,
    put_over,
    remove_ours,
    write_new,
)

CONTENT = bytes(range(256)) * 1000


@given(place=st.integers(0, len(CONTENT) - 1))
def test_a_digest_tells_a_rewrite_anywhere_from_a_touch(
    tmp_path_factory: pytest.TempPathFactory, place: int
) -> None:
    file = tmp_path_factory.mktemp("digest") / "a"
    file.write_bytes(CONTENT)
    first = digest_of(file, len(CONTENT))
    file.touch()
    assert digest_of(file, len(CONTENT)) == first
    changed = bytearray(CONTENT)
    changed[place] ^= 1
    file.write_bytes(changed)
    assert digest_of(file, len(CONTENT)) != first


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, int]:
    """A file of which older versions read a part only."""
    file, size = tmp_path / "a", (48 << 20) + 1
    file.touch()
    os.truncate(file, size)
    return file, size


def _flip(file: Path, place: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


def test_a_large_file_is_told_by_every_byte(large: tuple[Path, int]) -> None:
    file, size = large
    first = digest_of(file, size)
    for place in (0, 100_001, size // 2, size // 3, size - 1):
        _flip(file, place)
        now = digest_of(file, size)
        assert now != first
        first = now


def test_a_large_file_is_not_read_to_its_end_when_the_end_is_asked_for(
    large: tuple[Path, int],
) -> None:
    with pytest.raises(InterruptedError):
        digest_of(*large, lambda: True)


def test_a_digest_of_blocks_that_an_older_version_noted_is_known(large: tuple[Path, int]) -> None:
    file, size = large
    older = hashlib.blake2b(str(size).encode(), digest_size=20)
    with file.open("rb") as stream:
        for number in range(512):
            stream.seek(number * (-(-size // 65_536) - 1) // 511 * 65_536)
            older.update(stream.read(65_536))
    assert is_content(older.hexdigest(), file, digest_of(file, size))
    _flip(file, 0)
    assert not is_content(older.hexdigest(), file, digest_of(file, size))


def test_a_digest_that_an_older_version_noted_is_known(tmp_path: Path) -> None:
    file, size = tmp_path / "a", len(CONTENT)
    file.write_bytes(CONTENT)
    older = hashlib.blake2b(str(size).encode(), digest_size=16)
    older.update(CONTENT[:65_536] + CONTENT[-65_536:])
    assert is_content(older.hexdigest(), file, digest_of(file, size))
    file.write_bytes(b"x" + CONTENT[1:])
    assert not is_content(older.hexdigest(), file, digest_of(file, size))


def test_a_pipe_in_an_images_place_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(OSError, match="is a pipe"):
        digest_of(tmp_path / "a", 1 << 20)


def test_a_folder_a_pipe_or_the_image_itself_is_no_mask_that_is_there(tmp_path: Path) -> None:
    image, mask = tmp_path / "in.png", tmp_path / "a.png"
    image.write_bytes(b"image")
    assert not is_other_file(mask, image)
    mask.mkdir()
    assert not is_other_file(mask, image)
    (mask / "zarr.json").touch()
    assert is_other_file(mask, image)
    os.mkfifo(tmp_path / "b.png")
    assert not is_other_file(tmp_path / "b.png", image)
    (tmp_path / "c.png").write_bytes(b"image")
    assert not is_other_file(tmp_path / "c.png", image)
    (tmp_path / "d.png").write_bytes(b"mask!")
    assert is_other_file(tmp_path / "d.png", image)


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_new_file_replaces_nothing_that_came_meanwhile(tmp_path: Path, kind: str) -> None:
    file, other = tmp_path / "net.onnx", tmp_path / "other"
    {
        "file": lambda: file.write_bytes(b"mine"),
        "link": lambda: file.symlink_to(other),
        "folder": file.mkdir,
    }[kind]()
    with pytest.raises(FileExistsError) as told:
        write_new(file, b"ours")
    assert told.value.filename == str(file)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    write_new(other, b"ours")
    assert other.read_bytes() == b"ours"


@pytest.fixture(autouse=True)
def old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file for one that was left alone for long."""
    monkeypatch.setattr(own_files, "_COARSEST_NS", -(10**12))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was read."""
    seen: list[Path] = []
    real = own_files._digest_of

    def counted(image: Path, *more: object) -> str:
        seen.append(image)
        return real(image, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(own_files, "_digest_of", counted)
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
    monkeypatch.setattr(own_files, "_COARSEST_NS", 10**12)
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


def _into(file: Path) -> None:
    file.write_text("a person's")


def _instead(file: Path) -> None:
    other = file.with_name("theirs")
    other.write_text("a person's")
    other.replace(file)


@pytest.mark.parametrize("save", [_into, _instead])
@pytest.mark.parametrize("at_look", [1, 2])
def test_what_is_saved_between_the_last_look_and_the_renaming_is_kept(
    tmp_path: Path, save: Callable[[Path], None], at_look: int
) -> None:
    place, temporary = tmp_path / "a.json", tmp_path / ".a.json.tmp"
    place.write_text("ours")
    temporary.write_text("ours, newer")
    looks: list[bool] = []

    def is_ours(there: Path) -> bool:
        looks.append(there.read_text().startswith("ours"))
        if len(looks) == at_look:
            save(place)
        return looks[-1]

    with pytest.raises(FileExistsError):
        put_over(temporary, place, is_ours)
    assert place.read_text() == "a person's"
    assert {file.name for file in tmp_path.iterdir()} == {"a.json", ".a.json.tmp"}
    place.write_text("ours")
    looks.clear()
    remove_ours(place, is_ours)
    assert place.read_text() == "a person's"
    assert {file.name for file in tmp_path.iterdir()} == {"a.json", ".a.json.tmp"}


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_what_is_ours_is_removed_whole(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "a.zarr"
    if kind != "nothing":
        inner = place / "0" if kind == "folder" else place
        inner.parent.mkdir(exist_ok=True)
        inner.write_text("ours")
    assert remove_ours(place, lambda there: there.exists()) == (kind != "nothing")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_at_the_last_look_takes_nothing_away(tmp_path: Path) -> None:
    place, temporary = tmp_path / "a.json", tmp_path / ".a.json.tmp"
    place.write_text("a person's")
    temporary.write_text("ours, newer")

    def is_ours(there: Path) -> bool:
        if there != place:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        put_over(temporary, place, is_ours)
    with pytest.raises(KeyboardInterrupt):
        remove_ours(place, is_ours)
    assert place.read_text() == "a person's"
    assert not (tmp_path / ".a.json.old").exists()


def test_a_folder_is_put_over_one_of_ours_only(tmp_path: Path) -> None:
    place, temporary = tmp_path / "a.zarr", tmp_path / ".a.zarr.tmp"
    for folder, content in ((place, "ours"), (temporary, "ours, newer")):
        folder.mkdir()
        (folder / "0").write_text(content)
    (place / "mine").write_text("a person's")
    with pytest.raises(FileExistsError):
        put_over(temporary, place, lambda there: not (there / "mine").exists())
    assert (place / "0").read_text() == "ours"
    (place / "mine").unlink()
    put_over(temporary, place, lambda there: not (there / "mine").exists())
    assert (place / "0").read_text() == "ours, newer"
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]


def test_what_is_taken_away_at_that_moment_is_written_anew(tmp_path: Path) -> None:
    place, temporary = tmp_path / "a.json", tmp_path / ".a.json.tmp"
    place.write_text("ours")
    temporary.write_text("ours, newer")
    put_over(temporary, place, lambda there: there.unlink() is None)
    assert place.read_text() == "ours, newer"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("is_saved", [True, False])
def test_without_hard_links_what_is_saved_right_after_the_look_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_saved: bool
) -> None:
    file = tmp_path / "a.png"

    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))  # as on FAT and SMB

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(os.path, "lexists", lambda _: False)  # a moment before
    if is_saved:
        file.write_bytes(b"mine")
        with pytest.raises(FileExistsError):
            write_new(file, b"made")
    else:
        write_new(file, b"made")
    assert file.read_bytes() == (b"mine" if is_saved else b"made")
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's rights")
def test_what_a_colleague_put_in_place_of_a_mask_for_their_own_eyes_is_none_of_ours() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        mask = Path(folder, "a.png")
        mask.write_bytes(b"painted")
        mask.chmod(0o600)
        os.seteuid(65534)
        try:
            assert digest_of_output(mask) == ""
        finally:
            os.seteuid(0)
