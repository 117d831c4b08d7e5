"""new, demo, check, measure, inspect: answers on stdout, refusals with their codes."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.commands.data import check, demo, inspect, new
from emcfsys_engine.commands.measure import measure
from emcfsys_engine.errors import InputError
from tests.commands.made import say


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of an image and its mask."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "data"
    pixels = np.random.default_rng(0).integers(0, 255, (80, 90), np.uint8)
    mask = np.zeros((80, 90), np.uint8)
    mask[10:30, 10:40] = 1
    for name, content in (("images", pixels), ("masks", mask)):
        (place / name).mkdir(parents=True)
        Image.fromarray(content).save(place / name / "a.png")
    return place


def test_new_writes_a_project_that_check_reads_and_says_where(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    assert json.loads(say(new, str(folder), "--look", "--json"))["num_images"] == 1
    assert sorted(folder.rglob("*")) == before
    file = Path(say(new, str(folder)).strip())
    assert file == folder / "project.toml"
    told = CliRunner().invoke(check, [str(folder), "--no-dry-run", "--json"])
    document = json.loads(told.stdout)
    assert told.exit_code == (2 if any(o["level"] == "error" for o in document["findings"]) else 0)


@pytest.mark.parametrize("merge", ["mitochondria", "=x", "a=", "a=a"])
def test_a_merge_that_is_none_is_refused_with_an_example(merge: str, folder: Path) -> None:
    told = CliRunner().invoke(new, [str(folder), "--merge", merge])
    assert isinstance(told.exception, InputError)
    assert "mitochondria=mitochondrion" in str(told.exception)
    assert not (folder / "project.toml").exists()


def test_classes_of_images_without_labels_are_named_in_one_word(folder: Path) -> None:
    (folder / "masks" / "a.png").unlink()
    (folder / "masks").rmdir()
    say(new, str(folder), "--classes", "matrix, large,small")
    text = (folder / "project.toml").read_text()
    assert "matrix = 0\nlarge = 1\nsmall = 2\n" in text


def test_measure_says_what_it_made(folder: Path) -> None:
    answer = say(measure, str(folder / "masks"), "--out", str(folder / "t"), "--json")
    assert json.loads(answer)["num_objects"] == 1


def test_inspect_tells_what_a_file_is(folder: Path) -> None:
    assert "90 × 80 pixels" in say(inspect, str(folder / "images" / "a.png"))


def test_a_microscope_writes_as_many_images_as_asked(tmp_path: Path) -> None:
    words = ["--microscope", str(tmp_path / "in"), "--count", "2", "--every", "0"]
    made = say(demo, *words, "--manner", "whole").split()
    assert [Path(file).exists() for file in made] == [True, True]
    assert CliRunner().invoke(demo, []).exit_code == 2
