"""One image on its way to the network: small ones in memory, large ones read in bands.

H and W pixels, h rows.
"""

import math
from dataclasses import dataclass

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser, stretched
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.images.rows import PlaneRows, open_rows, rows_of
from emcfsys_engine.images.survey import Survey, survey

LARGE_PX = 24_000_000  # 4096² stays in memory, normalised ahead of its turn


@dataclass(kw_only=True)
class OpenImage:
    """An image whose statistics are known."""

    ref: ImageRef
    rows: PlaneRows
    survey: Survey
    normaliser: Normaliser
    is_large: bool
    _normalised: np.ndarray | None = None
    _again: PlaneRows | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rows.height, self.rows.width

    @property
    def pixel_nm(self) -> tuple[float, float] | None:
        """The size of a pixel, (y, x)."""
        return self.rows.pixel_nm

    def read(self, first: int, last: int) -> np.ndarray:
        """Return rows for the network. Shapes: h×W float32."""
        if self._normalised is not None:
            return self._normalised[first:last]
        grey = self.survey.grey(self.rows.read(first, last))
        return self.normaliser.apply_known(grey, self.survey.statistics)

    def view(self, first: int, last: int) -> np.ndarray:
        """Return rows as people see them. Shapes: h×W uint8.

        It has an open file of its own: while rows go to the network, those above are drawn.
        """
        rows = self.rows
        if self.is_large:
            self._again = self._again or open_rows(self.ref)
            rows = self._again or rows
        low, high, _, _ = self.survey.statistics
        return stretched(self.survey.grey(rows.read(first, last)), low, high)

    def close(self) -> None:
        """Close its files."""
        self.rows.close()
        if self._again is not None:
            self._again.close()


def open_image(ref: ImageRef, normaliser: Normaliser) -> OpenImage:
    """Return an image, its statistics found; a large one is read in bands where its format can.

    Raises: ImageError for what is no micrograph, is damaged or has no pixels.
    """
    facts = probe(ref.path)
    rows, exact = None, ref
    if facts.planes == 1 or ref.plane is not None:  # of a stack without a plane, reading says so
        exact = ImageRef(path=ref.path, plane=ref.plane or 0)
        rows = open_rows(exact) if math.prod(facts.shape[:2]) > LARGE_PX else None
    if rows is not None:
        try:
            found = survey(rows, normaliser)
        except BaseException:
            rows.close()
            raise
        return OpenImage(ref=ref, rows=rows, survey=found, normaliser=normaliser, is_large=True)
    micrograph = read_micrograph(exact)
    rows = rows_of(micrograph)
    if not micrograph.pixels.size:
        raise ImageError(ref.path, "has no pixels", "Leave it out")
    found = survey(rows, normaliser, info_bar_rows=micrograph.info_bar_rows)
    image = OpenImage(ref=ref, rows=rows, survey=found, normaliser=normaliser, is_large=False)
    if rows.height * rows.width <= LARGE_PX:
        image._normalised = image.read(0, rows.height)  # pyright: ignore[reportPrivateUsage]
    return image
