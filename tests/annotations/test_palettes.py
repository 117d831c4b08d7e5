"""Palettes of masks that do not agree are told; one palette, or named colours, are fine."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.annotations.masks import mask_facts, table_of
from emcfsys_engine.annotations.palettes import numbered_differently
from emcfsys_engine.cli import cli
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.tools.convert.conversion import convert_labels

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
TRUTH = np.arange(600).reshape(20, 30).astype(np.uint8) // 100 % 3


def draw(file: Path, order: tuple[int, int, int]) -> ImageRef:
    """Save a mask that looks alike whatever the order of its colours is."""
    indices = np.argsort(order)[TRUTH].astype(np.uint8)
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette(COLOURS[list(order)].ravel().tolist())
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
    return ImageRef(path=file)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
def test_one_colour_under_two_numbers_is_told_by_name(tmp_path: Path, suffix: str) -> None:
    """A class was learned as another in every second mask, and nothing was said."""
    table = table_of({"bg": 0, "a": 1, "b": 2}, {})
    alike = [draw(tmp_path / f"{n}{suffix}", (0, 1, 2)) for n in range(2)]
    other = draw(tmp_path / f"other{suffix}", (0, 2, 1))
    facts = [(ref, mask_facts(ref, table)) for ref in (*alike, other)]
    assert numbered_differently(facts[:2]) is None
    fault = numbered_differently(facts)
    assert fault is not None
    assert f"other{suffix}: has the colour #00ff00 as 1" in str(fault)


def test_black_that_fills_a_palette_up_is_no_colour_of_two_numbers(tmp_path: Path) -> None:
    refs: list[ImageRef] = []
    for value in (5, 9):  # numbered objects beyond the three colours
        picture = Image.fromarray((TRUTH == 1).astype(np.uint8) * value).convert("P")
        picture.putpalette([*COLOURS.ravel().tolist(), *[0] * 759])
        picture.save(tmp_path / f"{value}.png")
        refs.append(ImageRef(path=tmp_path / f"{value}.png"))
    assert numbered_differently([(ref, mask_facts(ref, table_of({}, {}))) for ref in refs]) is None


def test_check_and_convert_refuse_them_until_colours_are_named(tmp_path: Path) -> None:
    for number, order in enumerate([(0, 1, 2), (0, 2, 1)]):
        draw(tmp_path / "masks" / f"{number}.png", order)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(TRUTH * (100 + number)).save(tmp_path / "images" / f"{number}.png")
    toml = '[project]\nname = "p"\n[classes]\nbg = 0\na = 1\nb = 2\n'
    toml += '[[data]]\nimages = "images"\nmasks = "masks"\n'
    (tmp_path / "project.toml").write_text(toml)
    told = CliRunner().invoke(cli, ["check", str(tmp_path)])
    assert told.exit_code != 0
    assert "has the colour #00ff00 as 1" in told.output
    for known in (None, {"bg": 0, "a": 1, "b": 2}):
        with pytest.raises(AnnotationError, match="has the colour"):
            convert_labels(str(tmp_path / "masks"), tmp_path / "out", to="masks", classes=known)
    numbers = {"0": "bg", "1": "a", "2": "b"}
    labels = {"#000000": "bg", "#ff0000": "a", "#00ff00": "b"}
    for one in (numbers, labels):
        named = "".join(f'"{pixels}" = "{name}"\n' for pixels, name in one.items())
        (tmp_path / "project.toml").write_text(f"{toml}[data.labels]\n{named}")
        told = CliRunner().invoke(cli, ["check", str(tmp_path)])
        assert "has the colour" not in told.output
    classes = {"bg": 0, "a": 1, "b": 2}
    where = str(tmp_path / "masks")
    convert_labels(where, tmp_path / "out", to="masks", classes=classes, labels=labels)
    for number in range(2):
        with Image.open(tmp_path / "out" / f"{number}.png") as made:
            assert np.array_equal(np.asarray(made), TRUTH)


def test_measure_refuses_numbers_that_stand_for_other_colours(tmp_path: Path) -> None:
    for number, order in enumerate([(0, 1, 2), (0, 2, 1)]):
        draw(tmp_path / "masks" / f"{number}.png", order)
    place = str(tmp_path / "masks")
    (tmp_path / "images").mkdir()
    toml = '[project]\nname = "p"\n[classes]\nbg = 0\na = 1\nb = 2\n[[data]]\nimages = "images"\n'
    (tmp_path / "project.toml").write_text(toml + 'masks = "masks"\n')
    for given in ([], ["--project", str(tmp_path)]):  # classes that are given change no colour
        words = ["measure", place, "--out", str(tmp_path / "out"), *given]
        told = CliRunner().invoke(cli, words)
        assert isinstance(told.exception, AnnotationError)
        assert "has the colour #00ff00 as 1" in str(told.exception)
    assert not (tmp_path / "out").exists()


def test_numbers_that_a_person_named_are_right_whatever_colours_they_have(tmp_path: Path) -> None:
    """Programs that spread a palette over as many numbers as a mask has differ by colour only."""
    for number, order in enumerate([(0, 1, 2), (0, 2, 1)]):
        draw(tmp_path / "masks" / f"{number}.png", order)
    where, classes = str(tmp_path / "masks"), {"bg": 0, "a": 1, "b": 2}
    some, every = {"0": "bg"}, {"0": "bg", "1": "a", "2": "b"}
    with pytest.raises(AnnotationError, match=r'their numbers where those are right, as in "1"'):
        convert_labels(where, tmp_path / "out", to="masks", classes=classes, labels=some)
    convert_labels(where, tmp_path / "out", to="masks", classes=classes, labels=every)
    for number in range(2):
        given, made = (Image.open(tmp_path / at / f"{number}.png") for at in ("masks", "out"))
        with given, made:
            assert np.array_equal(np.asarray(made), np.asarray(given))
