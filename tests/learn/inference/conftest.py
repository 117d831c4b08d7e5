"""A predictor in this process, and folders to predict from and into."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emcfsys_engine.images import rows
from emcfsys_engine.learn.inference import bands
from emcfsys_engine.learn.inference.files import Counted, find_inputs, predict_files
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.run.events import Event
from emcfsys_engine.run.records import PredictRequest
from tests.learn.inference.made import Predict


@pytest.fixture(scope="module")
def predictor(model_file: Path) -> Predictor:
    return Predictor(model_file, gpus=0, tile_px=64)


@pytest.fixture
def predict(predictor: Predictor, tmp_path: Path) -> Predict:
    """Predict tmp_path/in into tmp_path/out in this process."""

    def run(asked: Callable[[], str | None] = lambda: None, **options: Any) -> Any:
        request = PredictRequest(
            model="m", inputs=(str(tmp_path / "in"),), out=str(tmp_path / "out"), **options
        )
        said: list[Event] = []
        return predict_files(request, find_inputs(request), predictor, said.append, asked), said

    (tmp_path / "in").mkdir()
    return run


@pytest.fixture
def in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take small images for large ones."""
    monkeypatch.setattr(bands, "LARGE_PX", 1000)
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 20_000)


@pytest.fixture
def run(predictor: Predictor, tmp_path: Path) -> Predict:
    """Predict tmp_path/in into tmp_path/out in this process."""

    def predicted(
        *,
        inputs: tuple[str, ...] = ("in",),
        out: str = "out",
        asked: Callable[[], str | None] = lambda: None,
        **options: Any,
    ) -> tuple[Counted, list[Event]]:
        places = tuple(str(tmp_path / place) for place in inputs)
        request = PredictRequest(model="m", inputs=places, out=str(tmp_path / out), **options)
        said: list[Event] = []
        return predict_files(request, find_inputs(request), predictor, said.append, asked), said

    (tmp_path / "in").mkdir()
    return predicted
