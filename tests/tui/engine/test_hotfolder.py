"""The hot folder as its tab reads it: one row an image, the watch that has the folder."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Entry, Ledger
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import EventWriter, ImageDone, ImageFailed, RunStarted, WatchState
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import WatchRequest
from emcfsys_tui.engine import hotfolder
from emcfsys_tui.engine.hotfolder import HotFolderReader, start_watch
from emcfsys_tui.view_models import HotState


def _watch(folder: Path, recipe: str = "") -> Run:
    names = {"watch": str(folder / "incoming"), "output": str(folder / "predictions")}
    request = WatchRequest(model=str(folder / "best.safetensors"), recipe=recipe, **names)
    return new_run(folder / "runs", request, project=load_project(folder))


def _read(reader: HotFolderReader) -> HotState:
    told = reader.read()
    assert told is not None
    return told.hot


def test_a_newer_watch_that_was_refused_does_not_hide_the_one_that_has_the_folder(
    tmp_path: Path,
) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\n'
        'images = "images"\nmasks = "masks"\n'
        '[hotfolder]\nwatch = "incoming"\n'
    )
    first = _watch(tmp_path)
    ledger = Ledger(tmp_path / "predictions", owner=str(first.folder))
    with EventWriter(first.events_file) as events:
        events.write(RunStarted(run=first.id, does="watch"))
        events.write(WatchState(state="watching"))
        events.write(ImageDone(image="x.png", mask="x.png", seconds=0.1, lag_s=0.5))
    reader = HotFolderReader(tmp_path)
    assert (_read(reader).run, reader.read()) == (first.id, None)
    second = _watch(tmp_path)
    assert reader.read() is None
    ledger.close()
    stopped = _read(reader)
    assert (stopped.run, stopped.state) == (second.id, "stopped")
    again = Ledger(tmp_path / "predictions", owner=str(first.folder))
    found = _read(reader)
    assert (found.run, found.state, found.median_lag_s) == (first.id, "watching", 0.5)
    assert len(found.newest) == 1  # nothing is counted twice
    again.close()


def test_a_failed_image_is_one_row_with_its_attempts_until_it_has_its_mask(demo: Path) -> None:
    watch = _watch(demo)
    (demo / "incoming").mkdir()
    reader = HotFolderReader(demo)
    with EventWriter(watch.events_file) as events:
        events.write(RunStarted(run=watch.id, does="watch"))
        for attempt in (1, 2, 3):
            reason = f"{demo}/incoming/a.tif: the last strip is missing. Copy it again."
            final = attempt == 3
            events.write(ImageFailed(image="a.tif", reason=reason, attempt=attempt, final=final))
        events.write(ImageFailed(image="b.tif", reason="out of memory", final=False))
        found = _read(reader).failures
        assert [(one.image, one.attempts, one.is_final) for one in found] == [
            ("b.tif", 1, False),
            ("a.tif", 3, True),
        ]
        assert found[1].text == "the last strip is missing. Copy it again."
        events.write(ImageDone(image="a.tif", mask="a.png", seconds=0.1))
        state = _read(reader)
        assert [one.image for one in state.failures] == ["b.tif"]
        assert [one.image for one in state.newest] == ["a.tif"]


def judged_folder(folder: Path, states: dict[str, str]) -> None:
    """Be a watch that ended: one image a name, judged by limits, the last one the newest."""
    watch = _watch(folder)
    (folder / "incoming").mkdir(exist_ok=True)
    ledger = Ledger(folder / "predictions", owner="x")
    why = ("confidence 0.1 is below 0.6",)
    with EventWriter(watch.events_file) as events:
        events.write(RunStarted(run=watch.id, does="watch"))
        for name, state in states.items():
            mask = f"{Path(name).stem}.png"
            entry = Entry(path=name, size=1, mtime_ns=1, digest="d", mask=mask)
            reasons = () if state == "pass" else why
            one = Judged(path=name, digest="d", state=state, reasons=reasons)
            ledger.record([entry], (), [one])
            image, file = folder / "incoming" / name, folder / "predictions" / mask
            events.write(ImageDone(image=str(image), mask=str(file), seconds=0.1, verdict=state))
    ledger.close()


def test_each_image_has_the_verdict_that_counts_and_a_word_changes_it(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hotfolder, "_LEDGER_EVERY_S", 0.0)
    judged_folder(demo, {"a.tif": "fail", "b.tif": "pass"})
    reader = HotFolderReader(demo)
    found = {one.image: one for one in _read(reader).newest}
    assert (found["a.tif"].verdict, found["b.tif"].verdict) == ("fail", "pass")
    assert found["a.tif"].why == "confidence 0.1 is below 0.6"
    assert hotfolder.say_of(demo, "a.tif", "accepted") == "a.tif is accepted"
    state = _read(reader)
    assert state.verdicts == {"pass": 2, "review": 0, "fail": 0}
    assert [(one.verdict, one.word) for one in state.newest if one.image == "a.tif"] == [
        ("pass", "accepted")
    ]
    hotfolder.say_of(demo, "a.tif", "rejected", "\x1b[31mdrift\n")
    (line,) = [one for one in _read(reader).newest if one.image == "a.tif"]
    assert line.verdict == "fail"
    assert "drift" in line.why
    assert line.why.isprintable()


def test_a_hot_folder_is_not_set_up_over_a_file(demo: Path) -> None:
    before = (demo / "project.toml").read_bytes()
    (demo / "scan.tif").write_bytes(b"")
    with pytest.raises(InputError, match=r"scan\.tif: is no folder"):
        hotfolder.set_up(demo, "scan.tif")
    assert (demo / "project.toml").read_bytes() == before


def test_a_microscopes_own_folder_is_named_and_not_made(demo: Path, tmp_path: Path) -> None:
    place = tmp_path / "microscope"
    assert str(place) in hotfolder.set_up(demo, str(place))
    assert load_project(demo).hotfolder.watch == str(place)
    assert not place.exists()


def test_the_next_watch_follows_the_recipe_of_the_newest_or_is_refused_by_it(demo: Path) -> None:
    file = str(demo / "night recipe.json")
    _watch(demo, recipe=file)
    state = _read(HotFolderReader(demo))
    assert state.recipe_file == file
    with pytest.raises(InputError, match=r"night recipe\.json: there is no such recipe"):
        start_watch(demo, state.recipe_file)
    _watch(demo)
    assert _read(HotFolderReader(demo)).recipe_file == ""


def test_no_escape_of_a_class_name_reaches_the_terminal(demo: Path) -> None:
    watch = _watch(demo)
    (demo / "incoming").mkdir()
    with EventWriter(watch.events_file) as events:
        events.write(RunStarted(run=watch.id, does="watch"))
        shares = {"evil\x1b[31m": 0.5}
        events.write(ImageDone(image="a.tif", mask="a.png", seconds=0.1, lag_s=0.5, shares=shares))
    (line,) = _read(HotFolderReader(demo)).newest
    assert line.text == r"evil\x1b[31m 50.0%"
