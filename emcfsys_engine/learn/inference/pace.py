"""How long a job will go on, judged by what it has done."""

import time
from collections.abc import Callable

_SURE_AFTER_S = 10.0  # before that the first image's caches and files are most of it


class Pace:
    """Counts images, and parts of one, against a number that is known beforehand."""

    def __init__(self, num_images: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_images = num_images
        self._clock = clock
        self._began = clock()
        self._done = 0

    def image_done(self) -> None:
        """Count one more image as done."""
        self._done += 1

    def left_s(self, share: float = 0.0) -> float:
        """Return the seconds still to go, when this share of the image at hand is done as well.

        0 as long as it is too early to tell.
        """
        elapsed_s = self._clock() - self._began
        done = self._done + share
        if elapsed_s < _SURE_AFTER_S or done <= 0:
            return 0.0
        return elapsed_s * max(0.0, self._num_images - done) / done
