"""Output folders that lie within one another: whose a mask is, and what a listing leaves out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.images.other_outputs import OtherBooks, left_out_outputs
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import digest_of, digest_of_output
from emcfsys_engine.images.reader import find_images, left_out_words


def written(book: OutputBook, mask: Path, image: Path) -> Path:
    """Write a mask, and note of which image it was made."""
    for place in (mask, image):
        place.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(image.name.encode())
    mask.write_bytes(b"a mask of " + image.name.encode())
    content = digest_of(image, image.stat().st_size)
    book.note({mask: digest_of_output(mask)}, image=image, content=content)
    return mask


@pytest.mark.parametrize("is_above", [True, False])
def test_a_mask_is_of_another_image_where_another_output_folder_says_so(
    tmp_path: Path, is_above: bool
) -> None:
    out, inner = tmp_path / "out", tmp_path / "out" / "sub"
    own, other = (inner, out) if is_above else (out, inner)
    mask = written(OutputBook(other), inner / "a.png", tmp_path / "theirs" / "a.png")
    mine = tmp_path / "mine" / "a.png"
    mine.parent.mkdir()
    mine.write_bytes(b"another image")

    books = OtherBooks(own)

    assert books.is_of_another(mask, mine)
    assert not books.is_of_another(mask, tmp_path / "theirs" / "a.png")
    assert not books.is_of_another(inner / "nobody wrote it.png", mine)
    assert not OtherBooks(other).is_of_another(mask, mine)  # that asks its own book


def test_what_lies_in_other_output_folders_below_is_named_tables_and_charts_are_not(
    tmp_path: Path,
) -> None:
    assert left_out_outputs("masks", tmp_path) == ""
    for name in ("masks/day 1", "masks/far/day 2"):
        place = tmp_path / name
        written(OutputBook(place), place / "a.png", tmp_path / "images" / "a.png")
    numbers = tmp_path / "masks" / "numbers"
    written(OutputBook(numbers), numbers / "histogram-grain.png", tmp_path / "images" / "a.png")

    told = left_out_outputs("masks", tmp_path)

    assert told.startswith("2 folders of other outputs lie below ")
    assert told.endswith("day 1, far/day 2")
    assert left_out_outputs("masks/day 1", tmp_path) == ""
    assert left_out_outputs("masks/*/*.png", tmp_path) == ""


def test_pictures_that_convert_wrote_below_a_folder_of_images_are_said_to_be_left_out(
    tmp_path: Path,
) -> None:
    images, inner = tmp_path / "images", tmp_path / "images" / "day 2"
    predicted = images / "masks"
    for place in (images / "a.png", inner / "b.png"):
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(place)
    OutputBook(inner).note({inner / "b.png": digest_of_output(inner / "b.png")})
    written(OutputBook(predicted), predicted / "a.png", tmp_path / "far" / "a.png")
    left_out: list[Path] = []

    found = find_images("images", tmp_path, left_out)

    assert [ref.path.name for ref in found] == ["a.png"]
    assert left_out == [inner]
    assert left_out_words(left_out).startswith("left out, since convert wrote it: 1 folder (")
    left_out = [images / "c.heic", *left_out]
    assert "1 × .heic. Save them as TIFF or PNG. left out, since" in left_out_words(left_out)
