"""The last step gets what tasks told and kept, in the order of the items."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.run.events import ImageFailed, ItemDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest, TrainRequest
from emcfsys_engine.run.shard_lines import Lines, ShardBecame, TaskTold
from emcfsys_engine.run.shards import Shards
from emcfsys_engine.shards import work as module
from emcfsys_engine.shards.work import Ended, ImageSizes, work_of
from tests.run.test_shards import items_of, run

__all__ = ["run"]
NUMBER = 9


def _ended(run: Run) -> Ended:
    shards = Shards(run)
    header = shards.header() or shards.write(items_of(NUMBER), 4)
    told = [TaskTold(shards.lines_file(shard)) for shard in range(len(header.shards))]
    return Ended(shards, header, told, print, print, lambda: None)


def _tell_all(run: Run) -> None:
    end = _ended(run)
    for shard, share in enumerate(end.header.shards):
        lines = Lines(end.shards.lines_file(shard))
        for item in reversed(list(end.shards.items(share))):
            if item.number == 5:
                event = ImageFailed(image=item.image, reason="none")
                lines.write(ShardBecame(number=item.number, event=event))
                continue
            place = lines.keep(str(item.number).encode() * item.number)
            event = ItemDone(image=item.image)
            lines.write(ShardBecame(number=item.number, event=event, result=place))
        lines.close()


def test_items_come_in_order_with_what_was_kept_of_each(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_OPEN", 2)
    _tell_all(run)
    found = list(_ended(run).in_order())
    asked = [n for n in range(NUMBER) if n != 2]  # that one was there before
    assert [one.item.number for one in found] == asked
    for one in found:
        number = one.item.number
        kept = b"" if number == 5 else str(number).encode() * number
        assert one.result == kept
        assert isinstance(one.event, ImageFailed if number == 5 else ItemDone)


def test_a_result_that_is_gone_is_named(run: Run) -> None:
    _tell_all(run)
    end = _ended(run)
    file: Path = end.shards.results_file(0)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match="00000.results: was cut short"):
        list(end.in_order())
    file.unlink()
    with pytest.raises(RunFolderError, match="00000.results: cannot be read"):
        list(end.in_order())


def test_a_run_of_a_command_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="a train run has no shards"):
        work_of(new_run(tmp_path, TrainRequest()))


def test_a_run_gets_the_work_of_its_command(tmp_path: Path) -> None:
    request = PredictRequest(model="/m", inputs=("/in",), out="/out", shards=2)
    work = work_of(new_run(tmp_path, request))
    assert work.request == request
    assert work.called == "images"


def test_pixels_are_looked_at_for_the_first_images_and_reckoned_from_bytes_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 96), np.uint8)
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file in files:
        Image.fromarray(noise).save(file)
    monkeypatch.setattr(module, "_MOST_PROBED", 2)
    sizes = ImageSizes()
    found = [sizes.of(file, 1, is_wanted=True) for file in files]
    assert found == [(files[0].stat().st_size, 64 * 96)] * 3


def test_a_folder_has_no_bytes_and_what_cannot_be_read_no_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "torn.png").write_bytes(b"torn")
    sizes = ImageSizes()
    assert sizes.of(tmp_path / "a.zarr", 1, is_wanted=True)[0] == -1
    assert sizes.of(tmp_path / "torn.png", 1, is_wanted=True) == (4, 0)
    assert sizes.of(tmp_path / "gone.png", 1, is_wanted=True) == (-1, 0)
