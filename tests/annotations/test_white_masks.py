"""White masks of one person beside numbered ones of another are told, whatever reads them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.annotations.masks import MaskFacts, recipe_of, table_of
from emcfsys_engine.annotations.white_masks import white_beside_numbers
from emcfsys_engine.cli import cli
from emcfsys_engine.dataset.samples import gather, read_labels
from emcfsys_engine.errors import MaskNumbersError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.convert.conversion import convert_labels

CLASSES = {"bg": 0, "grain": 1}


def facts(number: int, *values: int) -> tuple[ImageRef, MaskFacts]:
    held = tuple((value, 100) for value in values)
    made = MaskFacts(size_HW=(10, 10 * len(values)), values=held, in_colour=False)
    return ImageRef(path=Path(f"{number}.png")), made


def told(*masks: tuple[int, ...], labels: dict[str, str] | None = None) -> bool:
    every = [facts(number, *values) for number, values in enumerate(masks)]
    return white_beside_numbers(every, table_of(CLASSES, labels or {}), (0, 1)) is not None


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
    if is_white and recipe_of(every, table_of(CLASSES, {}), (0, 1)) == "index":
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
        convert_labels(str(tmp_path / "masks"), tmp_path / "out", to="masks", classes=CLASSES)
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
