"""JPEG 2000 keeps all bits of a pixel; what is cut or has a palette is refused."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.formats import jpeg2000


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize(("kind", "shape"), [("uint16", (21, 33)), ("uint8", (21, 33, 3))])
def test_every_value_comes_back(
    codec: str, kind: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(1).integers(0, np.iinfo(kind).max, shape).astype(kind)
    file = tmp_path / "a.jp2"
    file.write_bytes(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat=codec, mct=False))
    facts = jpeg2000.probe(file)
    assert (facts.shape, facts.dtype, facts.planes) == (shape, kind, 1)
    assert np.array_equal(jpeg2000.read(file, 0).pixels, pixels)
    with pytest.raises(ImageError, match="has one plane"):
        jpeg2000.read(file, 1)


def test_what_ends_early_is_refused_in_a_line(tmp_path: Path) -> None:
    whole = imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), level=0)
    for length in (20, 100, len(whole) // 2):
        file = tmp_path / f"{length}.jp2"
        file.write_bytes(whole[:length])
        with pytest.raises(ImageError, match="truncated"):
            jpeg2000.read(file, 0)
