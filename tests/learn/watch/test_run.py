"""The hot folder through its real worker: every image exactly one whole mask."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.commands.hotfolder import watch
from emcfsys_engine.errors import InputError
from emcfsys_engine.hotfolder.ledger import Entry, Ledger, read_ledger
from emcfsys_engine.hotfolder.review import ask_retry
from emcfsys_engine.hotfolder.status import status_of
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageDone, ImageFailed
from tests.hotfolder.test_structure import FORMATS
from tests.learn.conftest import run_here
from tests.learn.hot import (
    Hot,
    states_of,
    until,
    watching,
)
from tests.waiting import PATIENCE_S


@pytest.fixture
def hot(tmp_path: Path, model_file: Path) -> Hot:
    return Hot(tmp_path, model_file)


def test_what_arrives_in_any_manner_gets_one_mask(hot: Hot) -> None:
    run = hot.new_run()
    hot.image("there before.png")
    with watching(run) as child:
        until(lambda: states_of(run), child, run)
        hot.image("renamed.png", 1)
        hot.image("sub dir/deep.png", 2)
        with (hot.incoming / "slow.tif").open("wb") as stream:
            content = FORMATS["a.tif"]
            for start in range(0, len(content), 500):
                stream.write(content[start : start + 500])
                stream.flush()
        os.link(hot.image("first.png", 3), hot.incoming / "second name.png")
        (hot.incoming / "new\nline \x1b[31m.png").write_bytes(FORMATS["a.png"])
        (hot.incoming / "broken.png").write_bytes(FORMATS["a.png"][:-30] + b"\0" * 18 + b"IEND")
        expected = [
            "first.png", "new\nline \x1b[31m.png", "renamed.png", "second name.png", "slow.png",
            "sub dir/deep.png", "there before.png",
        ]  # fmt: skip
        until(lambda: hot.masks() == expected, child, run)
        child.terminate()
        assert child.wait(PATIENCE_S) == 143
    assert run.outcome()[0] == "interrupted"
    done = [event for event in run.events() if isinstance(event, ImageDone)]
    assert len(done) == len(expected)
    assert all(event.lag_s is not None and event.lag_s < PATIENCE_S for event in done)
    for name in expected:
        with Image.open(hot.output / name) as mask:
            assert set(np.unique(np.asarray(mask))) <= {0, 7}


def test_once_does_what_is_there_and_ends_and_a_second_time_nothing(hot: Hot) -> None:
    for index in range(3):
        hot.image(f"{index}.png", index)
    for expected in (3, 0):
        run = hot.new_run(once=True)
        assert run_here(run) == 0
        done = [event for event in run.events() if isinstance(event, ImageDone)]
        assert len(done) == expected
        assert run.outcome() == ("done", "done")
    assert hot.masks() == ["0.png", "1.png", "2.png"]


@pytest.mark.long
def test_a_rewritten_image_is_redone_skipped_or_versioned(tmp_path: Path, model_file: Path) -> None:
    expected = {"redo": ["a.png"], "skip": ["a.png"], "version": ["a.png", "a.v2.png"]}
    for rule, masks in expected.items():
        folder = tmp_path / rule
        folder.mkdir()
        hot = Hot(folder, model_file, f'rewritten = "{rule}"\nmeasure = true')
        hot.image("a.png", 0)
        for seed in (0, 5):
            original = hot.image("a.png", seed).read_bytes()
            run = hot.new_run(once=True)
            assert run_here(run) == 0
        assert hot.masks() == masks, rule
        assert (hot.incoming / "a.png").read_bytes() == original
        lines = (hot.output / ".emcfsys" / "measurements.csv").read_text().splitlines()
        assert len(lines) == (3 if rule == "version" else 2)
        assert lines[0].startswith("image,height_px,width_px,pixel_nm,confidence")


@pytest.mark.long
def test_a_second_watcher_is_refused_by_name(hot: Hot) -> None:
    first, second = hot.new_run(), hot.new_run()
    with watching(first) as child:
        until(lambda: states_of(first), child, first)
        assert run_here(second) == 2
        assert first.id in second.outcome()[1]
        assert child.poll() is None


@pytest.mark.long
def test_a_watch_waits_for_a_short_one_that_was_quicker(hot: Hot) -> None:
    hot.image("a.png")
    short, lasting = hot.new_run(once=True), hot.new_run()
    ledger = Ledger(hot.output, owner=str(short.folder))  # as if it were at work there
    with watching(lasting) as child:
        until(lambda: "waits for its end" in lasting.log_file.read_text(), child, lasting)
        assert short.id in lasting.log_file.read_text()
        assert run_here(short) == 2  # whoever is short does not wait
        ledger.close()
        until(lambda: hot.masks() == ["a.png"], child, lasting)


@pytest.mark.long
def test_a_watch_that_waits_for_another_can_be_ended(hot: Hot) -> None:
    short, lasting = hot.new_run(once=True), hot.new_run()
    ledger = Ledger(hot.output, owner=str(short.folder))
    with watching(lasting) as child:
        until(lambda: "waits for its end" in lasting.log_file.read_text(), child, lasting)
        child.terminate()
        assert child.wait(PATIENCE_S) == 143
    assert lasting.outcome() == ("interrupted", "terminated")
    ledger.close()


@pytest.mark.long
def test_a_folder_that_goes_and_comes_is_offline_and_then_watched_again(hot: Hot) -> None:
    run = hot.new_run()
    with watching(run) as child:
        until(lambda: states_of(run) == ["watching"], child, run)
        away = hot.incoming.rename(hot.folder / "away")
        until(lambda: states_of(run)[-1] == "offline", child, run)
        away.rename(hot.incoming)
        until(lambda: states_of(run)[-1] == "watching", child, run)
        hot.image("after.png")
        until(lambda: hot.masks() == ["after.png"], child, run)
        child.kill()


@pytest.mark.long
def test_a_poisoned_file_is_tried_and_then_listed_and_never_touched(hot: Hot) -> None:
    poison = FORMATS["a.png"][:-30] + b"\0" * 18 + b"\0\0\0\0IEND\xaeB`\x82"
    (hot.incoming / "poison.png").write_bytes(poison)
    hot.image("good.png")
    run = hot.new_run()
    with watching(run) as child:
        until(lambda: any(isinstance(event, ImageFailed) for event in run.events()), child, run)
        until(lambda: hot.masks() == ["good.png"], child, run)
        child.kill()
    (entry,) = [entry for entry in read_ledger(hot.output) if entry.path == "poison.png"]
    assert entry.state == "trying"
    assert "poison.png" in entry.reason
    assert (hot.incoming / "poison.png").read_bytes() == poison


def test_a_failed_image_is_tried_again_when_asked_and_never_touched(hot: Hot) -> None:
    file = hot.image("a.png")
    status = file.stat()
    hot.output.mkdir()
    ledger = Ledger(hot.output, owner="test")
    stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    ledger.record([Entry(path="a.png", state="failed", attempts=3, reason="gpu lost", **stamp)])
    ledger.close()
    assert run_here(hot.new_run(once=True)) == 0
    assert hot.masks() == []
    assert ask_retry(hot.output) == 1
    assert run_here(hot.new_run(once=True)) == 0
    assert hot.masks() == ["a.png"]
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    with pytest.raises(InputError, match="no failed image"):
        ask_retry(hot.output)


def test_the_status_tells_counts_and_state(hot: Hot) -> None:
    hot.image("a.png")
    run = hot.new_run(once=True)
    assert run_here(run) == 0
    command = [sys.executable, "-m", "emcfsys_engine", "watch", str(hot.folder), "--status"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["state"], found["done"], found["failed"]) == ("stopped", 1, 0)
    assert found["backend"] == ("events" if "inotify" in found["detail"] else "polling")
    assert found["median_lag_s"] > 0
    assert found["images_per_min"] > 0
    assert found["last_error"] is None
    assert subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.long
def test_the_status_is_that_of_the_watch_that_has_the_folder(hot: Hot) -> None:
    hot.image("a.png")
    watches, refused = hot.new_run(), hot.new_run()
    with watching(watches) as child:
        until(lambda: hot.masks() == ["a.png"], child, watches)
        until(lambda: any(isinstance(e, ImageDone) for e in watches.events()), child, watches)
        assert run_here(refused) == 2
        found = status_of(load_project(hot.folder))
        assert (found["run"], found["state"]) == (str(watches.folder), "watching")
        assert found["median_lag_s"] > 0
    assert status_of(load_project(hot.folder))["run"] == str(refused.folder)


@pytest.mark.parametrize("words", [("--json",), ("--once", "--json"), ("--once", "--dry-run")])
def test_what_a_watch_would_ignore_is_refused(hot: Hot, words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(watch, [str(hot.folder), *words])
    assert result.exit_code == 2
    assert not list((hot.folder / "runs").glob("*"))


def test_masks_of_a_watch_on_a_folder_below_get_no_masks_and_new_images_there_do(
    tmp_path: Path, model_file: Path
) -> None:
    """They did: of each image of the inner watch the outer one had a mask of its mask."""
    outer = Hot(tmp_path, model_file)
    inner_folder = outer.incoming / "today"
    inner_folder.mkdir()
    inner = Hot(inner_folder, model_file, "overlay = true")
    inner.image("a.png")
    outer.image("b.png", seed=1)
    assert run_here(inner.new_run(once=True)) == 0
    assert inner.masks() == ["a.overlay.png", "a.png"]
    (inner.output / "put here.png").write_bytes((outer.incoming / "b.png").read_bytes())
    assert run_here(outer.new_run(once=True)) == 0
    wanted = ["b.png", "today/incoming/a.png", "today/predictions/put here.png"]
    assert outer.masks() == wanted
    told = {one.path: one.reason for one in read_ledger(outer.output) if one.state == "skipped"}
    assert set(told) == {"today/predictions/a.png", "today/predictions/a.overlay.png"}
    assert all("output" in why for why in told.values())  # masks of two watches may be alike
