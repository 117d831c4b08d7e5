"""recipe: one file that says what a hot folder does."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from emcfsys_engine.cli import cli
from emcfsys_engine.commands.hotfolder import recipe
from tests.commands.made import say

MODEL = Path(__file__).parents[1] / "contracts" / "data" / "model-format-1.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "incoming"):
        (tmp_path / name).mkdir()
    shutil.copy(MODEL, tmp_path / "m.safetensors")
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\nresin = 0\ngrain = 1\n[[data]]\nimages = "images"\n'
        'masks = "images"\n[hotfolder]\nwatch = "incoming"\nmodel = "m.safetensors"\n'
    )
    values = MODEL.read_bytes()[:4000]
    if b'\\"class_values\\":[0,7]' in values:
        text = (tmp_path / "project.toml").read_text()
        (tmp_path / "project.toml").write_text(text.replace("grain = 1", "grain = 7"))
    return tmp_path


def test_a_recipe_is_locked_shown_and_refused_in_one_line_where_the_project_differs(
    folder: Path,
) -> None:
    told = CliRunner().invoke(recipe, ["lock", str(folder)])
    assert told.exit_code == 0, told.output + str(told.exception)
    file = folder / "recipes" / "recipe-0001.json"
    assert told.stdout.strip() == str(file)
    shown = say(recipe, "show", str(file))
    assert "inference.overlap  0.25" in shown
    assert "SHA-256" in shown
    assert json.loads(say(recipe, "show", str(file), "--json"))["project"] == "p"
    say(recipe, "lock", str(folder))
    assert (folder / "recipes" / "recipe-0002.json").exists()

    asked = ["watch", str(folder), "--recipe", str(file), "--set", "inference.overlap=0.5"]
    refused = CliRunner().invoke(cli, asked)
    words = "inference.overlap: the recipe has 0.25, the project 0.5"
    assert words in str(refused.exception)
    assert not (folder / "runs").exists()
