"""Fixtures for every test: where the real data is."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine must not fail a law: a test's own limit is pytest's timeout.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


# Seconds. A long test that takes three minutes alone takes more than five on a busy machine.
_LONG_S = 1200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give long tests that name no limit of their own more time than the fast ones have."""
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_LONG_S))


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
