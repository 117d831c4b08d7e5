"""A recipe is written once, sealed, and followed exactly or not at all."""

import json
import re
from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.hotfolder.recipe import (
    Recipe,
    lock_recipe,
    read_recipe,
    recipe_to_follow,
    refuse_other,
    what_is_touched,
)
from emcfsys_engine.project import Project, load_project

PROJECT = """
[project]
name = "p"
[classes]
a = 0
b = 1
[[data]]
images = "images"
masks = "images"
[hotfolder]
watch = "incoming"
{more}
"""


def project_in(folder: Path, more: str = "") -> Project:
    for name in ("images", "incoming"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "project.toml").write_text(PROJECT.format(more=more))
    (folder / "model.safetensors").touch()
    return load_project(folder)


def locked(folder: Path, more: str = "") -> tuple[Path, Recipe]:
    file = folder / "r.json"
    made = lock_recipe(project_in(folder, more), folder / "model.safetensors", file)
    return file, made


def test_a_locked_recipe_is_what_is_read_and_is_never_written_over(tmp_path: Path) -> None:
    file, made = locked(tmp_path, "[limits.confidence]\nreview_below = 0.8")
    assert read_recipe(file) == made
    assert made.model == "model.safetensors"
    assert file.stat().st_mode & 0o777 == 0o444
    content = file.read_bytes()
    with pytest.raises(InputError, match="is there already: a recipe is never changed"):
        locked(tmp_path)
    assert file.read_bytes() == content
    assert [one.name for one in tmp_path.glob("*r.json*")] == ["r.json"]


def test_the_project_that_was_locked_is_accepted_and_each_difference_is_named(
    tmp_path: Path,
) -> None:
    limits = "[limits.confidence]\nreview_below = 0.8"
    file, made = locked(tmp_path, limits)
    assert refuse_other(file, made, project_in(tmp_path, limits)).name == "model.safetensors"
    for more, words in (
        (
            "[limits.confidence]\nreview_below = 0.7",
            "limits.confidence.review_below: the recipe has 0.8, the project 0.7. Set it so",
        ),
        ("", "limits.confidence.review_below: the recipe has 0.8, the project nothing"),
        (f"measure = true\n{limits}", "hotfolder.measure: the recipe has false, the project true"),
        (f"follow = true\n{limits}", "hotfolder.follow: the recipe has false"),
        (
            f"{limits}\n[inference]\ntta = true\noverlap = 0.5",
            r"inference\.overlap: the recipe has 0\.25, the project 0\.5 \(and 1 more diff",
        ),
    ):
        with pytest.raises(InputError, match=words if "\\" in words else re.escape(words)) as told:
            refuse_other(file, made, project_in(tmp_path, more))
        assert "\n" not in str(told.value)


def test_a_model_that_is_gone_or_changed_is_refused(tmp_path: Path) -> None:
    file, made = locked(tmp_path)
    project = project_in(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"another")
    with pytest.raises(InputError, match=r"model\.safetensors was changed: the recipe has SHA-256"):
        refuse_other(file, made, project)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is gone"):
        refuse_other(file, made, project)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no recipe"),
        (b"[1]", "is no recipe"),
        (b"\xff\xfe", "is no recipe"),
        (b"[" * 100_000, "is no recipe"),
        (b'{"format": 99}', "has format 99"),
        (b'{"format": 1}', "is no recipe"),
    ],
)
def test_what_is_no_recipe_is_told_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "r.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=words) as told:
        read_recipe(file)
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match="there is no such recipe"):
        read_recipe(tmp_path / "gone.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path)


def test_a_recipe_that_an_editor_changed_is_refused(tmp_path: Path) -> None:
    file, _ = locked(tmp_path)
    document = json.loads(file.read_bytes())
    document["inference"]["overlap"] = 0.5
    file.chmod(0o644)
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="was changed after it was locked"):
        read_recipe(file)


def test_a_project_that_goes_on_to_better_models_has_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"hotfolder\.follow: is true"):
        locked(tmp_path, "follow = true")


def test_only_what_masks_are_made_of_asks_for_a_prediction() -> None:
    assert what_is_touched(["limits.confidence.fail_below", "model"]) == "predict"
    assert what_is_touched(["inference.overlap"]) == "predict"
    assert what_is_touched(["hotfolder.measure", "limits.group"]) == "measure"
    assert what_is_touched(["limits.confidence.fail_below"]) == ""


def test_a_recipe_that_names_another_model_by_now_is_refused_by_the_watch_made_before(
    tmp_path: Path,
) -> None:
    file, recipe = locked(tmp_path)
    project = load_project(tmp_path)
    made_for = tmp_path / recipe.model
    assert recipe_to_follow(str(file), project, made_for) == recipe
    assert recipe_to_follow("", project, made_for) is None
    other = made_for.with_name("other.safetensors")
    other.write_bytes(made_for.read_bytes())
    with pytest.raises(InputError, match=r"this watch was made for .*other"):
        recipe_to_follow(str(file), project, other)
