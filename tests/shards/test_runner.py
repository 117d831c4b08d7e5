"""The worker of a run in shards has an output folder for itself."""

import os
from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.shards.runner import only_one


def test_two_people_who_start_the_same_are_told(tmp_path: Path) -> None:
    lock = only_one(tmp_path / "out")
    with pytest.raises(InputError, match="another run in shards writes into it"):
        only_one(tmp_path / "out")
    os.close(lock)
    os.close(only_one(tmp_path / "out"))
