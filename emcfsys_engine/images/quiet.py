"""Nothing but our own words reaches the terminal: libraries are kept silent while they read."""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

_CHATTY = ("tifffile", "rsciio", "PIL", "h5py", "zarr", "roifile", "mrcfile", "imagecodecs")
_SILENT = logging.CRITICAL + 1


@contextmanager
def quiet_libraries() -> Generator[None]:
    """Drop the log lines and warnings of image libraries; what matters comes as an ImageError."""
    for name in _CHATTY:
        logger = logging.getLogger(name)
        if logger.level != _SILENT:  # setting it empties every logger's cache: costly a file
            logger.setLevel(_SILENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
