"""Several processes predict one list as one would; who dies gives its images back."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import RunFailedError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.learn.inference import several
from emcfsys_engine.learn.inference.files import find_inputs
from emcfsys_engine.run.events import Event, ImageDone, ImageFailed, RunStarted, WarningGiven
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest
from tests.learn.conftest import replace_model, run_here
from tests.waiting import PATIENCE_S


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of small images, one of which is none."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(9):
        rng = np.random.default_rng(number)
        size = (64, 64 + 8 * (number % 3))
        Image.fromarray(rng.integers(0, 250, size, np.uint8)).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    return folder


def _request(images: Path, model: Path, out: str, **options: Any) -> PredictRequest:
    given = {"gpus": 0, "tile_px": 64, "threads": 1, **options}
    return PredictRequest(
        model=str(model), inputs=(str(images),), out=str(images.parent / out), **given
    )


def _told(events: list[Any]) -> list[tuple[str, str]]:
    return [
        (type(event).__name__, Path(event.image).name)
        for event in events
        if isinstance(event, ImageDone | ImageFailed)
    ]


@pytest.mark.long
def test_two_processes_predict_as_one(images: Path, model_file: Path, tmp_path: Path) -> None:
    outlines = {"vectors": ("coco", "geojson"), "rank_uncertain": True}
    made = []
    for out, processes in (("one", 1), ("two", 2)):
        request = _request(images, model_file, out, processes=processes, **outlines)
        run = new_run(tmp_path / "runs", request)
        assert run_here(run) == 1  # one image is none
        made.append(_told(run.events()))
    assert made[0] == made[1]
    assert ("ImageFailed", "4.png") in made[1]
    names = sorted(p.name for p in (tmp_path / "one").iterdir() if p.is_file())
    assert names == sorted(p.name for p in (tmp_path / "two").iterdir() if p.is_file())
    for name in names:
        one, two = (tmp_path / out / name for out in ("one", "two"))
        if name.endswith(".png"):
            pixels = [read_micrograph(ImageRef(path=file)).pixels for file in (one, two)]
            assert (pixels[0] != pixels[1]).mean() < 1e-3, name
    assert (tmp_path / "two" / "annotations.json").stat().st_size == pytest.approx(
        (tmp_path / "one" / "annotations.json").stat().st_size, rel=0.02
    )
    again = new_run(tmp_path / "runs", _request(images, model_file, "two", processes=2))
    assert run_here(again) == 1
    assert _told(again.events()) == [("ImageFailed", "4.png")]  # the others are there


def _with_crew(
    images: Path,
    model: Path,
    on_event: Callable[[several.Crew, Event], None],
    *,
    stops: bool = False,
) -> list[Event]:
    """Predict by two processes; `on_event` sees the crew at each thing that is told.

    `stops`: the last process does nothing of what it is handed.
    """
    request = _request(images, model, "out", processes=2)
    run = new_run(images.parent / "runs", request)
    said: list[Event] = []
    crews: list[several.Crew] = []
    real = several.Crew.__init__

    def noted(self: several.Crew, *arguments: Any) -> None:
        crews.append(self)
        real(self, *arguments)
        while not all(one.waits for one in self._others):  # each has read the model
            self._hear()
        if stops:
            os.kill(self._others[-1].process.pid, signal.SIGSTOP)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(several.Crew, "__init__", noted)

        def emit(event: Event) -> None:
            said.append(event)
            on_event(crews[0], event)

        card, _ = several.prepare(request)
        several.predict_files(run, request, find_inputs(request), card, emit, lambda: None)
    return said


@pytest.mark.long
def test_a_process_that_is_killed_gives_its_images_back_and_is_told(
    images: Path, model_file: Path
) -> None:
    killed: list[int] = []

    def kill(crew: several.Crew, event: Event) -> None:
        if not killed and crew._others[-1].has:
            killed.append(crew._others[-1].process.pid)
            os.kill(killed[0], signal.SIGKILL)

    said = _with_crew(images, model_file, kill, stops=True)
    assert killed
    assert [name for _, name in _told(said)] == [f"{number}.png" for number in range(9)]
    assert {name for kind, name in _told(said) if kind == "ImageFailed"} == {"4.png"}
    told = [event.message for event in said if isinstance(event, WarningGiven)]
    assert len(told) == 1 and "ended (SIGKILL)" in told[0]


@pytest.mark.long
def test_who_would_begin_with_another_model_of_that_name_is_refused_and_all_masks_are_of_one(
    images: Path, model_file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    shutil.copy(model_file, model)
    assert run_here(new_run(tmp_path / "runs", _request(images, model, "by first"))) == 1
    killed: list[int] = []

    def replace_and_kill(crew: several.Crew, event: Event) -> None:
        if not killed and crew._others[-1].has and isinstance(event, ImageDone):
            killed.append(crew._others[-1].process.pid)
            os.kill(killed[0], signal.SIGKILL)
            replace_model(model)

    said = _with_crew(images, model, replace_and_kill, stops=True)
    assert [name for _, name in _told(said)] == [f"{number}.png" for number in range(9)]
    told = [event.message for event in said if isinstance(event, WarningGiven)]
    assert any("model.safetensors: is another model than when this run began" in t for t in told)
    for mask in sorted((tmp_path / "by first").glob("*.png")):
        pixels = [
            read_micrograph(ImageRef(path=folder / mask.name)).pixels
            for folder in (mask.parent, tmp_path / "out")
        ]
        assert (pixels[0] != pixels[1]).mean() < 1e-3, mask.name


@pytest.mark.long
def test_without_anybody_left_who_has_the_model_the_run_ends_and_says_why(
    images: Path, model_file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    shutil.copy(model_file, model)
    replaced: list[bool] = []

    def replace_and_kill_all(crew: several.Crew, event: Event) -> None:
        if not replaced and any(one.has for one in crew._others):
            replaced.append(True)
            for one in crew._others:
                os.kill(one.process.pid, signal.SIGKILL)
            replace_model(model)

    with pytest.raises(RunFailedError, match="is another model than when this run began"):
        _with_crew(images, model, replace_and_kill_all)


@pytest.mark.long
def test_an_image_that_kills_whoever_takes_it_is_found_and_the_others_are_done(
    images: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = tmp_path / "deadly"
    deadly.mkdir()
    # Python runs it at its start: reading this one image kills the process that reads it.
    (deadly / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def look(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('in/6.png'):\n"
        "        os.kill(os.getpid(), 9)\n"
        "if 'several' in ' '.join(sys.orig_argv):\n"
        "    sys.addaudithook(look)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{deadly}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    said = _with_crew(images, model_file, lambda crew, event: None)
    told = _told(said)
    assert [name for _, name in told] == [f"{number}.png" for number in range(9)]
    assert {name for kind, name in told if kind == "ImageFailed"} == {"4.png", "6.png"}
    (reason,) = [e.reason for e in said if isinstance(e, ImageFailed) and "6.png" in e.image]
    assert "2 processes ended over it (SIGKILL)" in reason


@pytest.mark.long
def test_who_is_asked_to_end_ends_all_and_the_rest_is_done_next_time(
    images: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several, "_GRACE_S", 2 * PATIENCE_S)
    request = _request(images, model_file, "out", processes=2)
    run = new_run(images.parent / "runs", request)
    card, _ = several.prepare(request)
    said: list[Event] = []
    began = time.monotonic()
    several.predict_files(
        run, request, find_inputs(request), card, said.append,
        lambda: "cancel" if said else None,
    )  # fmt: skip
    assert 1 <= len(_told(said)) <= 9
    assert time.monotonic() - began < several._GRACE_S  # nobody had to be killed
    several.predict_files(run, request, find_inputs(request), card, said.append, lambda: None)
    assert {file.stem for file in (images.parent / "out").glob("*.png")} == {
        str(number) for number in range(9) if number != 4
    }


@pytest.mark.parametrize("processes", [1, 2])
def test_a_damaged_model_is_named_and_no_process_is_begun(
    images: Path, model_file: Path, tmp_path: Path, processes: int
) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(model_file.read_bytes()[:-100])
    run = new_run(tmp_path / "runs", _request(images, damaged, "out", processes=processes))
    assert run_here(run) == 2
    assert "damaged.safetensors: is damaged" in run.outcome()[1]
    assert not [event for event in run.events() if isinstance(event, RunStarted | WarningGiven)]


def test_each_process_gets_a_gpu_of_its_own() -> None:
    found = several.environments_for(2, {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b", "HOME": "/h"})
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["GPU-a", "GPU-b"]
    assert all(each["HOME"] == "/h" for each in found)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in several.environments_for(2, {})] == ["0", "1"]
    unseen = several.environments_for(2, {"CUDA_VISIBLE_DEVICES": ""})
    assert [each["CUDA_VISIBLE_DEVICES"] for each in unseen] == ["", ""]
