"""What a prediction has done so far is read from its tasks' files, and nothing twice."""

from pathlib import Path

from emcfsys_engine.run.done_so_far import DoneSoFar
from emcfsys_engine.run.events import EventWriter, ImageDone, ImageFailed
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import Became, Lines, Trying
from emcfsys_engine.run.shards import Shards
from tests.images.mosaic_made import do, made_mosaic


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
            lines.write(Became(number=number, event=_done(name)))
        lines.write(Became(number=9, event=ImageFailed(image="/in/x.tif", reason="no")))
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
