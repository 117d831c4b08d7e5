"""Rims of classes: inside them, and none at the edge of a picture."""

from pathlib import Path

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emcfsys_engine.run.folder import Run
from emcfsys_tui.pictures.decoder import Viewer
from emcfsys_tui.pictures.drawing import calmed, rim_of
from emcfsys_tui.pictures.protocol import PictureRequest
from tests.images.mosaic_made import do, made_mosaic, mask


def test_a_rim_is_inside_its_class() -> None:
    ids = np.zeros((9, 9), np.uint8)
    ids[2:7, 2:7] = 3
    rim = rim_of(ids) > 0
    assert rim[2, 2]
    assert not rim[4, 4]
    assert not rim[0, 0]


PICTURES = st.integers(1, 6).flatmap(
    lambda lines: arrays(np.uint8, (2 * lines, 9), elements=st.integers(0, 255))
)


@given(PICTURES)
def test_no_grey_goes_further_than_an_edge_is_high(grey: np.ndarray) -> None:
    made = calmed(grey)
    assert made.shape == grey.shape
    assert np.abs(made.astype(int) - grey).max() <= 64 + 6  # the tolerance, half a grey's step


@given(PICTURES, st.data())
def test_greys_below_outlines_stay_as_they_are(grey: np.ndarray, data: st.DataObject) -> None:
    colours = data.draw(arrays(np.uint8, grey.shape, elements=st.integers(0, 2)))
    assert (calmed(grey, colours)[colours > 0] == grey[colours > 0]).all()


def test_noise_becomes_stretches_and_an_edge_stays() -> None:
    noise = np.random.default_rng(0).normal(0, 10, (40, 44))
    clean = np.where(np.arange(44) < 22, 60, 190)
    grey = np.clip(clean + noise, 0, 255).astype(np.uint8)
    made = calmed(grey)
    num_steps, of = (np.count_nonzero(np.diff(one.astype(int), axis=1)) for one in (made, grey))
    assert num_steps < 0.6 * of
    assert abs(made[:, :22].mean() - 60) < 6
    assert abs(made[:, 22:].mean() - 190) < 6
    assert (made[:, :22] < 125).all()
    assert (made[:, 22:] > 125).all()


def test_a_picture_of_an_odd_height_keeps_its_last_line() -> None:
    grey = np.linspace(0, 255, 45).astype(np.uint8).reshape(5, 9)
    assert np.abs(calmed(grey)[-1].astype(int) - grey[-1]).max() <= 6


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
