"""What contradicts is told by one function; masks that models made are not even looked at."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.annotations.contradictions import (
    contradictions,
    may_contradict,
    numbered_differently,
    white_beside_numbers,
)
from emcfsys_engine.annotations.masks import MaskFacts, mask_facts, recipe_of, table_of
from emcfsys_engine.cli import cli
from emcfsys_engine.dataset.samples import gather, read_labels
from emcfsys_engine.errors import AnnotationError, MaskNumbersError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.convert.conversion import convert_labels
from tests.annotations.test_pair_masks import Folders, folders

__all__ = ["folders"]

CLASSES = {"bg": 0, "a": 1}


def test_palettes_and_white_are_told_together(tmp_path: Path) -> None:
    refs = [draw(tmp_path / f"{n}.png", order) for n, order in enumerate([(0, 1, 2), (0, 2, 1)])]
    for name, value in (("one", 1), ("white", 255)):
        Image.fromarray(np.tri(20, dtype=np.uint8) * np.uint8(value)).save(tmp_path / f"{name}.png")
        refs.append(ImageRef(path=tmp_path / f"{name}.png"))
    for labels, told in (
        ({}, ["1.png", "white.png"]),
        ({"255": "a"}, ["1.png"]),
        ({"#ff0000": "a"}, ["white.png"]),
    ):
        table = table_of(CLASSES, labels)
        facts = [(ref, mask_facts(ref, table_of({}, {}))) for ref in refs]
        faults = contradictions(facts, table, (0, 1))
        assert [Path(str(fault.where)).name for fault in faults] == told


def test_masks_as_a_model_made_them_are_not_looked_at(folders: Folders) -> None:
    made = [folders.mask(folders.image(f"{name}.tif")) for name in "ab"]
    assert not may_contradict(folders.counting(), 2)
    Image.fromarray(np.tri(20, dtype=np.uint8)).save(made[0])  # by a person
    assert may_contradict(folders.counting(), 2)
    assert not may_contradict(folders.counting(), 3)  # of one palette, or none


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
    for classes in ([], ["--project", str(tmp_path)]):  # classes that are given change no colour
        words = ["measure", place, "--out", str(tmp_path / "out"), *classes]
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


GRAIN = {"bg": 0, "grain": 1}


def facts(number: int, *values: int) -> tuple[ImageRef, MaskFacts]:
    held = tuple((value, 100) for value in values)
    made = MaskFacts(size_HW=(10, 10 * len(values)), values=held, in_colour=False)
    return ImageRef(path=Path(f"{number}.png")), made


def told(*masks: tuple[int, ...], labels: dict[str, str] | None = None) -> bool:
    every = [facts(number, *values) for number, values in enumerate(masks)]
    return white_beside_numbers(every, table_of(GRAIN, labels or {}), (0, 1)) is not None


def test_only_white_masks_beside_numbered_ones_leave_it_open_what_255_is() -> None:
    assert told((0, 255), (0, 1), (0,))
    assert not told((255,), (1,), (0, 1))  # an image of which nothing is labelled
    assert not told((0, 255), (0,))  # all white: two classes
    assert not told((0, 255), (0, 1), (0, 1, 255))  # one that has both says it: unlabelled
    assert not told((0, 255), (0, 1), labels={"255": "ignore"})
    assert not told((0, 255), (0, 1), labels={"255": "grain"})


@given(st.lists(st.sets(st.sampled_from([0, 1, 255]), min_size=1), min_size=1, max_size=5))
def test_what_is_not_told_reads_every_white_pixel_alike(masks: list[set[int]]) -> None:
    """Either all white is grain, or a mask beside it says that white is no class."""
    if told(*(tuple(values) for values in masks)):
        return
    every = [facts(number, *values)[1] for number, values in enumerate(masks)]
    is_white = any(values == {0, 255} for values in masks)
    if is_white and recipe_of(every, table_of(GRAIN, {}), (0, 1)) == "index":
        assert any({1, 255} <= values for values in masks) or not any(1 in one for one in masks)


def test_all_refuse_them_until_255_has_a_meaning(tmp_path: Path) -> None:
    """What was white was unlabelled all at once, and only its background taught."""
    truth = np.tri(20, dtype=np.uint8)
    for name, white in (("a", 255), ("b", 1), ("c", 255)):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(truth * white).save(tmp_path / "masks" / f"{name}.png")
        Image.fromarray(truth * (50 + ord(name))).save(tmp_path / "images" / f"{name}.png")
    untold = shutil.copytree(tmp_path, tmp_path.with_name("untold"))
    toml = '[project]\nname = "p"\n[classes]\nbg = 0\ngrain = 1\n'
    toml += '[[data]]\nimages = "images"\nmasks = "masks"\n'
    (tmp_path / "project.toml").write_text(toml)
    checked = CliRunner().invoke(cli, ["check", str(tmp_path)])
    assert checked.exit_code == 2
    assert "a.png: holds only 0 and 255, as 1 more do, while" in checked.output
    with pytest.raises(MaskNumbersError, match="holds only 0 and 255"):
        convert_labels(str(tmp_path / "masks"), tmp_path / "out", to="masks", classes=GRAIN)
    words = ["measure", str(tmp_path / "masks"), "--out", str(tmp_path / "numbers")]
    for named in (["--project", str(tmp_path)], []):  # and by the classes that values show
        told = CliRunner().invoke(cli, [*words, *named])
        assert isinstance(told.exception, MaskNumbersError)
        assert "holds only 0 and 255, as 1 more do, while" in str(told.exception)
    assert not (tmp_path / "numbers").exists()
    assert "holds only 0 and 255" in CliRunner().invoke(cli, ["new", str(untold), "--look"]).output
    (tmp_path / "project.toml").write_text(toml + '[data.labels]\n"255" = "grain"\n')
    measured = CliRunner().invoke(cli, [*words, "--project", str(tmp_path)])
    assert measured.exit_code == 0, measured.output
    checked = CliRunner().invoke(cli, ["check", str(tmp_path)])
    assert checked.exit_code == 0, checked.output


def test_true_and_false_of_python_is_told_to_be_read_as_shown_and_how_to_swap_it(
    tmp_path: Path,
) -> None:
    is_grain = np.zeros((64, 64), bool)
    is_grain[:8] = True
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", is_grain)
        Image.effect_noise((64, 64), 40).save(tmp_path / "images" / f"{name}.png")
    text = (
        '[project]\nname = "p"\n[classes]\nbg = 0\ngrain = 1\n'
        '[[data]]\nimages = "images"\nmasks = "masks"\n'
    )
    (tmp_path / "project.toml").write_text(text)
    project = load_project(tmp_path)
    gathered = gather(project)
    assert any("read as shown" in note for note in gathered.notes)
    assert np.array_equal(read_labels(gathered.samples[0], project, (64, 64)), ~is_grain)
    swapped = f'{text}[data.labels]\n"0" = "grain"\n"1" = "bg"\n'
    (tmp_path / "project.toml").write_text(swapped)
    project = load_project(tmp_path)
    gathered = gather(project)
    assert not any("read as shown" in note for note in gathered.notes)
    assert np.array_equal(read_labels(gathered.samples[0], project, (64, 64)), is_grain)
    masks, out = str(tmp_path / "masks"), str(tmp_path / "out")
    for words in (
        ["convert", masks, "--to", "coco", "--class", "bg=0", "--class", "grain=1"],
        ["measure", masks],
    ):
        done = CliRunner().invoke(cli, [*words, "--out", out])
        assert "read as shown" in done.output + done.stderr
