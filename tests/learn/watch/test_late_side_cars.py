"""An image whose scale comes after it ends as one whose scale was there before."""

import csv
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile

from emcfsys_engine.hotfolder.review import read_verdicts, say_word
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.run.folder import Run
from tests.learn.conftest import run_here
from tests.learn.hot import Hot, warnings_of
from tests.learn.watch.test_verdicts import done_of

_STATES = ("", "pass", "review", "fail")


@pytest.fixture
def hot(tmp_path: Path, model_file: Path) -> Hot:
    """A hot folder whose model brings images to its own scale, 4 nm."""
    network, card = load_model(model_file)
    file = tmp_path / "rescales.safetensors"
    save_model(file, network, msgspec.structs.replace(card, rescales=True))
    return Hot(tmp_path, file, "measure = true")


def picture(hot: Hot, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 56), np.uint8)
    tifffile.imwrite(hot.incoming / name, pixels)


def scale(hot: Hot, name: str, side_nm: float = 8.0) -> None:
    text = f"[SemImageFile]\nDataSize=56x48\nPixelSize={side_nm}\n"
    (hot.incoming / name).write_text(text)


def watched(hot: Hot) -> Run:
    run = hot.new_run(once=True)
    assert run_here(run) == 0
    return run


def rows(hot: Hot) -> dict[str, dict[str, str]]:
    with (hot.output / ".emcfsys" / "measurements.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert len({row["image"] for row in found}) == len(found)
    return {row["image"]: row for row in found}


def test_mask_and_numbers_are_those_of_an_image_whose_scale_was_there(hot: Hot) -> None:
    """They were not: without nm for ever, and by a model that rescales, of another scale."""
    picture(hot, "late.tif")
    watched(hot)
    before = (hot.output / "late.png").read_bytes()
    assert rows(hot)["late.tif"]["pixel_nm"] == ""
    scale(hot, "late.txt")
    scale(hot, "early.txt")
    picture(hot, "early.tif")
    run = watched(hot)
    assert "1 image got another pixel size since, made anew: late.tif" in warnings_of(run)
    assert (hot.output / "late.png").read_bytes() == (hot.output / "early.png").read_bytes()
    assert (hot.output / "late.png").read_bytes() != before
    late, early = rows(hot)["late.tif"], rows(hot)["early.tif"]
    assert {**late, "image": ""} == {**early, "image": ""}
    assert late["pixel_nm"] == "8"
    assert done_of(watched(hot)) == []  # once

    scale(hot, "late.txt", 16.0)
    assert len(done_of(watched(hot))) == 1
    assert rows(hot)["late.tif"]["pixel_nm"] == "16"


def test_any_text_beside_an_image_changes_nothing(hot: Hot) -> None:
    picture(hot, "a.tif")
    watched(hot)
    (hot.incoming / "a.txt").write_text("my notes")
    (hot.incoming / "b.txt").write_text("of no image")
    assert done_of(watched(hot)) == []


def test_an_image_that_a_person_spoke_of_is_kept_and_told(hot: Hot) -> None:
    picture(hot, "a.tif")
    watched(hot)
    say_word(hot.output, ["a.tif"], "accepted")
    scale(hot, "a.txt")
    run = watched(hot)
    assert done_of(run) == []
    assert "a.tif: its pixel size is 8 nm by now" in warnings_of(run)
    (found,) = read_verdicts(hot.output, _STATES)[1]
    assert found.word == "accepted"
    assert math.isnan(found.numbers[""].get("pixel_nm", math.nan))
