"""Where the models and the checkpoint of a run go when its own disk takes nothing until the end."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from emcfsys_engine.run.folder import Run
from emcfsys_engine.settings import rescue_home


def rescue_folder(run: Run) -> Path:
    """Return a folder of this start's own, not made yet.

    Another disk, or a run that was removed, may have had the run's path, and what was kept of it is
    all that there is. Raises: RuntimeError without a home.
    """
    return next(one for one in _folders(run) if not os.path.lexists(one))


def rescued(run: Run) -> list[Path]:
    """Return the folders that starts at a run's path left, the first first.

    Raises: RuntimeError without a home.
    """
    return list(itertools.takewhile(os.path.lexists, _folders(run)))


def _folders(run: Run) -> Iterator[Path]:
    digest = hashlib.blake2b(os.fsencode(run.folder), digest_size=4).hexdigest()
    yield (first := rescue_home() / f"{run.id}-{digest}")
    yield from (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
