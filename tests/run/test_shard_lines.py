"""What tasks tell is read back whole, is counted once, and survives a kill."""

from pathlib import Path

from emcfsys_engine.run.events import EventWriter, ImageDone, ImageFailed
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.progress import words_of_progress
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import (
    Again,
    DoneSoFar,
    Finished,
    Lines,
    ShardBecame,
    ShardProgress,
    TaskTold,
    Trying,
)
from emcfsys_engine.run.shards import Shards
from tests.images.mosaic_made import do, made_mosaic
from tests.run.test_shards import items_of, run

__all__ = ["run"]


def test_what_a_kill_tore_counts_as_not_done_and_the_next_line_is_whole(run: Run) -> None:
    shards = Shards(run)
    shards.write(items_of(7), 1)
    lines = Lines(shards.lines_file(0))
    for number in (0, 1):
        event = ImageDone(image=f"{number}", mask="m", seconds=1.0)
        lines.write(ShardBecame(number=number, event=event))
    lines.close()
    file = shards.lines_file(0)
    file.write_bytes(file.read_bytes()[:-5])
    assert list(TaskTold(shards.lines_file(0)).became) == [0]
    lines = Lines(file)
    lines.write(ShardBecame(number=3, event=ImageFailed(image="3", reason="none")))
    lines.write(Finished())
    lines.close()
    told = TaskTold(shards.lines_file(0))
    assert (list(told.became), told.is_finished) == ([0, 3], True)
    lines = Lines(file)
    lines.write(Again())
    lines.close()
    told.refresh()
    assert (list(told.became), told.is_finished) == ([0], False)


def test_progress_counts_the_images_of_all_tasks(run: Run) -> None:
    progress = ShardProgress(run)
    assert progress.text() == ""
    shards = Shards(run)
    shards.write(items_of(7), 2)
    assert progress.text() == "0 of 2 tasks done, 1 of 7 images"  # one was there
    assert words_of_progress(run) == progress.text()  # what `jobs` and `runs` say
    for shard in (0, 1):
        lines = Lines(shards.lines_file(shard))
        lines.write(
            ShardBecame(number=shard, event=ImageFailed(image='"type":"became"', reason="no"))
        )
        lines.write(Finished())
        lines.close()
        told = f"{shard + 1} of 2 tasks done, {shard + 2} of 7 images, {shard + 1} failed"
        assert progress.text() == told
        assert progress.text() == told


def _done(name: str) -> ImageDone:
    return ImageDone(image=f"/in/{name}.tif", mask=f"/out/{name}.png", seconds=1.0)


def test_regions_of_all_tasks_are_found_as_they_come(tmp_path: Path) -> None:
    run, mosaic = made_mosaic(tmp_path)
    done = DoneSoFar(run)
    assert not done.look()
    assert done.mosaics == (mosaic,)
    do(run, mosaic, mosaic.regions[0])
    do(run, mosaic, mosaic.regions[7], shard=1)
    assert done.look()
    assert set(done.regions(mosaic.image)) == {mosaic.regions[0], mosaic.regions[7]}
    assert not done.look()
    do(run, mosaic, mosaic.regions[7], mosaic.regions[1])  # done again after a kill: once
    assert done.look()
    assert len(done.regions(mosaic.image)) == 3
    assert done.regions("/in/other.zarr") == ()


def test_a_line_that_a_kill_tore_or_that_is_being_written_is_no_end(tmp_path: Path) -> None:
    run, mosaic = made_mosaic(tmp_path)
    do(run, mosaic, mosaic.regions[0])
    file = Shards(run).lines_file(0)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"type":"became","kind":"region_done"\n' + whole[:40])
    done = DoneSoFar(run)
    assert done.look()
    assert done.regions(mosaic.image) == mosaic.regions[:1]
    with file.open("ab") as stream:
        stream.write(whole[40:].replace(b"[0,256,0,256]", b"[0,256,256,512]"))
    assert done.look()
    assert done.regions(mosaic.image) == mosaic.regions[:2]


def test_the_newest_of_small_images_is_known_and_how_many_there_are(tmp_path: Path) -> None:
    run, _ = made_mosaic(tmp_path)
    for shard, names in enumerate(("ab", "cde")):
        lines = Lines(Shards(run).lines_file(shard))
        for number, name in enumerate(names):
            lines.write(Trying(number=number))
            lines.write(ShardBecame(number=number, event=_done(name)))
        lines.write(ShardBecame(number=9, event=ImageFailed(image="/in/x.tif", reason="no")))
        lines.close()
    done = DoneSoFar(run)
    assert done.look()
    assert done.num_images == 5
    assert done.newest is not None
    assert done.newest.mask == "/out/e.png"


def test_without_shards_the_runs_events_tell_it(tmp_path: Path) -> None:
    request = PredictRequest(model="m", inputs=("/in",), out=str(tmp_path / "out"))
    run = new_run(tmp_path / "out/.emcfsys", request)
    done = DoneSoFar(run)
    assert not done.look()
    with EventWriter(run.events_file) as writer:
        writer.write(_done("a"))
        writer.write(_done("b"))
    assert done.look()
    assert (done.num_images, done.mosaics) == (2, ())
    assert done.newest is not None
    assert done.newest.image == "/in/b.tif"
