"""What tests of the tools share: the learn room's model file and its command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.learn.conftest import engine_here, model_file

__all__ = ["engine_here", "model_file"]


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    mask = np.zeros((40, 50), np.uint8)
    mask[10:20, 10:30] = 1
    Image.fromarray(mask).save(folder / "a.png")
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
