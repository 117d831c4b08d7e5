"""A project that was copied, or moved, keeps its masks; another folder's images have their own."""

import shutil
from pathlib import Path

import pytest

from emcfsys_engine.images.copied_folders import is_elsewhere
from emcfsys_engine.images.output_book import OutputBook, book_of
from emcfsys_engine.images.output_names import WantedName
from emcfsys_engine.images.own_files import digest_of_output


def _predicted(project: Path) -> None:
    """Give a project two images with masks; both images have the same content."""
    for folder in ("incoming/s", "masks/s"):
        (project / folder).mkdir(parents=True)
    book = OutputBook(project / "masks")
    for name in ("a", "b"):
        image = project / f"incoming/s/{name}.tif"
        image.write_bytes(b"pixels")
        (stem,) = book.stems([_wanted(image)], ".png")[0]
        mask = project / f"masks/{stem}.png"
        mask.write_bytes(b"mask")
        book.note({mask: digest_of_output(mask)}, image=image, content="c")


def _wanted(image: Path) -> WantedName:
    return WantedName(image=str(image), folder="s", content="c")


@pytest.mark.parametrize("other", ["copy", "deep/er/copy"])
@pytest.mark.parametrize("is_moved", [True, False])
def test_images_of_a_copied_project_have_the_masks_that_were_copied_with_them(
    tmp_path: Path, other: str, is_moved: bool
) -> None:
    one, two = tmp_path / "one", tmp_path / other
    _predicted(one)
    shutil.copytree(one, two)
    if is_moved:
        shutil.rmtree(one)
    book = OutputBook(two / "masks")
    wanted = [_wanted(two / f"incoming/s/{name}.tif") for name in ("a", "b")]
    assert book.stems(wanted, ".png") == [("s/a",), ("s/b",)]
    new = _wanted(two / "incoming/s/c.tif")
    assert book.stems([new], ".png") == [("s/c",)]


def test_the_same_image_of_another_folder_has_a_mask_of_its_own(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    _predicted(one)
    shutil.copytree(one / "incoming", two / "incoming")
    book = OutputBook(one / "masks")
    assert book.stems([_wanted(two / "incoming/s/a.tif")], ".png") == [("s/a.tif",)]
    _predicted(tmp_path / "three")
    theirs = book_of(tmp_path / "three/masks")
    original = str(one / "incoming/s/a.tif")
    assert not is_elsewhere(original, str(tmp_path / "three/incoming/s/a.tif"), theirs)
    assert not is_elsewhere(original, str(tmp_path / "three/s/a.tif"), theirs)
    theirs.unlink()
    assert not is_elsewhere(original, str(tmp_path / "three/incoming/s/a.tif"), theirs)
