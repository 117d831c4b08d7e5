"""Pixels and pixel sizes as every viewer shows them: each kind against a second reader."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rsciio.digitalmicrograph import file_reader as read_dm

from emcfsys_engine.annotations.masks import mask_facts, read_mask, table_of
from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef, nm_per
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.images.rows import open_rows
from emcfsys_engine.images.side_cars import pixel_nm_beside


@pytest.fixture
def reported(shared_data: Path) -> Path:
    return shared_data / "reported" / "22_images"


def _rows(path: Path) -> np.ndarray:
    rows = open_rows(ImageRef(path=path))
    assert rows is not None
    with rows:
        return rows.read(0, rows.height)


@pytest.mark.parametrize("name", ["miniswhite8.tif", "inverted_palette.bmp", "pal1wb.bmp"])
def test_a_picture_in_which_0_is_white_is_no_negative(reported: Path, name: str) -> None:
    with Image.open(reported / name) as seen:
        assert np.array_equal(read_micrograph(reported / name).pixels, seen.convert("L"))


def test_inks_become_the_colours_that_they_make(reported: Path) -> None:
    with Image.open(reported / "cmyk.tif") as seen:
        wanted = np.asarray(seen.convert("RGB")).astype(int)
    found = read_micrograph(reported / "cmyk.tif").pixels
    assert found.shape == wanted.shape == probe(reported / "cmyk.tif").shape
    assert np.abs(found.astype(int) - wanted).max() <= 1
    assert np.array_equal(_rows(reported / "cmyk.tif"), found)


def test_a_jpeg_that_ends_early_is_refused_and_a_whole_one_with_more_behind_it_is_read(
    reported: Path, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="ends early"):
        read_micrograph(reported / "truncated_half.jpg")
    file = tmp_path / "whole.jpg"
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(file, progressive=True)
    whole = file.read_bytes()
    file.write_bytes(whole + b"appended by a microscope")
    assert read_micrograph(file).pixels.shape == (64, 64)
    for share in (0.5, 0.9):
        (tmp_path / "cut.jpg").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ImageError):
            read_micrograph(tmp_path / "cut.jpg")


def test_bytes_of_imod_count_from_0_and_those_of_others_have_a_sign(
    reported: Path, tmp_path: Path
) -> None:
    file = reported / "u8_imod_unsigned.mrc"
    pixels = read_micrograph(file).pixels
    assert (pixels.dtype, pixels.min(), pixels.max()) == (np.dtype("u1"), 0, 255)
    data = bytearray(file.read_bytes())
    data[156:160] = (1).to_bytes(4, "little")  # IMOD's flag: the bytes have a sign
    (tmp_path / "signed.mrc").write_bytes(data)
    assert read_micrograph(tmp_path / "signed.mrc").pixels.dtype == np.dtype("i1")


def test_axes_of_hdf5_are_those_that_the_file_names(reported: Path, tmp_path: Path) -> None:
    with h5py.File(reported / "raw_xyz.h5") as file:
        (name,) = file
        stored = np.asarray(file[name])
    found = read_micrograph(ImageRef(path=reported / "raw_xyz.h5", plane=1)).pixels
    assert np.array_equal(found, stored[:, :, 1].T)
    facts = probe(reported / "probabilities_yxc2.h5")
    assert (facts.shape, facts.planes) == ((48, 64, 2), 1)
    assert any("first is used" in note for note in facts.notes)
    assert probe(reported / "seg_yxc1.h5").shape == (48, 64)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        data = file.create_dataset("d", data=np.zeros((5, 32, 40), "u2"))
        data.dims[0].label, data.dims[1].label, data.dims[2].label = "c", "y", "x"
    facts = probe(tmp_path / "labels.h5")
    assert (facts.shape, facts.planes) == ((32, 40), 5)


@pytest.mark.parametrize("raw", ["", "no json", '{"axes": 3}', "[" * 9000, json.dumps({})])
def test_axis_tags_that_make_no_sense_say_nothing(tmp_path: Path, raw: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("d", data=np.zeros((3, 32, 40), "u2")).attrs["axistags"] = raw
    assert probe(tmp_path / "a.h5").planes == 3


def test_a_tiny_dm_image_is_no_text(reported: Path) -> None:
    file = reported / "dm3_uint16_16x4.dm3"
    (signal,) = read_dm(str(file))
    assert np.array_equal(read_micrograph(file).pixels, signal["data"])


@pytest.mark.parametrize(
    "name",
    ["omex_entity.ome.tif", "ij_micrometers.tif", "zeiss_AP_PIXEL_only.tif", "fei_comma.tif"],
)
def test_a_pixel_size_that_is_written_is_found(reported: Path, name: str) -> None:
    assert probe(reported / name).pixel_nm == pytest.approx((12.5, 12.5))


@pytest.mark.parametrize(
    ("unit", "nm"),
    [
        ("microns", 1e3), ("micrometers", 1e3), ("Micrometres", 1e3), ("nanometers", 1.0),
        ("angstroms", 0.1), ("Ångström", 0.1), ("Å", 0.1), ("µm", 1e3), ("millimeters", 1e6),
        ("m", 1e9), ("pixels", None), ("1/nm", None), ("s", None), ("ms", None), ("inches", None),
    ],
)  # fmt: skip
def test_units_are_read_in_every_spelling_and_none_is_guessed(unit: str, nm: float | None) -> None:
    assert nm_per(unit) == nm


_HITACHI = "[SemImageFile]\r\nDataSize={size}\r\nPixelSize=12,5\r\n"
_JEOL = "$CM_FORMAT x\n$CM_FULL_SIZE {size}\n$$SM_MICRON_BAR 80\n$$SM_MICRON_MARKER 1um\n"
_TESCAN = "[MAIN]\nPixelSizeX=1.25e-008\nPixelSizeY=1.25e-008\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", _HITACHI.format(size="40x30")),
        ("a.txt", _JEOL.format(size="40 30")),
        ("a.hdr", _TESCAN),
        ("a-tif.hdr", _TESCAN),
    ],
)
def test_a_text_beside_a_picture_gives_its_pixel_size(tmp_path: Path, name: str, text: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((30, 40), np.uint8))
    assert probe(tmp_path / "a.tif").pixel_nm is None
    (tmp_path / name).write_bytes(text.encode("utf-16" if name == "a.txt" else "ascii"))
    assert probe(tmp_path / "a.tif").pixel_nm == pytest.approx((12.5, 12.5))
    assert read_micrograph(tmp_path / "a.tif").pixel_nm == pytest.approx((12.5, 12.5))


@pytest.mark.parametrize("text", [_HITACHI.format(size="80x60"), "PixelSize=3\n", "\0" * 99, ""])
def test_a_text_of_another_picture_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert pixel_nm_beside(tmp_path / "a.tif", (30, 40)) is None


@settings(max_examples=40, deadline=None)
@given(bits=st.sampled_from([1, 8, 16]), seed=st.integers(0, 99), tiled=st.booleans())
def test_white_is_zero_is_turned_whole_and_by_rows(
    tmp_path_factory: pytest.TempPathFactory, bits: int, seed: int, tiled: bool
) -> None:
    rng = np.random.default_rng(seed)
    shown = rng.integers(0, 2**bits, (48, 64)).astype(np.uint16 if bits == 16 else np.uint8)
    stored = (2**bits - 1 - shown).astype(shown.dtype)
    file = tmp_path_factory.mktemp("w") / "a.tif"
    options = {"tile": (16, 16)} if tiled and bits > 1 else {"rowsperstrip": 5}
    data = stored.astype(bool) if bits == 1 else stored
    tifffile.imwrite(file, data, photometric="miniswhite", **options)  # type: ignore[arg-type]
    assert np.array_equal(read_micrograph(file).pixels, shown)
    assert np.array_equal(_rows(file), shown)


def _fei(section: str) -> tuple[int, object]:
    return 34682, f"[{section}]\r\nPixelWidth=1,25e-08\r\nPixelHeight=1,25e-08\r\n"


@pytest.mark.parametrize(
    "tag",
    [
        _fei("Scan"),
        _fei("EScan"),
        (34118, "\r\nAP_PIXEL_SIZE\r\nPixel Size = 12,5 nm\r\n"),
        (34118, "\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 0.0125 µm\r\n".encode("cp1252")),
        (50431, "[MAIN]\r\nDevice=MIRA3\r\nPixelSizeX=1.25e-008\r\nPixelSizeY=1.25e-008\r\n"),
    ],
)
def test_makers_write_their_pixel_size_in_many_ways(
    tmp_path: Path, tag: tuple[int, object]
) -> None:
    file = tmp_path / "a.tif"
    extra = [(tag[0], 2, 0, tag[1], True)]
    tifffile.imwrite(file, np.zeros((8, 8), "u1"), metadata=None, extratags=extra)
    assert probe(file).pixel_nm == pytest.approx((12.5, 12.5))


def test_colours_that_no_viewer_shows_as_stored_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 10, 10)).convert("LAB").save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="Save it as RGB"):
        probe(tmp_path / "a.tif")


def test_a_last_axis_of_one_is_one_channel(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["d"] = np.arange(48 * 64, dtype="u2").reshape(48, 64, 1)
    assert read_micrograph(tmp_path / "a.h5").pixels.shape == (48, 64)


def test_an_inverting_table_of_imagej_lies_over_plain_values(tmp_path: Path) -> None:
    values = np.arange(200, dtype=np.uint8).reshape(10, 20)
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, photometric="miniswhite")
    assert np.array_equal(read_micrograph(tmp_path / "a.tif").pixels, values)


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
