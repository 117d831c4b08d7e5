"""A large image that tasks share out is seen with what is done of its mask."""

from pathlib import Path

import msgspec
import numpy as np

from emcfsys_engine.run.folder import Run
from emcfsys_tui.pictures.decoder import Viewer
from emcfsys_tui.pictures.protocol import PictureRequest
from tests.images.mosaic_made import do, made_mosaic, mask


def request(run: Run, **given: object) -> PictureRequest:
    model = run.record().request
    base = {"key": "k", "path": "x", "run": str(run.folder), "mosaic": 0, "width": 90, "height": 70}
    base["model"] = getattr(model, "model", "")
    return msgspec.convert({**base, **given}, PictureRequest, strict=False)


def test_only_regions_that_are_done_have_classes_and_more_come(tmp_path: Path) -> None:
    run, mosaic = made_mosaic(tmp_path)
    do(run, mosaic, mosaic.regions[0])
    viewer = Viewer()
    reply = viewer.answer(request(run))
    assert not reply.answer.fault
    assert reply.answer.image_px == (900, 700)
    assert reply.answer.pixel_nm == 4.0
    assert reply.answer.classes == ((0, "resin"), (1, "grain"))
    ids = np.frombuffer(reply.ids, np.uint8).reshape(70, 90)
    assert set(np.unique(ids[:25, :25])) == {0, 1}
    assert (ids[27:] == 255).all()
    assert (ids[:, 27:] == 255).all()
    do(run, mosaic, *mosaic.regions[1:])
    for _ in range(100):
        reply = viewer.answer(request(run))
        if reply.answer.is_whole:
            break
    ids = np.frombuffer(reply.ids, np.uint8).reshape(70, 90)
    assert np.array_equal(ids, mask()[5::10, 5::10])


def test_a_part_says_where_it_is_in_the_image(tmp_path: Path) -> None:
    run, mosaic = made_mosaic(tmp_path)
    do(run, mosaic, *mosaic.regions[:4])
    reply = Viewer().answer(request(run, view=(100.0, 50.0, 90.0, 70.0)))
    assert reply.answer.view_px == (100.0, 50.0, 90.0, 70.0)
    ids = np.frombuffer(reply.ids, np.uint8).reshape(70, 90)
    assert np.array_equal(ids, mask()[50:120, 100:190])


def test_a_point_tells_its_class_or_that_it_is_not_done(tmp_path: Path) -> None:
    run, mosaic = made_mosaic(tmp_path)
    do(run, mosaic, mosaic.regions[0])
    viewer = Viewer()
    assert viewer.answer(request(run, point=(10, 150))).answer.point == "10,150  grain  40 600 nm"
    assert "not done yet" in viewer.answer(request(run, point=(600, 600))).answer.point
    assert viewer.answer(request(run, point=(-1, 5))).answer.point == ""


def test_a_run_without_such_an_image_is_one_line(tmp_path: Path) -> None:
    run, _ = made_mosaic(tmp_path)
    assert "names no such image" in Viewer().answer(request(run, mosaic=3)).answer.fault
    gone = Run(tmp_path / "none")
    asked = msgspec.structs.replace(request(run), run=str(gone.folder))
    assert "none" in Viewer().answer(asked).answer.fault
