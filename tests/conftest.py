"""Fixtures for every test: where the real data is."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.thorough import tries

# Two test processes on two cores would have four of torch's threads, which wait for each other by
# spinning: a few steps of a tiny network then cost up to forty times as much. So one thread each,
# and where a run asks for more, they sleep while they wait. Read when torch is imported, here and
# in every process that a test starts; what a person set stays.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A test that names no state folder must not reach the queue and models of whoever runs it.
_OWN_STATE = tempfile.mkdtemp(prefix="emcfsys-tests-")
os.environ["XDG_STATE_HOME"] = _OWN_STATE
os.environ.pop("EMCFSYS_HOME", None)

# A busy machine must not fail a law: a test's own limit is pytest's timeout.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


# Seconds: what takes three minutes alone takes a quarter of an hour on a busy machine.
_LONG_S = tries(1800, 7200)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give long tests, and those on a real Slurm, more time than the fast ones have."""
    for item in items:
        if item.get_closest_marker("long") or item.get_closest_marker("slurm"):
            item.add_marker(pytest.mark.timeout(_LONG_S))


def pytest_unconfigure() -> None:
    shutil.rmtree(_OWN_STATE, ignore_errors=True)


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what was imported: it stays, and half a million things
    are looked through again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real micrographs; tests that need it skip where it is absent."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("EMCFSYS_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the real data is not here ({folder}); EMCFSYS_SHARED_DATA names its folder")
    return folder


@pytest.fixture
def reported(shared_data: Path) -> Path:
    """Images of other people's bug reports, whose pixels or scale were read wrongly."""
    return shared_data / "reported" / "22_images"
