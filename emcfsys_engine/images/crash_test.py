"""Read a file first in a process of its own, where its library is known to die of damaged files.

libhdf5 and libCZI are C and C++: a flipped byte can end the process that reads it. In a worker
that watches a microscope's folder that would be the end of the watch, so a child goes first. It
costs a quarter of a second a file, once for each state of the file.
"""

import functools
import importlib
import subprocess
import sys
from pathlib import Path

from emcfsys_engine.errors import ImageError

_MOST_SECONDS = 30
_SLOWEST_BYTES_A_SECOND = 20e6  # of a large file on a slow disk


def try_first(path: Path, reader: str) -> None:
    """Read a file's facts and its first and last plane in a child process.

    Raises: ImageError when the child died or did not come to an end; whatever else is wrong, the
    reader itself says better.
    """
    status = path.stat()
    changed_ns = (status.st_mtime_ns, status.st_ctime_ns)
    if not _survives(str(path), reader, status.st_size, changed_ns):
        what = "is damaged: the library that reads this format fails on it"
        raise ImageError(path, what, "Copy or export it again")


@functools.lru_cache(maxsize=4096)
def _survives(path: str, reader: str, size: int, _changed_ns: tuple[int, int]) -> bool:
    command = [sys.executable, "-P", "-m", "emcfsys_engine.images.crash_test", reader, path]
    package = Path(__file__).resolve().parents[2]  # the child finds us wherever it is started
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_MOST_SECONDS + size / _SLOWEST_BYTES_A_SECOND,
            cwd=package,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode >= 0


def main(reader: str, path: Path) -> None:
    """Read as the parent will; an exception is as good an end as success."""
    module = importlib.import_module(f"emcfsys_engine.images.formats.{reader}")
    try:
        planes = module.probe(path).planes
        for plane in sorted({0, planes - 1}):
            with module.open_rows(path, plane) as rows:
                for first in range(0, rows.height, rows.block_rows):
                    rows.read(first, min(rows.height, first + rows.block_rows))
    except Exception:
        # The parent meets the same and names it; here only survival counts.
        return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
