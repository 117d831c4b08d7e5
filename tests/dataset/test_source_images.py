"""The images of one [[data]] table: which they are, what they are called, how they are turned."""

from pathlib import Path

import pytest
import tifffile

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.dataset.source_images import group_of, name_of, plain_names
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.project import Source
from tests.dataset.made import AUTO, Maker, fill, picture, save


def test_masks_among_or_below_the_images_are_no_images(make: Maker, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a_mask.png", "masks/b.png"):
        save(tmp_path / "images" / name, picture(0))
    for masks, names in (("images", ["a", "b", "masks/b"]), ("images/masks", ["a", "a_mask", "b"])):
        project = make(f'[[data]]\nimages = "images"\nmasks = "{masks}"\n')
        assert [name for _, name in plain_names(project, 0)] == names


def test_a_folder_that_is_gone_has_no_names(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 2, 1)
    project = make(AUTO)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert plain_names(project, 0) == []


@pytest.mark.parametrize(
    ("expression", "group"),
    [
        (None, None),
        (r"^day(\d)/", "2"),
        ("grid[0-9]", "grid7"),
        ("^grid", "grid"),
        ("nothing", None),
    ],
)
def test_a_group_is_what_the_expression_finds_in_path_or_name(
    expression: str | None, group: str | None
) -> None:
    image, root = ImageRef(path=Path("/in/day2/grid7.tif"), plane=3), Path("/in")
    assert name_of(image, root) == "day2/grid7.0003"
    assert group_of(Source(images="in", masks="m", group=expression), image, root) == group


def test_a_tiff_that_asks_to_be_turned_is_told(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 4, 1)
    (tmp_path / "images/im0x.png").unlink()
    turned = [(274, "H", 1, 3, True)]
    tifffile.imwrite(tmp_path / "images/im0x.tif", picture(0), extratags=turned)
    notes = [note for note in list_samples(make(AUTO)).notes if "orientation" in note]
    assert len(notes) == 1
    assert notes[0].startswith("data.0.images: im0x.tif: its orientation tag says to turn it")
