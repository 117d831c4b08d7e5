"""Tiles of several images share a batch: faster, and otherwise as if each were alone."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.learn.inference import bands, outputs
from emcfsys_engine.learn.inference import image as inference_image
from emcfsys_engine.learn.inference.files import Counted, find_inputs, predict_files
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.run.events import Event, ImageDone, ImageFailed
from emcfsys_engine.run.records import PredictRequest


class Setting:
    """Images in a folder, and a predictor whose batches are counted."""

    def __init__(self, folder: Path, model_file: Path) -> None:
        self.inputs, self.out = folder / "in", folder / "out"
        self.inputs.mkdir()
        self.predictor = Predictor(model_file, gpus=0, tile_px=64, batch=4)
        self._forward = self.predictor.forward
        self.predictor.forward = self._counted  # type: ignore[method-assign]
        self.batches: list[int] = []
        self.refuses: Callable[[Tensor], Exception | None] = lambda tiles: None
        self.images: dict[str, np.ndarray] = {}

    def add(self, name: str, height: int = 64, width: int = 64) -> None:
        """Write an image of noise that nobody else has."""
        rng = np.random.default_rng(len(self.images))
        pixels = rng.integers(0, 250, (height, width), np.uint8)
        Image.fromarray(pixels).save(self.inputs / f"{name}.png")
        self.images[name] = pixels

    def predict(
        self, asked: Callable[[], str | None] = lambda: None, **options: Any
    ) -> tuple[Counted, list[Event]]:
        """Predict the folder."""
        request = PredictRequest(
            model="m", inputs=(str(self.inputs),), out=str(self.out), **options
        )
        said: list[Event] = []
        self.batches.clear()
        return predict_files(
            request, find_inputs(request), self.predictor, said.append, asked
        ), said

    def check_masks(self, *names: str) -> None:
        """See that masks are those of the images alone."""
        self.refuses = lambda tiles: None
        for name in names or self.images:
            mask = read_micrograph(ImageRef(path=self.out / f"{name}.png")).pixels
            assert (mask != self.predictor(self.images[name])).mean() < 1e-3, name

    def _counted(self, tiles: Tensor) -> Tensor:
        if error := self.refuses(tiles):
            raise error
        self.batches.append(len(tiles))
        return self._forward(tiles)


@pytest.fixture
def setting(tmp_path: Path, model_file: Path) -> Setting:
    return Setting(tmp_path, model_file)


def test_a_mask_that_did_not_get_its_name_is_not_taken_for_that_of_the_new_image(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.add("a")
    setting.predict()
    setting.add("a", width=96)

    def fails(temporary: Path, place: Path, book: OutputBook, *, of_image: bool) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(place))

    with monkeypatch.context() as disk:
        # After the line in the book, as a kill may come.
        disk.setattr(outputs, "put_over_own", fails)
        assert setting.predict()[0].failed == 1
    origin = OutputBook(setting.out).origin_of(setting.out / "a.png")
    assert origin is not None
    assert origin.is_outdated  # neither measured nor converted as the new image's
    assert setting.predict()[0] == Counted(done=1, skipped=0, failed=0)
    setting.check_masks()


def test_an_image_that_is_replaced_while_it_is_read_is_predicted_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.add("a")

    def opened(ref: ImageRef, *rest: Any, **options: Any) -> bands.OpenImage:
        image = bands.open_image(ref, *rest, **options)
        setting.add("b", width=96)
        (setting.inputs / "b.png").replace(ref.path)
        return image

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(inference_image, "open_image", opened)
        assert setting.predict()[0].done == 1
    assert setting.predict()[0] == Counted(done=1, skipped=0, failed=0)
    setting.images = {"a": setting.images["b"]}
    setting.check_masks()


def _order(said: list[Event]) -> list[str]:
    return [Path(e.image).stem for e in said if isinstance(e, ImageDone | ImageFailed)]


def test_small_images_fill_batches_and_get_the_masks_they_get_alone(setting: Setting) -> None:
    for number in range(10):
        setting.add(f"a{number}")
    setting.add("b", 100, 130)
    setting.add("c")
    count, said = setting.predict(uncertainty=True, probability=True)
    assert count.done == 12
    assert setting.batches == [4, 4, 4, 4, 1]  # 10 of one tile, 6 of b, 1 of c
    assert _order(said) == sorted(setting.images)
    setting.check_masks()
    maps = {name: read_micrograph(ImageRef(path=setting.out / f"{name}.uncertainty.png")).pixels
            for name in ("a3", "b")}  # fmt: skip
    for name, found in maps.items():
        alone = setting.predictor.predict(setting.images[name], uncertainty=True).uncertainty
        assert alone is not None
        assert np.abs(found.astype(int) - alone).max() <= 1


def test_images_of_many_sizes_share_batches_with_their_like(setting: Setting) -> None:
    for number in range(9):
        setting.add(f"a{number}", 48 + 8 * (number // 3), 64)
    assert setting.predict()[0].done == 9
    assert setting.batches == [3, 3, 3]
    setting.check_masks()


def test_an_image_that_cannot_be_read_or_computed_harms_none_beside_it(setting: Setting) -> None:
    for number in range(8):
        setting.add(f"a{number}")
    (setting.inputs / "a2.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    marked = setting.predictor.prepare(setting.images["a5"])[..., 0]

    def refuses(tiles: Tensor) -> Exception | None:
        is_there = any(np.allclose(tile[0].numpy(), marked) for tile in tiles)
        return InputError("a5", "is odd", "Leave it out") if is_there else None

    setting.refuses = refuses
    count, said = setting.predict()
    assert (count.done, count.failed) == (6, 2)
    assert _order(said) == [f"a{number}" for number in range(8)]
    failed = [Path(e.image).stem for e in said if isinstance(e, ImageFailed)]
    assert failed == ["a2", "a5"]
    setting.check_masks("a0", "a1", "a3", "a4", "a6", "a7")


def test_large_images_between_small_ones_keep_the_order(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "LARGE_PX", 64 * 64)
    for number in range(6):
        setting.add(f"a{number}", 130 if number in (1, 4) else 64)
    count, said = setting.predict()
    assert count.done == 6
    assert _order(said) == [f"a{number}" for number in range(6)]
    setting.check_masks()


def test_a_batch_that_does_not_fit_is_begun_anew_with_smaller_tiles(setting: Setting) -> None:
    for number in range(7):
        setting.add(f"a{number}", 64 * (1 + number % 2), 64)
    predictor = setting.predictor
    predictor.tiles.px = 128
    network = predictor._calls[0]
    most_px = 64 * 64

    def fits(tiles: Tensor) -> Tensor:
        if len(tiles) * tiles.shape[-1] * tiles.shape[-2] > most_px:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(tiles)

    predictor._calls = [fits]
    count, said = setting.predict()
    assert (count.done, count.failed) == (7, 0)
    assert _order(said) == [f"a{number}" for number in range(7)]
    assert (predictor.tile_px, predictor.batch) == (64, 1)
    setting.check_masks()


def test_a_stop_between_batches_leaves_whole_images_and_the_rest_is_done_next_time(
    setting: Setting,
) -> None:
    for number in range(20):
        setting.add(f"a{number:02d}")
    count, _ = setting.predict(lambda: "stop" if len(setting.batches) == 3 else None)
    assert count.done < 20
    there = {file.stem for file in setting.out.glob("*.png")}
    assert len(there) >= count.done
    count, _ = setting.predict()
    assert (count.done, count.skipped) == (20 - len(there), len(there))
    setting.check_masks()
    assert not [file for file in setting.out.iterdir() if file.name.startswith(".a")]
