"""A stack goes plane by plane, by one model, and leaves no mask of planes that it lost."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from emcfsys_engine.annotations.pair_masks import masks_that_count
from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.reader import find_images
from emcfsys_engine.learn.inference import image as predict_image
from emcfsys_engine.learn.inference import tiles as tiling
from emcfsys_engine.learn.inference.predictor import Predictor
from tests.learn.conftest import run_here
from tests.learn.hot import Hot, warnings_of
from tests.learn.watch.test_images import add, done_of, once, other_model, paint_over, pixels
from tests.learn.watch.test_images import hot as hot


def test_a_stack_goes_plane_by_plane(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    most = [0]
    now: set[int] = set()
    opened = predict_image.open_image

    def counting(*arguments: object, **options: object) -> object:
        image = opened(*arguments, **options)  # pyright: ignore
        now.add(id(image))
        most[0] = max(most[0], len(now))
        close = image.close
        image.close = lambda: (now.discard(id(image)), close())  # pyright: ignore
        return image

    monkeypatch.setattr(predict_image, "open_image", counting)
    monkeypatch.setattr(predict_image, "_MOST_AHEAD", 4)
    tifffile.imwrite(hot.incoming / "s.tif", pixels(1, (40, 32, 32)), photometric="minisblack")
    (run_done,) = done_of(once(hot))
    assert run_done == "s.0039.png"
    assert len(hot.masks()) == 40
    assert most[0] <= 4 + 16 + 5  # ahead, in a batch of small ones, behind
    assert len(read_ledger(hot.output)) == 1


def end_within(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """End a watch once some of a stack's planes have masks; return those."""
    tifffile.imwrite(hot.incoming / "s.tif", pixels(1, (12, 32, 32)), photometric="minisblack")
    run = hot.new_run(once=True)
    number = [0]
    forward = Predictor.forward

    def ended(self: Predictor, tiles: torch.Tensor) -> torch.Tensor:
        number[0] += 1
        if number[0] == 6:
            os.kill(os.getpid(), 15)
        return forward(self, tiles)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "forward", ended)
        patch.setattr(tiling, "_MOST_SMALL", 0)  # one plane is a batch
        assert run_here(run) == 143
    assert number[0] == 6  # not one plane more
    made = hot.masks()
    assert 1 <= len(made) <= 5
    return made


def test_a_stack_that_was_ended_within_goes_on_where_it_was(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = end_within(hot, monkeypatch)
    before = {name: (hot.output / name).stat().st_ino for name in made}
    once(hot)
    assert len(hot.masks()) == 12
    assert {name: (hot.output / name).stat().st_ino for name in made} == before


def test_a_stack_that_was_ended_within_has_no_masks_of_two_models(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = Hot(tmp_path, Path(shutil.copy(model_file, tmp_path / "model.safetensors")))
    end_within(hot, monkeypatch)
    other_model(hot.model, run="later", step=9)
    once(hot)
    makers = [OutputBook(hot.output).maker_of(hot.output / name) for name in hot.masks()]
    assert len(makers) == 12
    assert all(one and one.model.startswith("later step 9") for one in makers)


@pytest.mark.parametrize("rule", ["redo", "version", "skip"])
def test_masks_of_planes_that_a_stack_lost_are_removed_or_count_no_more(
    hot: Hot, rule: str
) -> None:
    add(hot, f'rewritten = "{rule}"\nmeasure = true\noverlay = true')

    def stack(planes: int) -> None:
        frames = np.stack([pixels(planes + number) for number in range(planes)])
        tifffile.imwrite(hot.incoming / "s.tif", frames, photometric="minisblack")

    stack(4)
    once(hot)
    corrected = paint_over(hot.output / "s.0003.png")
    stack(2)
    said = warnings_of(once(hot))
    masks = {name for name in hot.masks() if "overlay" not in name}
    names = [f"s.000{number}.png" for number in range(4)]
    counting = masks_that_count(find_images(str(hot.output), hot.folder))
    count = sorted(one.path.name for one in counting.refs if "overlay" not in one.path.name)
    assert (hot.output / "s.0003.png").read_bytes() == corrected
    rows = (hot.output / ".emcfsys" / "measurements.csv").read_text().splitlines()[1:]
    if rule == "redo":
        assert masks == {"s.0000.png", "s.0001.png", "s.0003.png"}
        assert not (hot.output / "s.0002.overlay.png").exists()
        assert "3 files of it as it was before removed" in said
        assert count == names[:2]
        assert "1 mask is of an image as it was before" in counting.notes[0]
        assert [row.split(",")[0] for row in rows] == ["s.tif#0", "s.tif#1"]
    elif rule == "version":
        assert masks == {*names, "s.0000.v2.png", "s.0001.v2.png"}
        assert count == ["s.0000.v2.png", "s.0001.v2.png"]
    else:
        assert masks == set(names)
        assert count == names
