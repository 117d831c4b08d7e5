"""convert: the same files in this process and in shards; refusals with their codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from emcfsys_engine.commands.convert import convert
from emcfsys_engine.commands.submit import submit
from emcfsys_engine.errors import InputError
from emcfsys_engine.run.events import WarningGiven
from emcfsys_engine.run.folder import Run
from tests.shards.made import made_in
from tests.tools.drawn_masks import blobs, save_mask


@pytest.fixture
def masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four masks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(4):
        save_mask(tmp_path / f"masks/{number}.png", blobs(number))
    return tmp_path / "masks"


def _words(masks: Path, out: str, *words: str) -> list[str]:
    return [str(masks), "--to", "labelme", "--out", str(masks.parent / out), *words]


def _say(masks: Path, out: str, *words: str) -> Result:
    return CliRunner().invoke(convert, _words(masks, out, *words))


def _run(masks: Path, out: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "emcfsys_engine", "convert", *_words(masks, out, *words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_shards_answer_as_one_process_does_and_again_say_what_is_there(masks: Path) -> None:
    (masks / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n none")
    alone, shared = _run(masks, "one"), _run(masks, "out", "--shards", "2%1")
    assert (alone.returncode, shared.returncode) == (1, 1), shared.stderr
    assert shared.stdout == alone.stdout == "4 written, 1 skipped\n"
    assert made_in(masks.parent / "out") == made_in(masks.parent / "one")
    assert shared.stderr.count(f"{masks}/bad.png: ") == 1
    assert "4 files done, 1 failed" in shared.stderr
    assert shared.stderr.count("no classes were given") == 1
    told = Run(masks.parent / "out/.emcfsys/run-0001").events()  # all that a queue's log has
    notes = [one.message for one in told if isinstance(one, WarningGiven)]
    assert notes and all(note in alone.stderr for note in notes)
    again = _run(masks, "out", "--shards", "2%1", "--json")
    assert again.returncode == 1
    assert json.loads(again.stdout)["written"] == []
    assert again.stderr.count("exists already. Give --overwrite") == 4
    assert made_in(masks.parent / "out") == made_in(masks.parent / "one")


def test_classes_and_labels_reach_the_tasks(masks: Path) -> None:
    words = ("--class", "ground=0", "--class", "grain=7", "--label", "1=grain", "--tolerance", "1")
    alone, shared = _run(masks, "one", *words), _run(masks, "out", *words, "--shards", "2")
    assert (alone.returncode, shared.returncode) == (0, 0), shared.stderr
    assert made_in(masks.parent / "out") == made_in(masks.parent / "one")
    labels = json.loads((masks.parent / "out/0.json").read_text())["shapes"]
    assert {one["label"] for one in labels} == {"grain", "ground"}  # a hole is ground


def test_a_dry_run_tells_and_begins_nothing(masks: Path) -> None:
    told = _say(masks, "out", "--shards", "64%2", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "4 files" in told.stdout and "4 tasks, 2 at a time" in told.stdout
    found = json.loads(_say(masks, "out", "--dry-run", "--json").stdout)
    assert (found["images"], found["tasks"]) == (4, 1)
    assert not (masks.parent / "out").exists()


def test_convert_says_what_it_made(masks: Path) -> None:
    told = _say(masks, "out", "--class", "a=0", "--class", "b=1")
    assert told.exit_code == 0, told.output
    assert (masks.parent / "out/0.json").exists()


def test_no_number_of_tasks_and_a_gpu_are_refused(masks: Path) -> None:
    told = _say(masks, "out", "--shards", "none")
    assert isinstance(told.exception, InputError)
    asked = CliRunner().invoke(submit, ["convert", *_words(masks, "out", "--gpus", "1")])
    assert isinstance(asked.exception, InputError)
    assert "computes on processors" in str(asked.exception)
    assert not (masks.parent / "out").exists()


@pytest.mark.parametrize(("to", "place"), [("labelme", "drawn"), ("masks", "painted")])
def test_a_folder_whose_labels_would_be_read_as_other_classes_is_refused(
    masks: Path, to: str, place: str
) -> None:
    text = '[project]\nname = "p"\n[classes]\nresin = 0\ngrain = 1\npore = 2\n'
    swapped = '[data.labels]\n"grain" = "pore"\n"1" = "pore"\n'
    text += f'[[data]]\nimages = "i"\nannotations = "drawn"\n{swapped}'
    text += f'[[data]]\nimages = "j"\nmasks = "painted"\n{swapped}'
    (masks.parent / "project.toml").write_text(text)
    for folder in ("i", "j", "drawn", "painted"):
        (masks.parent / folder).mkdir()
    words = (str(masks), "--to", to, "--project", str(masks.parent), "--out")
    said = CliRunner().invoke(convert, [*words, str(masks.parent / place)])
    assert isinstance(said.exception, InputError)
    assert "for another class than 'grain'" in str(said.exception)
    assert not any((masks.parent / place).iterdir())
    said = CliRunner().invoke(convert, [*words, str(masks.parent / "elsewhere")])
    assert said.exit_code == 0, said.output
