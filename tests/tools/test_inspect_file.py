"""inspect tells what a file is."""

from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.inspect_file import inspect_file

pytestmark = pytest.mark.usefixtures("own_cache")


def test_inspect_tells_micrographs_and_annotations_apart(shared_data: Path) -> None:
    zeiss = inspect_file(
        shared_data / "microscope-formats/tiff-vendor/zeiss/test_tiff_Zeiss_SEM_512pix.tif"
    )
    assert (zeiss.kind, zeiss.shape, zeiss.info_bar_rows) == ("micrograph", (384, 512), 33)
    assert "pixel size: 11.65 nm across" in zeiss.text
    drawn = inspect_file(shared_data / "annotation-formats/labelme/primitives/primitives.json")
    assert (drawn.kind, drawn.labels["rectangle"]) == ("annotation", 2)
    msgspec.json.encode(drawn)


def test_inspect_refuses_what_is_none_of_ours(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no model file, micrograph or annotation"):
        inspect_file(shared_data / "superalloy-sem" / "README.md")
    with pytest.raises(InputError, match="no such file"):
        inspect_file(tmp_path / "none.tif")
