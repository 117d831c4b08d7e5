"""project.toml is written with its comments, and refused when it changed underneath."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from textual.widgets import Input

from emcfsys_engine.errors import ProjectError
from emcfsys_engine.project import load_project
from emcfsys_tui.engine.edit_project import digest_of, edit_project
from emcfsys_tui.engine.form import read_form, write_form
from emcfsys_tui.widgets.form_line import FormLine
from emcfsys_tui.widgets.train_pane import TrainPane
from tests.tui.conftest import opened, told, until
from tests.waiting import PATIENCE_S


async def test_writing_keeps_the_comments_and_refuses_a_file_that_changed(demo: Path) -> None:
    file = demo / "project.toml"
    async with opened(demo, "2", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: len(pane.query(FormLine)) > 20)
        pane.query_one("#field-training-steps Input", Input).value = "123"
        await until(pilot, lambda: "steps=123" in pane.command)
        await pilot.press("w")
        await until(pilot, lambda: "123" in file.read_text())
        text = file.read_text()
        assert text.startswith("# The demo") and "minutes" not in text
        await until(pilot, lambda: pane.form.digest and not pane._changes)
        pane.query_one("#field-training-steps Input", Input).value = "77"
        await until(pilot, lambda: "steps=77" in pane.command)
        file.write_text(text + "# a colleague was here\n")
        await pilot.press("w")
        await until(pilot, lambda: "changed on the disk" in told(pilot))
        assert "77" not in file.read_text()


def test_a_linked_project_stays_a_link_and_what_it_leads_to_is_written(demo: Path) -> None:
    file, shared = demo / "project.toml", demo / "settings" / "shared.toml"
    shared.parent.mkdir()
    file.rename(shared)
    shared.chmod(0o640)
    file.symlink_to(Path("settings") / "shared.toml")
    write_form(demo, {"training.steps": "123"}, digest_of(demo))
    assert file.is_symlink()
    assert "steps = 123" in shared.read_text()
    assert shared.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("content", [b"[training\n", b"\xff", b"training = 5\n", None])
def test_a_file_that_somebody_breaks_meanwhile_is_told_and_kept(
    demo: Path, content: bytes | None
) -> None:
    file = demo / "project.toml"
    digest = digest_of(demo)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(ProjectError, match=r"project\.toml"):
        write_form(demo, {"training.steps": "123"}, digest)
    assert (file.read_bytes() if file.exists() else None) == content


def test_a_file_of_an_editor_of_windows_is_read_and_written_as_it_is(demo: Path) -> None:
    file = demo / "project.toml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    before = file.read_bytes()
    form = read_form(demo)
    assert form.fields and not form.faults
    write_form(demo, {"training.minutes": "9"}, form.digest)
    assert file.read_bytes() == before.replace(b"minutes = 2.3", b"minutes = 9")
    assert load_project(demo).training.minutes == 9


def test_what_an_editor_saves_while_the_new_content_goes_to_the_disk_is_kept(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, really = demo / "project.toml", os.fsync
    saved = file.read_text() + "# a colleague saved this\n"

    def slow_disk(descriptor: int) -> None:
        file.write_text(saved)
        really(descriptor)

    monkeypatch.setattr(os, "fsync", slow_disk)
    with pytest.raises(ProjectError, match="changed on the disk meanwhile"):
        edit_project(demo, lambda document: document["project"].update(seed=3))
    assert file.read_text() == saved
    assert not list(demo.glob("*.tmp*")) and not list(demo.glob(".project*"))


_ADDS = """
import sys
from pathlib import Path
from emcfsys_tui.engine.edit_project import edit_project
def add(document):
    place = document["training"]
    place[sys.argv[2]] = int(place.get(sys.argv[2], 10)) + 1
for _ in range(30):
    edit_project(Path(sys.argv[1]), add)
"""


def test_two_interfaces_that_change_it_at_once_lose_nothing_of_each_other(demo: Path) -> None:
    keys = ("patience", "validate_every")
    given = load_project(demo).training
    command = [sys.executable, "-c", _ADDS, str(demo)]
    processes = [subprocess.Popen([*command, key]) for key in keys]
    assert [process.wait(PATIENCE_S) for process in processes] == [0, 0]
    found = load_project(demo).training
    text = (demo / "project.toml").read_text()
    assert (found.patience, found.validate_every) == (40, 40), (given, text)


def test_a_project_that_somebody_made_read_only_is_not_changed(demo: Path) -> None:
    file = demo / "project.toml"
    before = file.read_bytes()
    file.chmod(0o444)
    with pytest.raises(ProjectError, match=r"is read-only.*chmod u\+w"):
        edit_project(demo, lambda document: document["project"].update(seed=3))
    assert file.read_bytes() == before
    file.chmod(0o644)
    edit_project(demo, lambda document: document["project"].update(seed=3))
    assert load_project(demo).project.seed == 3
