"""Jobs as the interface lists and moves them."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.jobs.store import move
from emcfsys_engine.run.events import EventWriter, ImageDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import Lines, ShardBecame
from emcfsys_engine.run.shards import ShardItem, Shards
from emcfsys_tui.engine.jobs import MaskReader, QueueReader, ask_job, move_job, ordered
from tests.images.mosaic_made import do, made_mosaic
from tests.tui.conftest import made_run


def test_a_reader_says_something_only_when_the_queue_changed(demo: Path, no_daemon: None) -> None:
    reader = QueueReader()
    reader.read()
    assert reader.read() is None
    with Queue.open() as queue:
        queue.add(made_run(demo, ended=False).folder, project_name="demo", gpus=0)
    told = reader.read()
    assert told is not None


def test_waiting_jobs_stand_in_their_order_and_move_by_one(demo: Path, no_daemon: None) -> None:
    with Queue.open() as queue:
        for _ in range(3):
            queue.add(made_run(demo, ended=False).folder, project_name="demo", gpus=0)
        move_job(3, -1)
        assert [job.id for job in ordered(queue.list())] == [1, 3, 2]
        assert ask_job(1, "cancel").startswith("job 1 is cancelled")
        assert [job.id for job in ordered(queue.list())] == [3, 2, 1]
    with pytest.raises(QueueError):
        move_job(1, 1)


def test_a_running_job_in_shards_tells_the_progress_of_all_its_tasks(
    tmp_path: Path, no_daemon: None
) -> None:
    made = new_run(tmp_path, PredictRequest(model="/m", inputs=("/in",), out="/out", shards=2))
    shards = Shards(made)
    items = [ShardItem(n, f"/in/{n}.tif", None, f"/out/{n}.png", 9, n + 1) for n in range(5)]
    shards.write(items, 2)
    reader = QueueReader()
    with Queue.open() as queue:
        job = queue.add(made.folder, project_name="demo", gpus=0)
        with queue.store.transaction() as connection:
            assert move(connection, job, "running")
    for done in (0, 1, 2):
        told = reader.read()
        assert told is not None
        (row,) = told.queue.jobs
        assert row.progress == f"0 of 2 tasks done, {done} of 5 images"
        lines = Lines(shards.lines_file(0))
        event = ImageDone(image=f"/in/{done}.tif", mask="m", seconds=1.0)
        lines.write(ShardBecame(number=done, event=event))
        lines.close()


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
