"""What tasks tell is read back whole, is counted once, and survives a kill."""

from emcfsys_engine.run.events import ImageDone, ImageFailed
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.progress import words_of_progress
from emcfsys_engine.run.shard_lines import Again, Became, Finished, Lines, Progress, Told
from emcfsys_engine.run.shards import Shards
from tests.run.test_shards import items_of, run

__all__ = ["run"]


def test_what_a_kill_tore_counts_as_not_done_and_the_next_line_is_whole(run: Run) -> None:
    shards = Shards(run)
    shards.write(items_of(7), 1)
    lines = Lines(shards.lines_file(0))
    for number in (0, 1):
        event = ImageDone(image=f"{number}", mask="m", seconds=1.0)
        lines.write(Became(number=number, event=event))
    lines.close()
    file = shards.lines_file(0)
    file.write_bytes(file.read_bytes()[:-5])
    assert list(Told(shards.lines_file(0)).became) == [0]
    lines = Lines(file)
    lines.write(Became(number=3, event=ImageFailed(image="3", reason="none")))
    lines.write(Finished())
    lines.close()
    told = Told(shards.lines_file(0))
    assert (list(told.became), told.is_finished) == ([0, 3], True)
    lines = Lines(file)
    lines.write(Again())
    lines.close()
    told.refresh()
    assert (list(told.became), told.is_finished) == ([0], False)


def test_progress_counts_the_images_of_all_tasks(run: Run) -> None:
    progress = Progress(run)
    assert progress.text() == ""
    shards = Shards(run)
    shards.write(items_of(7), 2)
    assert progress.text() == "0 of 2 tasks done, 1 of 7 images"  # one was there
    assert words_of_progress(run) == progress.text()  # what `jobs` and `runs` say
    for shard in (0, 1):
        lines = Lines(shards.lines_file(shard))
        lines.write(Became(number=shard, event=ImageFailed(image='"type":"became"', reason="no")))
        lines.write(Finished())
        lines.close()
        told = f"{shard + 1} of 2 tasks done, {shard + 2} of 7 images, {shard + 1} failed"
        assert progress.text() == told
        assert progress.text() == told
