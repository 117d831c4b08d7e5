"""Zeiss CZI: any rows are those of the whole, and a library that is missing is named."""

from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.formats import czi


def test_rows_are_those_of_the_whole_and_planes_are_counted(shared_data: Path) -> None:
    file = shared_data / "microscope-formats" / "czi" / "RGB-multichannel.czi"
    facts = czi.probe(file)
    assert (facts.shape, facts.planes) == ((81, 147, 3), 7)
    whole = czi.read(file, 6).pixels
    with czi.open_rows(file, 6) as rows:
        assert np.array_equal(rows.read(10, 33), whole[10:33])
    with pytest.raises(ImageError, match="has 7 planes"):
        czi.read(file, 7)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.czi"
    file.write_bytes(b"ZISRAWFILE" + bytes(90))
    with pytest.raises(ImageError, match=r"truncated or damaged CZI file.*Copy it again"):
        czi.probe(file)


def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(czi, "library", None)
    with pytest.raises(ImageError, match="pip install pylibCZIrw"):
        czi.probe(tmp_path / "a.czi")
