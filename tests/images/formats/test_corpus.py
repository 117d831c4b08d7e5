"""Every real file of the corpus is read right, or refused with the right sentence."""

import csv
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, probe, read_micrograph

# file: shape of plane 0, dtype, planes, pixel size (y, x) in nm, bits, info-bar rows
RIGHT = {
    "czi/RGB-multichannel.czi": ((81, 147, 3), "uint8", 7, (2958.49, 2958.49), 8, 0),
    "czi/s_1_t_1_c_1_z_1.czi": ((325, 475), "uint16", 1, (1083.33, 1083.33), 16, 0),
    "emd/Acquisition_18.emd": ((1024, 1024), "uint16", 1, (0.0122465, 0.0122465), 16, 0),
    "emd/FFTComplexEven.emd": ((128, 128), "uint16", 1, (27.1153, 27.1153), 16, 0),
    "emd/STEM HAADF Diffraction Micro.emd": ((128, 128), "uint16", 1, (87.3708, 87.3708), 16, 0),
    "emd/example_image_berkeley.emd": ((3, 3), "int32", 1, None, 32, 0),
    "fei-tia/128x128-TEM_search.emi": ((128, 128), "int32", 1, (5.26121, 5.26121), 32, 0),
    "fei-tia/128x128-TEM_search_1.ser": ((128, 128), "int32", 1, (5.26121, 5.26121), 32, 0),
    "fei-tia/16_STOimage.emi": ((1024, 1024), "uint16", 1, (0.0100127, 0.0100127), 16, 0),
    "fei-tia/64x64_TEM_images_acquire.emi": ((64, 64), "float32", 1, (6.28183, 6.28183), 32, 0),
    "fei-tia/64x64_TEM_images_acquire_1.ser": ((64, 64), "float32", 1, (6.28183, 6.28183), 32, 0),
    "gatan/dmTest_3D_int16_64,65,66.dm3": ((65, 64), "int16", 66, (3.0, 0.002), 16, 0),
    "gatan/dmTest_float32_nonSquare_diffPixelSize.dm3": (
        (64, 128), "float32", 1, (0.2, 1.0), 32, 0,
    ),
    "gatan/dmTest_float32_nonSquare_diffPixelSize.dm4": (
        (64, 128), "float32", 1, (0.2, 1.0), 32, 0,
    ),
    "gatan/dtypes/test-1.dm4": ((2, 2), "int16", 1, None, 16, 0),
    "gatan/dtypes/test-11.dm4": ((2, 2), "uint32", 1, None, 32, 0),
    "gatan/dtypes/test-2.dm4": ((2, 2), "float32", 1, None, 32, 0),
    "gatan/dtypes/test-6.dm4": ((2, 2), "uint8", 1, None, 8, 0),
    "gatan/dtypes/test-7.dm4": ((2, 2), "int32", 1, None, 32, 0),
    "gatan/dtypes/test-9.dm4": ((2, 2), "int8", 1, None, 8, 0),
    "gatan/test_diffraction_pattern.dm3": ((87, 87), "int32", 1, None, 32, 0),
    "gatan/test_dm_image_um_unit.dm3": ((68, 68), "int32", 1, (168.675, 168.675), 32, 0),
    "mrc/Custom_movie.mrc": ((16, 16), "uint16", 30, None, 16, 0),
    # Columns of this map run along z and rows along x: 0.4583 Å across, 0.4482 Å down.
    "mrc/EMD-3001.map": ((43, 73), "float32", 25, (0.044825, 0.045875), 32, 0),
    "mrc/EMD-3001.map.bz2": ((43, 73), "float32", 25, (0.044825, 0.045875), 32, 0),
    "mrc/EMD-3197.map": ((20, 20), "float32", 20, (1.14, 1.14), 32, 0),
    "mrc/HAADFscan.mrc": ((16, 16), "uint16", 1, (5.67913, 5.67913), 16, 0),
    "phenom/Elid2Version4.elid": ((16, 20), "uint8", 3, (975.779, 975.779), 8, 0),
    "tiff-edge-cases/10ct_32bit_128.tiff": ((128, 128), "float32", 1, None, 32, 0),
    "tiff-edge-cases/12bit.cropped.tif": ((100, 100), "uint16", 1, None, 12, 0),
    "tiff-edge-cases/16bit.MM.cropped.tif": ((64, 64), "uint16", 1, None, 16, 0),
    "tiff-edge-cases/16bit.cropped.tif": ((64, 64), "uint16", 1, None, 16, 0),
    "tiff-edge-cases/16bit.s.tif": ((10, 10), "int16", 1, None, 16, 0),
    "tiff-edge-cases/g4_orientation_6.tif": ((590, 88), "bool", 1, None, 1, 0),
    "tiff-edge-cases/hopper_float_dpi_2.tif": ((128, 128, 3), "uint8", 1, None, 8, 0),
    "tiff-edge-cases/hopper_jpg.tif": ((128, 128, 3), "uint8", 1, None, 8, 0),
    "tiff-edge-cases/hopper_lzw.tif": ((128, 128, 3), "uint8", 1, None, 8, 0),
    "tiff-edge-cases/multipage.tiff": ((10, 10, 3), "uint8", 3, None, 1, 0),
    "tiff-edge-cases/old-style-jpeg-compression.tif": ((870, 4160, 3), "uint8", 1, None, 8, 0),
    "tiff-edge-cases/tiff_strip_planar_raw_with_overviews.tif": (
        (374, 278, 3), "uint8", 1, None, 8, 0,
    ),
    "tiff-edge-cases/tiff_tiled_planar_16bit_RGB.tiff": ((40, 100, 3), "uint16", 1, None, 16, 0),
    "tiff-edge-cases/tiff_tiled_raw.tif": ((374, 278, 3), "uint8", 1, None, 8, 0),
    "tiff-edge-cases/tiff_tiled_ycbcr_jpeg_2x2_sampling.tif": (
        (360, 480, 3), "uint8", 1, None, 8, 0,
    ),
    "tiff-edge-cases/tiff_wrong_bits_per_sample.tiff": ((53, 52, 4), "uint8", 1, None, 8, 0),
    "tiff-edge-cases/total-pages-zero.tif": ((2156, 1728), "bool", 3, None, 1, 0),
    "tiff-vendor/fei/FEI-Helios-Ebeam-8bits.tif": (
        (471, 512), "uint8", 1, (3372.4, 3372.4), 8, 29,
    ),
    "tiff-vendor/fei/FEI-Helios-navcam-with-no-IRBeam-bad-floats.tif": (
        (551, 768), "uint8", 1, None, 8, 39,
    ),
    "tiff-vendor/fei/FEI-Helios-navcam.tif": (
        (551, 768), "uint8", 1, (263974.6, 263974.0), 8, 39,
    ),
    "tiff-vendor/gatan/test_loading_image_saved_with_DM.tif": (
        (68, 68), "int32", 1, (168.675, 168.675), 32, 0,
    ),
    "tiff-vendor/hamamatsu/test_hamamatsu_streak_FOCUS.tif": ((508, 672), "uint16", 1, None, 16, 0),
    "tiff-vendor/hyperspy/test_rgba16.tif": ((128, 128, 4), "uint16", 3, None, 16, 0),
    "tiff-vendor/imagej/test_loading_image_saved_with_imageJ.tif": (
        (68, 68), "float32", 1, (168.675, 168.675), 32, 0,
    ),
    "tiff-vendor/imagej/test_loading_image_saved_with_imageJ_stack.tif": (
        (68, 68), "float32", 2, (168.675, 168.675), 32, 0,
    ),
    "tiff-vendor/jeol/JEOL-SightX-TEM-mag-dummy.tif": (
        (556, 556), "uint16", 1, (1.82079, 1.82079), 16, 0,
    ),
    "tiff-vendor/python/45kx_SE_15kV-etched_0_rgb16.tif": (
        (512, 512, 3), "uint16", 1, None, 16, 0,
    ),
    "tiff-vendor/zeiss/test_tiff_Zeiss_SEM_1k.tif": (
        (768, 1024), "uint8", 1, (2614.51, 2614.51), 8, 76,
    ),
    "tiff-vendor/zeiss/test_tiff_Zeiss_SEM_512pix.tif": (
        (384, 512), "uint8", 1, (11.65, 11.65), 8, 33,
    ),
}  # fmt: skip


REFUSED = {
    "gatan/08_carbon_spectrum_not_an_image.dm3": "is a spectrum, not a micrograph",
    "gatan/test_fft_packed_complex8.dm4": "is a Fourier transform (complex numbers)",
}


WHAT_IT_IS = {
    "gatan/test_diffraction_pattern.dm3": "a diffraction pattern",
    "emd/FFTComplexEven.emd": "also holds a Fourier transform",
    "tiff-vendor/hamamatsu/test_hamamatsu_streak_FOCUS.tif": "time over wavelength",
    "phenom/Elid2Version4.elid": "its spectra and maps are not used",
    "mrc/EMD-3197.map": "a volume",
}


def test_the_table_names_every_file_of_the_corpus(shared_data: Path) -> None:
    with (shared_data / "microscope-formats" / "manifest.tsv").open() as file:
        files = {row["file"] for row in csv.DictReader(file, delimiter="\t")}
    assert files == RIGHT.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", RIGHT)
def test_a_real_file_is_read_right(
    name: str, shared_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if name.startswith("czi/"):
        pytest.importorskip("pylibCZIrw", reason="Zeiss's CZI reader has no wheel for this machine")
    shape, dtype, planes, pixel_nm, bits, bar = RIGHT[name]
    path = shared_data / "microscope-formats" / name
    facts = probe(path)
    micrograph = read_micrograph(ImageRef(path=path, plane=0))
    last = read_micrograph(ImageRef(path=path, plane=planes - 1))
    assert (facts.shape, facts.dtype, facts.planes) == (shape, dtype, planes)
    if pixel_nm is None:
        assert facts.pixel_nm is None
    else:
        assert facts.pixel_nm == pytest.approx(pixel_nm, rel=1e-4)
    assert micrograph.pixel_nm == facts.pixel_nm
    assert micrograph.pixels.shape == shape
    assert micrograph.pixels.dtype == np.dtype(dtype)
    assert micrograph.pixels.dtype.isnative
    assert (micrograph.bit_depth, micrograph.info_bar_rows) == (bits, bar)
    assert last.pixels.ndim == len(shape)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_micrograph_is_refused_by_its_name(name: str, shared_data: Path) -> None:
    path = shared_data / "microscope-formats" / name
    with pytest.raises(ImageError) as caught:
        read_micrograph(path)
    assert REFUSED[name] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WHAT_IT_IS)
def test_the_facts_say_what_is_odd_about_a_file(name: str, shared_data: Path) -> None:
    notes = probe(shared_data / "microscope-formats" / name).notes
    assert any(WHAT_IT_IS[name] in note for note in notes)


def test_a_stack_is_many_images_and_an_emi_gives_way_to_its_series(shared_data: Path) -> None:
    refs = find_images("mrc", shared_data / "microscope-formats")
    movie = [ref for ref in refs if ref.path.name == "Custom_movie.mrc"]
    assert [ref.plane for ref in movie] == list(range(30))
    assert movie[12].name == "Custom_movie.mrc#12"
    names = {ref.path.name for ref in find_images("fei-tia", shared_data / "microscope-formats")}
    assert "128x128-TEM_search.emi" not in names
    assert "16_STOimage.emi" in names


def test_a_stack_without_a_plane_is_refused(shared_data: Path) -> None:
    with pytest.raises(ImageError, match=r"stack of 30 planes.*Custom_movie.mrc#0"):
        read_micrograph(shared_data / "microscope-formats" / "mrc" / "Custom_movie.mrc")
