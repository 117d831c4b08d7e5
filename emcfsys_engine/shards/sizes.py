"""How large the items of a list are: by this they are dealt."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.images.reader import probe

_MOST_PROBED = 20_000  # of more images the pixels are reckoned from the sizes of the files


def file_bytes(place: Path | str) -> int:
    """Return the bytes of a file that is read; -1 for a folder, or where there is none."""
    try:
        return _size(os.stat(place))
    except OSError:
        return -1


def _size(status: os.stat_result) -> int:
    return -1 if stat.S_ISDIR(status.st_mode) else status.st_size


class Sizes:
    """Bytes and pixels of images: the first are looked at, of the rest the bytes tell."""

    def __init__(self) -> None:
        self._last: tuple[Path | str, tuple[int, int]] = ("", (0, 0))
        self._num_probed = 0
        self._seen: dict[str, tuple[int, int]] = {}  # by suffix: bytes and pixels

    def of(self, path: Path | str, planes: int, *, is_wanted: bool) -> tuple[int, int]:
        """Return a file's bytes, -1 for a folder, and the pixels of one of its planes."""
        if self._last[0] != path:
            self._last = path, self._look(path, planes, is_wanted=is_wanted)
        return self._last[1]

    def _look(self, path: Path | str, planes: int, *, is_wanted: bool) -> tuple[int, int]:
        try:
            status = os.stat(path)
        except OSError:
            return -1, 0
        size = _size(status)
        suffix = os.path.splitext(path)[1]  # noqa: PTH122 - of a million names
        known_bytes, known_pixels = self._seen.get(suffix, (0, 0))
        if is_wanted and (size < 0 or not known_bytes or self._num_probed < _MOST_PROBED):
            self._num_probed += 1
            with suppress(EmcfError):
                height, width = probe(Path(path)).shape[:2]
                seen = (known_bytes + size, known_pixels + height * width * planes)
                self._seen[suffix] = seen
                return size, height * width
        return size, max(0, size) * known_pixels // max(1, known_bytes) // planes
