"""What a person made of a file of ours is kept; what another process of ours wrote is ours."""

from pathlib import Path

import pytest

from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import OutputsBelow, place_own, write_own


@pytest.mark.parametrize("is_ours_before", [True, False])
def test_what_a_person_saves_while_a_file_is_made_is_kept(
    tmp_path: Path, is_ours_before: bool
) -> None:
    book, file = OutputBook(tmp_path), tmp_path / "a.json"
    if is_ours_before:
        write_own(file, b"{}", book)

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"new")
        file.write_bytes(b"a person's")

    placed = place_own(file, book, write)
    assert (file.read_bytes(), placed.read_bytes()) == (b"a person's", b"new")
    assert placed == tmp_path / "a.v2.json"
    assert OutputBook(tmp_path).has(placed)


def test_what_another_process_wrote_a_moment_ago_is_ours(tmp_path: Path) -> None:
    """As after a kill: the process that takes the image over finds the mask there already."""
    ours, theirs = OutputBook(tmp_path), OutputBook(tmp_path)
    file = tmp_path / "a.json"
    theirs_file = write_own(file, b"one", theirs)
    assert not ours.has(file)
    assert ours.has_now(file, of_image=False)
    assert not ours.has_now(file, of_image=True)  # no prediction made it
    assert write_own(file, b"two", OutputBook(tmp_path)) == theirs_file == file
    file.write_bytes(b"a person's")
    assert not ours.has_now(file, of_image=False)


def test_what_was_written_into_an_output_below_is_told_from_images(tmp_path: Path) -> None:
    below = OutputsBelow(tmp_path)
    out = tmp_path / "today" / "masks"
    (out / "s").mkdir(parents=True)
    assert below.whose("today/masks/s/a.png") is None
    file = write_own(out / "s" / "a.png", b"a mask", OutputBook(out))
    later = write_own(out / "b.png", b"a mask", OutputBook(out))
    assert below.whose("today/masks/s/a.png") == out
    file.write_bytes(b"corrected by a person")
    assert below.whose("today/masks/s/a.png") == out
    assert below.whose("today/masks/b.png") == out
    assert below.whose("today/masks/c.png") is None
    assert below.whose("today/b.png") is None
    assert OutputsBelow(later.parent / "s").whose("a.png") is None  # above the root nobody looks
