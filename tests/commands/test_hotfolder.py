"""watch: what it would do and how it is doing, without doing anything."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.hotfolder import make_watch, watch
from emcfsys_engine.errors import EmcfError
from emcfsys_engine.project import load_project
from tests.commands.made import say


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "incoming"):
        (tmp_path / name).mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "images"\n'
        'masks = "images"\n[hotfolder]\nwatch = "incoming"\n'
    )
    return tmp_path


def test_the_status_of_a_watch_that_never_ran_is_told_and_nothing_is_made(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    told = json.loads(say(watch, str(folder), "--status", "--json"))
    assert (told["state"], told["done"], told["run"]) == ("stopped", 0, None)
    assert sorted(folder.rglob("*")) == before


def test_without_a_model_it_says_what_to_train_and_makes_no_run(folder: Path) -> None:
    with pytest.raises(EmcfError):
        make_watch(load_project(folder))
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    "words", [("--once", "--status"), ("--retry", "--dry-run"), ("--once", "--json")]
)
def test_what_makes_no_sense_together_is_refused(words: tuple[str, ...], folder: Path) -> None:
    told = CliRunner().invoke(watch, [str(folder), *words])
    assert told.exit_code == 2


def test_where_no_image_failed_there_is_none_to_try_again(folder: Path) -> None:
    told = CliRunner().invoke(watch, [str(folder), "--retry"])
    assert "holds no failed image" in str(told.exception)
