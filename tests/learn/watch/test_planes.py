"""Planes of arriving images in this process: in order, one odd file harms no other."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.writers import writer_for
from emcfsys_engine.learn.inference.image import Order
from emcfsys_engine.learn.inference.pipeline import Failure
from emcfsys_engine.learn.inference.pipes import PlaneMade
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.watch.planes import Here, Plane, companions_of, vectors_of
from emcfsys_engine.project import Project, load_project


@pytest.fixture
def project(project_folder: Path) -> Project:
    return load_project(project_folder, ("hotfolder.measure=true", "hotfolder.overlay=true"))


@pytest.fixture
def here(project: Project, model_file: Path, tmp_path: Path) -> Iterator[Here]:
    made = Here(project, model_file, 0, lambda: None, lambda told: None)
    made.open(OutputBook(tmp_path / "out"))
    yield made
    made.end()


def test_masks_lines_and_failures_come_in_the_order_of_their_planes(
    here: Here, tmp_path: Path
) -> None:
    planes = []
    for name in ("a", "b"):
        image = tmp_path / f"{name}.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 56), np.uint8)).save(image)
        order = Order(ref=ImageRef(path=image), mask_file=tmp_path / "out" / f"{name}.png")
        planes.append(Plane(path=f"{name}.png", order=order))
    bad = Plane(path="bad.png", error=ImageError("bad.png", "is half a file"))
    nothing = Plane(path="known.png")
    made = list(here.run(iter([planes[0], bad, nothing, planes[1]])))
    assert [plane.path for plane, _ in made] == ["a.png", "bad.png", "known.png", "b.png"]
    first, failed, none, last = (one for _, one in made)
    assert isinstance(first, PlaneMade)
    assert isinstance(last, PlaneMade)
    assert Path(first.mask).is_file()
    assert first.line["image"] == "a.png"
    assert first.shares == last.shares
    assert isinstance(failed, Failure)
    assert none is None


def test_what_lies_beside_a_mask_follows_the_project(
    project: Project, here: Here, tmp_path: Path
) -> None:
    assert companions_of(project).overlay
    book = OutputBook(tmp_path / "out")
    mask = tmp_path / "out" / "a.png"
    assert not vectors_of(project, book, here.card).files(ImageRef(path=tmp_path / "a.png"), mask)
    assert here.files(ImageRef(path=tmp_path / "a.png"), mask)


def test_a_model_that_was_adapted_at_its_pixel_size_brings_arriving_images_to_it(
    project: Project, model_file: Path, tmp_path: Path
) -> None:
    network, card = load_model(model_file)
    assert card.pixel_nm == 4
    adapted = tmp_path / "adapted.safetensors"
    save_model(adapted, network, msgspec.structs.replace(card, rescales=True))
    grey = np.random.default_rng(0).integers(0, 255, (48, 56), np.uint8)
    writer = writer_for(tmp_path / "a.ome.tif", (48, 56), (8.0, 8.0))
    writer.write(grey)
    writer.finish()
    made = Here(project, adapted, 0, lambda: None, lambda told: None)
    made.open(OutputBook(tmp_path / "out"))
    mask = tmp_path / "out" / "a.png"
    order = Order(ref=ImageRef(path=tmp_path / "a.ome.tif"), mask_file=mask)
    ((_, found),) = made.run(iter([Plane(path="a.ome.tif", order=order)]))
    made.end()
    assert isinstance(found, PlaneMade)
    expected = Predictor(adapted, gpus=0).predict(grey, scale=2.0).mask
    assert np.mean(np.asarray(Image.open(mask)) != expected) <= 1e-3
