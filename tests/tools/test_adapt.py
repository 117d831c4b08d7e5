"""A model adapted by a few labelled images: what trains, what validates, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.tools.adapt import make_adaptation


def _image(file: Path, side: int = 128, pixel_nm: float = 12.5) -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(3).integers(0, 60_000, (side, side)).astype(np.uint16)
    metadata = {"axes": "YX", "PhysicalSizeX": pixel_nm, "PhysicalSizeXUnit": "nm"}
    metadata |= {"PhysicalSizeY": pixel_nm, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(file, grey, ome=True, metadata=metadata)
    return grey


def _outline(file: Path, side: int = 128, **more: object) -> None:
    """A grain in the upper left corner and across the middle."""
    shapes = [
        {"label": "grain", "shape_type": "rectangle", "points": points}
        for points in ([[10, 10], [40, 40]], [[80, 80], [120, 120]])
    ]
    document = {"version": "5.5.0", "flags": {}, "imagePath": file.with_suffix(".tif").name}
    document |= {"imageHeight": side, "imageWidth": side, "shapes": shapes, **more}
    file.write_text(json.dumps(document))


def test_a_quarter_validates_and_the_rest_of_the_image_trains(
    tmp_path: Path, model_file: Path
) -> None:
    grey = _image(tmp_path / "new.tif")
    _outline(tmp_path / "new.json")
    project = make_adaptation(
        model_file, [str(tmp_path / "new.tif")], tmp_path / "out", labels=None, minutes=0.5
    )
    train = np.asarray(Image.open(tmp_path / "out" / "masks" / "new.png"))
    held = np.asarray(Image.open(tmp_path / "out" / "quarter_masks" / "new.png"))
    assert (train[64:, 64:] == UNLABELLED).all()
    assert (train == UNLABELLED).sum() == held.size == 64 * 64
    assert set(np.unique(held)) == {0, 7}
    quarter = tmp_path / "out" / "quarters" / "new.tif"
    assert np.array_equal(read_micrograph(quarter).pixels, grey[64:, 64:])
    assert probe(quarter).pixel_nm == pytest.approx((12.5, 12.5))
    assert project.class_names == read_card(model_file).classes
    assert [source.split for source in project.data] == ["train", "val"]


@pytest.mark.parametrize(
    ("sizes_nm", "wanted"),
    [((5.6,), 4.0), ((4.2, 5.6), 4.0), ((4.2,), None), ((17.0,), None), ((0.9,), None)],
)
def test_images_of_another_pixel_size_are_brought_to_that_of_the_model(
    tmp_path: Path, model_file: Path, sizes_nm: tuple[float, ...], wanted: float | None
) -> None:
    for number, size in enumerate(sizes_nm):
        _image(tmp_path / f"{number}.tif", pixel_nm=size)
        _outline(tmp_path / f"{number}.json")
    images = [str(tmp_path / f"{number}.tif") for number in range(len(sizes_nm))]
    project = make_adaptation(model_file, images, tmp_path / "out", labels=None, minutes=0.5)
    assert read_card(model_file).pixel_nm == 4
    assert project.project.pixel_nm == wanted


def test_an_image_of_unknown_pixel_size_stays_as_it_is(tmp_path: Path, model_file: Path) -> None:
    tifffile.imwrite(tmp_path / "new.tif", _image(tmp_path / "sized.tif"))
    _outline(tmp_path / "new.json")
    project = make_adaptation(
        model_file, [str(tmp_path / "new.tif")], tmp_path / "out", labels=None, minutes=0.5
    )
    assert project.project.pixel_nm is None


@pytest.mark.parametrize("place", ["beside", "folder", "mask"])
def test_labels_are_found_beside_the_image_in_a_folder_and_as_a_mask(
    tmp_path: Path, model_file: Path, place: str
) -> None:
    _image(tmp_path / "a [1].tif")
    labels = None
    if place == "mask":
        mask = np.zeros((128, 128), np.uint8)
        mask[10:41, 10:41] = mask[80:121, 80:121] = 255
        Image.fromarray(mask).save(tmp_path / "a [1]_mask.png")
    else:
        (tmp_path / "drawn").mkdir()
        _outline(tmp_path / ("drawn" if place == "folder" else "") / "a [1].json")
        labels = str(tmp_path / "drawn") if place == "folder" else None
    image = str(tmp_path / "a [1].tif")
    make_adaptation(model_file, [image], tmp_path / "out", labels=labels, minutes=1)
    held = np.asarray(Image.open(tmp_path / "out" / "quarter_masks" / "a [1].png"))
    assert int((held == 7).sum()) == 41 * 41


def test_images_that_cannot_teach_are_refused_and_nothing_is_written(
    tmp_path: Path, model_file: Path
) -> None:
    out = tmp_path / "out"

    def refused(match: str, *images: Path) -> None:
        with pytest.raises(InputError, match=match):
            make_adaptation(model_file, [*map(str, images)], out, labels=None, minutes=1)
        assert not out.exists()

    _image(tmp_path / "bare.tif")
    refused("has no labels beside it", tmp_path / "bare.tif")
    _image(tmp_path / "small.tif", side=32)
    refused("only 32 × 32", tmp_path / "small.tif")
    _image(tmp_path / "other.tif")
    _outline(tmp_path / "other.json", side=64)
    refused("of an image of 64 × 64", tmp_path / "other.tif")
    _image(tmp_path / "sub" / "bare.tif")
    refused("shares its name", tmp_path / "bare.tif", tmp_path / "sub" / "bare.tif")
    # Of one file on many disks: each image would be adapted to the other's mask.
    for one, other in (("Bare", "bare"), ("\N{LATIN SMALL LETTER A WITH DIAERESIS}", "a\u0308")):
        _image(tmp_path / "alike" / f"{one}.tif")
        _image(tmp_path / "alike" / "sub" / f"{other}.tif")
        both = [tmp_path / "alike" / f"{one}.tif", tmp_path / "alike" / "sub" / f"{other}.tif"]
        refused("shares its name", *both)
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 128, 128), np.uint8))
    refused("is a stack", tmp_path / "stack.tif")
    out.mkdir()
    with pytest.raises(InputError, match="is there already"):
        make_adaptation(model_file, [str(tmp_path / "other.tif")], out, labels=None, minutes=1)


def test_a_quarter_of_a_colour_image_keeps_its_colours(tmp_path: Path, model_file: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "new.png")
    _outline(tmp_path / "new.json", imagePath="new.png")
    image = [str(tmp_path / "new.png")]
    make_adaptation(model_file, image, tmp_path / "out", labels=None, minutes=1)
    quarter = read_micrograph(tmp_path / "out" / "quarters" / "new.tif").pixels
    assert np.array_equal(quarter, colours[64:, 64:])


@pytest.mark.long
def test_adapt_says_what_was_gained_and_prints_the_new_model(
    tmp_path: Path, model_file: Path, engine_here: Callable[..., str]
) -> None:
    _image(tmp_path / "new.tif")
    _outline(tmp_path / "new.json")
    image, out = tmp_path / "new.tif", tmp_path / "out"
    told = engine_here("adapt", model_file, image, "--out", out, "--minutes", "0.05")
    new = Path(told.splitlines()[-1])
    assert new.is_relative_to(out)
    assert read_card(new).classes == read_card(model_file).classes


def test_a_class_that_the_model_does_not_know_is_told_without_a_project(
    tmp_path: Path, model_file: Path
) -> None:
    _image(tmp_path / "new.tif")
    shape = {"label": "crystal", "shape_type": "rectangle", "points": [[10, 10], [40, 40]]}
    _outline(tmp_path / "new.json", shapes=[shape])
    with pytest.raises(InputError, match=r'"crystal" is no class.*call it by one of them') as told:
        make_adaptation(
            model_file, [str(tmp_path / "new.tif")], tmp_path / "out", labels=None, minutes=0.5
        )
    assert "data.labels" not in str(told.value)
    assert not (tmp_path / "out").exists()
