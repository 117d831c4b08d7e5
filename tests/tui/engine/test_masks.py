"""What a job's prediction has made so far is told once for each thing that is new."""

from pathlib import Path

from emcfsys_engine.run.events import EventWriter, ImageDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_tui.engine.masks import MaskReader
from tests.images.mosaic_made import do, made_mosaic
from tests.tui.conftest import made_run


def test_regions_are_told_as_they_come(tmp_path: Path) -> None:
    run, mosaic = made_mosaic(tmp_path)
    reader = MaskReader()
    assert reader.read() is None
    reader.wanted = (3, run.folder)
    first = reader.read()
    assert first is not None
    assert (first.job, first.request, first.title) == (3, None, "nothing is done yet")
    assert reader.read() is None
    do(run, mosaic, *mosaic.regions[:2])
    told = reader.read()
    assert told is not None and told.request is not None
    assert told.title == "x.zarr: 2 of 12 regions"
    assert (told.request.run, told.request.mosaic) == (str(run.folder), 0)
    assert reader.read() is None
    do(run, mosaic, *mosaic.regions[2:])
    told = reader.read()
    assert told is not None and told.request is not None
    assert told.title == "x.zarr: 12 of 12 regions"


def test_of_small_images_the_newest_is_told(tmp_path: Path) -> None:
    request = PredictRequest(model="m", inputs=("/in",), out=str(tmp_path / "out"))
    run = new_run(tmp_path / "out/.emcfsys", request)
    with EventWriter(run.events_file) as writer:
        for number in (1, 2):
            image = f"{tmp_path}/stack.mrc#{number}"
            writer.write(ImageDone(image=image, mask=f"/out/{number}.png", seconds=1.0))
    reader = MaskReader()
    reader.wanted = (1, run.folder)
    told = reader.read()
    assert told is not None and told.request is not None
    assert told.title == "stack.mrc#2: the newest of 2 images"
    assert (told.request.path, told.request.plane) == (f"{tmp_path}/stack.mrc", 2)
    assert told.request.mask == "/out/2.png"


def test_a_job_that_predicts_nothing_or_has_no_folder_says_so(demo: Path, tmp_path: Path) -> None:
    reader = MaskReader()
    reader.wanted = (1, made_run(demo).folder)
    told = reader.read()
    assert told is not None
    assert (told.request, told.title) == (None, "no prediction")
    reader.wanted = (2, Run(tmp_path / "none").folder)
    told = reader.read()
    assert told is not None and told.request is None
    assert "none" in told.title
