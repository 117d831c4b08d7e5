"""A suggestion is no label until a person saved it."""

import json
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.annotations.draw import shapes_of
from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.formats.labelme import write_labelme
from emcfsys_engine.annotations.suggestions import model_of, untouched, waiting_suggestions
from emcfsys_engine.project_tables import Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A suggestion, and a file that a person drew."""
    ids = np.zeros((20, 30), np.uint8)
    ids[5:15, 5:20] = 1
    shapes = shapes_of(ids, {1: "grain"}, background=0)
    by = {"model": "run-0001", "score": 0.9}
    write_labelme(tmp_path / "a.json", shapes, (20, 30), tmp_path / "a.png", suggested_by=by)
    write_labelme(tmp_path / "b.json", shapes, (20, 30), tmp_path / "b.png")
    return tmp_path


def test_a_suggestion_says_of_which_model_it_is(folder: Path) -> None:
    said = model_of(folder / "a.json")
    assert said is not None
    assert (said.model, said.score) == ("run-0001", 0.9)
    assert model_of(folder / "b.json") is None
    assert model_of(folder / "none.json") is None


def test_what_a_person_saved_waits_no_longer_even_unchanged(folder: Path) -> None:
    source = Source(images=".", annotations=".")
    assert [file.name for file in waiting_suggestions(source, folder)] == ["a.json"]
    file = folder / "a.json"
    file.write_text(json.dumps(json.loads(file.read_text())))  # as any tool saves: other blanks
    assert untouched(find_annotations(".", folder, [], [])) == {}
    assert waiting_suggestions(source, folder) == {}
    assert waiting_suggestions(Source(images=".", masks="."), folder) == {}
