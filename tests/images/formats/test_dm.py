"""Gatan DM files."""

from pathlib import Path

import numpy as np
from rsciio.digitalmicrograph import file_reader as read_dm

from emcfsys_engine.images.reader import read_micrograph


def test_a_tiny_dm_image_is_no_text(reported: Path) -> None:
    file = reported / "dm3_uint16_16x4.dm3"
    (signal,) = read_dm(str(file))
    assert np.array_equal(read_micrograph(file).pixels, signal["data"])
