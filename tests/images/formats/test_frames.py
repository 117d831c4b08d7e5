"""Pictures of one frame or several."""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageSequence

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, read_micrograph
from tests.images.formats.pictures import FILES, film, put


@pytest.mark.parametrize(
    ("name", "decode"),
    [
        ("colours.webp", imagecodecs.webp_decode), ("grey.avif", imagecodecs.avif_decode),
        ("grey.gif", imagecodecs.gif_decode), ("colours.qoi", imagecodecs.qoi_decode),
    ],
)  # fmt: skip
def test_what_pillow_decodes_another_decoder_reads_alike(
    name: str, decode: Callable[[bytes], np.ndarray], tmp_path: Path
) -> None:
    found = read_micrograph(put(tmp_path, name)).pixels.astype(int)
    other = np.squeeze(decode(FILES[name])).astype(int)
    other = other[..., 0] if found.ndim < other.ndim else other
    assert np.abs(found - other).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF"])
def test_each_frame_of_a_moving_picture_is_a_plane(kind: str, tmp_path: Path) -> None:
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    (tmp_path / "a.x").write_bytes(film(kind, **options))
    refs = find_images(".", tmp_path)
    assert [ref.plane for ref in refs] == [0, 1, 2, 3]
    with Image.open(tmp_path / "a.x") as seen:
        frames = [np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(seen)]
    for ref, wanted in zip(refs, frames, strict=True):
        assert np.array_equal(read_micrograph(ref).pixels, wanted)
    with pytest.raises(ImageError, match="Name one"):
        read_micrograph(tmp_path / "a.x")
    with pytest.raises(ImageError, match="no #4"):
        read_micrograph(ImageRef(path=tmp_path / "a.x", plane=4))
