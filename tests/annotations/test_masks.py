"""Masks: palettes, transparency, smoothed edges and wrong values, told in words."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.annotations.masks import (
    is_smoothed,
    mask_facts,
    read_mask,
    table_of,
    unknown_values,
)
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.images.micrograph import ImageRef
from tests.images.formats.pictures import GREY


def test_a_fax_mask_has_the_pores_that_a_viewer_shows(shared_data: Path) -> None:
    project = shared_data / "reported" / "21_project_miniswhite_masks"
    table = table_of({"bg": 0, "pore": 1}, {})
    for file in sorted((project / "masks").glob("*.tif")):
        with Image.open(file) as seen:
            wanted = np.asarray(seen.convert("L")) > 0
        assert np.array_equal(read_mask(ImageRef(path=file), table, "index", (0, 1)) == 1, wanted)
        assert wanted.mean() == pytest.approx(0.065, abs=0.002)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 0, 0)])
def test_a_transparent_pixel_of_a_mask_is_unlabelled(tmp_path: Path, colour: tuple) -> None:
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[:10, :, 3] = 255
    pixels[10:, :, :3] = 77  # whatever lies under it
    Image.fromarray(pixels).save(tmp_path / "a.png")
    labels = {"#ff0000": "pore"} if any(colour) else {}
    table = table_of({"bg": 0, "pore": 1}, labels)
    ids = read_mask(ImageRef(path=tmp_path / "a.png"), table, "index", (0, 1))
    assert (ids[:10] == (1 if any(colour) else 0)).all()
    assert (ids[10:] == 255).all()
    assert mask_facts(ImageRef(path=tmp_path / "a.png"), table).transparent == 300


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("clear", [None, 2])
def test_a_palette_mask_gives_its_classes_and_what_is_transparent_is_unlabelled(
    name: str, colours: bool, clear: int | None, tmp_path: Path
) -> None:
    ids = (GREY // 90).astype(np.uint8)
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    options = {} if clear is None else {"transparency": clear}
    picture.save(tmp_path / name, optimize=False, **options)
    words = {"#ff0000": "pore", "#00ff00": "grain", "#000000": "background"} if colours else {}
    table = table_of({"background": 0, "pore": 1, "grain": 2}, words)
    found = read_mask(ImageRef(path=tmp_path / name), table, "index", (0, 1, 2))
    assert np.array_equal(found, np.where(ids == clear, 255, ids))
    facts = mask_facts(ImageRef(path=tmp_path / name), table)
    assert facts.transparent == (ids == clear).sum()


TABLE = table_of({"background": 0, "pore": 1}, {})


def said(file: Path) -> str:
    ref = ImageRef(path=file)
    facts = mask_facts(ref, TABLE)
    return str(unknown_values(ref, facts.unknown(TABLE), facts))


def discs(levels: list[int]) -> np.ndarray:
    rows, columns = np.mgrid[:96, :96]
    mask = np.full((96, 96), levels[0], np.uint8)
    for number, level in enumerate(levels[1:]):
        mask[np.hypot(rows - 48, columns - 24 - 44 * number) < 18] = level
    return mask


@pytest.mark.parametrize("quality", [30, 60, 75, 90, 95, 100])
@pytest.mark.parametrize("levels", [[0, 255], [0, 128, 255]])
def test_jpeg_masks_are_named_at_any_quality_with_ranges_that_work(
    tmp_path: Path, quality: int, levels: list[int]
) -> None:
    truth = discs(levels)
    Image.fromarray(truth).save(tmp_path / "a.jpg", quality=quality)
    words = said(tmp_path / "a.jpg")
    assert "smoothed, by JPEG" in words
    ranges = re.findall(r'"(\d+-\d+)"', words)
    assert len(ranges) == len(levels)
    names = [f"c{number}" for number in range(len(levels))]
    table = table_of(
        {name: number for number, name in enumerate(names)}, dict(zip(ranges, names, strict=True))
    )
    ids = read_mask(ImageRef(path=tmp_path / "a.jpg"), table, "index", tuple(range(len(levels))))
    assert float((ids == np.searchsorted(levels, truth)).mean()) > 0.98


def test_anti_aliased_masks_are_smoothed(tmp_path: Path) -> None:
    large = Image.fromarray(discs([0, 255]))
    large.resize((64, 64), Image.Resampling.BILINEAR).save(tmp_path / "a.png")
    assert '"0-127" = "…" and "128-255" = "…"' in said(tmp_path / "a.png")


@pytest.mark.parametrize("largest", [255, 256, 900])
def test_numbered_objects_are_not_smoothed_edges(tmp_path: Path, largest: int) -> None:
    numbers = np.arange(1024).reshape(32, 32).repeat(4, 0).repeat(4, 1)
    numbers = np.where(numbers <= largest, numbers, 0)
    kind = np.uint8 if largest < 256 else np.uint16
    Image.fromarray(numbers.astype(kind)).save(tmp_path / "a.png")
    words = said(tmp_path / "a.png")
    assert "smoothed" not in words
    assert f'"1-{largest}" = "…"' in words
    table = table_of({"background": 0, "pore": 1}, {f"1-{largest}": "pore"})
    ids = read_mask(ImageRef(path=tmp_path / "a.png"), table, "index", (0, 1))
    assert int((ids == 1).sum()) == largest * 16


def test_few_wrong_values_are_named_one_by_one(tmp_path: Path) -> None:
    Image.fromarray(discs([0, 7])).save(tmp_path / "a.png")
    with pytest.raises(AnnotationError, match="value 7 is no class"):
        read_mask(ImageRef(path=tmp_path / "a.png"), TABLE, "index", (0, 1))


def test_objects_are_not_smoothed_edges_when_few_numbers_have_most_pixels(
    shared_data: Path, tmp_path: Path
) -> None:
    mask = np.zeros((96, 96), np.uint8)
    mask[:40, :60] = 24  # one large object beside many small ones
    for number in range(1, 24):
        row, column = divmod(number - 1, 8)
        mask[48 + 14 * row : 58 + 14 * row, 12 * column : 12 * column + 9] = number
    Image.fromarray(mask).save(tmp_path / "a.png")
    made = ImageRef(path=tmp_path / "a.png")
    assert not is_smoothed(mask_facts(made, TABLE), made)
    folder = shared_data / "particles-em" / "instances"
    if not folder.exists():
        pytest.skip(f"the real masks of numbered objects are not here ({folder})")
    refs = [ImageRef(path=file) for file in sorted(folder.glob("*.png"))]
    assert len(refs) == 60
    assert [ref for ref in refs if is_smoothed(mask_facts(ref, TABLE), ref)] == []
