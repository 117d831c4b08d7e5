"""A watch outlives what happens to the places it writes to, and to the kernel's means."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emcfsys_engine.commands.hotfolder import make_watch
from emcfsys_engine.errors import InputError, ProjectError
from emcfsys_engine.hotfolder import scan
from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.hotfolder.review import read_verdicts
from emcfsys_engine.hotfolder.status import status_of
from emcfsys_engine.learn.inference.files import find_inputs
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageDone, ImageFailed, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import PredictRequest
from tests.learn.hot import Hot, details_of, images_and_masks_agree, states_of, two_processes, until
from tests.learn.watch.test_survival import finish, forked, mounted, wait_for
from tests.learn.watch.test_verdicts import limit
from tests.waiting import PATIENCE_S


@pytest.fixture
def hot(tmp_path: Path, model_file: Path) -> Hot:
    return Hot(tmp_path, model_file)


def is_watching(run: Run) -> bool:
    return states_of(run)[-1:] in (["watching"], ["polling"])


@contextmanager
def moved(place: Path, away: Path) -> Iterator[None]:
    """Take a mounted file system away and bring it back: the same one, as a disk would."""
    away.mkdir(exist_ok=True)

    def move(source: Path, target: Path) -> None:
        done = subprocess.run(["mount", "--move", source, target], capture_output=True)
        if done.returncode:
            pytest.skip("mounts cannot be moved in this container")

    move(place, away)
    try:
        yield
    finally:
        move(away, place)


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_an_output_that_vanishes_and_returns_is_waited_for(
    hot: Hot, tmp_path: Path, processes: int
) -> None:
    two_processes(hot, processes)
    with mounted(hot.output, "8m"):
        run = hot.new_run()
        with forked(run) as child:
            hot.image("0.png", 0)
            wait_for(lambda: len(read_ledger(hot.output)) == 1, child, run)
            with moved(hot.output, tmp_path / "away"):
                hot.image("1.png", 1)
                wait_for(lambda: states_of(run)[-1] == "waiting", child, run)
                assert list(hot.output.iterdir()) == []  # nothing under the empty mount point
            wait_for(lambda: is_watching(run), child, run)
            wait_for(lambda: len(read_ledger(hot.output)) == 2, child, run)
        images_and_masks_agree(hot, 2)
        assert all(entry.attempts == 1 for entry in read_ledger(hot.output))


@pytest.mark.long
def test_a_disk_that_is_late_after_a_reboot_is_waited_for(hot: Hot, tmp_path: Path) -> None:
    with mounted(hot.output, "8m"):
        hot.image("0.png", 0)
        run = hot.new_run()
        with forked(run) as child:
            wait_for(lambda: len(read_ledger(hot.output)) == 1, child, run)
        again = hot.new_run()
        with moved(hot.output, tmp_path / "away"):
            with forked(hot.new_run(once=True)) as child:
                child.join(PATIENCE_S)
                assert child.exitcode == 1  # whoever is to end does not wait
            context = forked(again)
            child = context.__enter__()
            wait_for(lambda: states_of(again) == ["waiting"], child, again)
            assert "a disk of its own, which is not there" in details_of(again)
            assert list(hot.output.iterdir()) == []
        try:
            wait_for(lambda: is_watching(again), child, again)
            hot.image("1.png", 1)
            wait_for(lambda: len(read_ledger(hot.output)) == 2, child, again)
        finally:
            context.__exit__(None, None, None)
        images_and_masks_agree(hot, 2)


@pytest.mark.parametrize(
    "removed", [".emcfsys", pytest.param("everything", marks=pytest.mark.long)]
)
def test_a_ledger_that_is_removed_under_a_watch_is_written_again(hot: Hot, removed: str) -> None:
    run, second = hot.new_run(), hot.new_run()
    with forked(run) as child:
        for index in range(3):
            hot.image(f"{index}.png", index)
        wait_for(lambda: len(read_ledger(hot.output)) == 3, child, run)
        before = {name: (hot.output / name).stat().st_ino for name in hot.masks()}
        place = hot.output / ".emcfsys" if removed == ".emcfsys" else hot.output
        shutil.rmtree(place.rename(hot.folder / "removed"))  # whatever is being written there
        if removed == ".emcfsys":
            with forked(second) as other:  # nobody else is let in meanwhile
                other.join(PATIENCE_S)
                assert other.exitcode == 2
        hot.image("3.png", 3)
        wait_for(lambda: len(read_ledger(hot.output)) == 4, child, run)
        assert {entry.state for entry in read_ledger(hot.output)} == {"done"}
        if removed == ".emcfsys":
            assert {name: (hot.output / name).stat().st_ino for name in before} == before
            assert len(hot.masks()) == 4


def test_yesterdays_copy_that_takes_the_place_of_an_output_is_judged_by_todays_limits(
    hot: Hot, tmp_path: Path
) -> None:
    def verdicts() -> dict[str, int]:
        return {state: number for state, number in read_verdicts(hot.output)[0].items() if number}

    limit(hot, "[limits.sharpness]\nfail_above = 0.5\n")
    hot.image("0.png", 0)
    finish(hot)
    shutil.copytree(hot.output, tmp_path / "yesterday")
    limit(hot, "[limits.sharpness]\nfail_above = 5\n")
    run = hot.new_run()
    with forked(run) as child:
        wait_for(lambda: verdicts() == {"pass": 1}, child, run)
        hot.output.rename(tmp_path / "broken")
        (tmp_path / "yesterday").rename(hot.output)
        assert verdicts() == {"fail": 1}
        wait_for(lambda: verdicts() == {"pass": 1}, child, run)


def test_an_output_that_may_not_be_written_is_waited_for(hot: Hot) -> None:
    run = hot.new_run()
    with forked(run, is_plain=True) as child:
        hot.image("0.png", 0)
        wait_for(lambda: len(read_ledger(hot.output)) == 1, child, run)
        for place in (hot.output / ".emcfsys", hot.output):
            place.chmod(0o555)
        hot.image("1.png", 1)
        wait_for(lambda: states_of(run)[-1] == "waiting", child, run)
        for place in (hot.output / ".emcfsys", hot.output):
            place.chmod(0o755)
        wait_for(lambda: len(read_ledger(hot.output)) == 2, child, run)
    images_and_masks_agree(hot, 2)
    assert all(entry.attempts == 1 for entry in read_ledger(hot.output))


@pytest.mark.long
def test_an_image_is_tried_again_as_soon_as_it_may_be_read(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_BACK_OFF_S", (0.0, 0.5, *[3600.0] * 6))
    run = hot.new_run()
    with forked(run, is_plain=True) as child:
        wait_for(lambda: states_of(run), child, run)
        (hot.folder / "locked.png").write_bytes(hot.image("0.png").read_bytes())
        (hot.folder / "locked.png").chmod(0)
        (hot.folder / "locked.png").rename(hot.incoming / "locked.png")
        wait_for(lambda: [e for e in run.events() if isinstance(e, ImageFailed)][1:], child, run)
        (hot.incoming / "locked.png").chmod(0o644)
        wait_for(lambda: len(hot.masks()) == 2, child, run)  # without it: an hour later


def test_without_inotify_instances_the_watch_polls_and_says_so(hot: Hot) -> None:
    apart = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    none_left = "echo 0 > /proc/sys/user/max_inotify_instances"  # of this process and its children
    if subprocess.run([*apart, none_left], capture_output=True).returncode:
        pytest.skip("no user namespaces here: all tests would be without inotify")
    run = hot.new_run()
    work = [sys.executable, "-m", "emcfsys_engine.learn.worker", str(run.folder)]
    with subprocess.Popen([*apart, f'{none_left} && exec "$@"', "sh", *work]) as child:
        try:
            until(lambda: states_of(run), child, run)
            hot.image("0.png")
            until(lambda: hot.masks() == ["0.png"], child, run)
            found = status_of(load_project(hot.folder))
        finally:
            child.terminate()
    assert states_of(run)[0] == "polling"
    assert found["backend"] == "polling"
    assert "inotify instance limit" in found["detail"]
    assert "new files are seen within 0.5 s" in found["detail"]


def test_masks_that_another_program_takes_at_once_end_no_watch(hot: Hot, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    script = 'while :; do mv -f "$1"/*.png "$2"/ 2>/dev/null; done'
    run = hot.new_run()
    with (
        subprocess.Popen(["sh", "-c", script, "sh", hot.output, taken]) as mover,
        forked(run) as child,
    ):
        try:
            for index in range(8):
                hot.image(f"{index}.png", index)
            wait_for(lambda: len(read_ledger(hot.output)) == 8, child, run)
            wait_for(lambda: len(list(taken.glob("*.png"))) == 8, child, run)
            assert child.is_alive()
        finally:
            mover.kill()


def test_commands_that_were_due_when_a_watch_was_killed_are_run_by_the_next(
    hot: Hot, tmp_path: Path
) -> None:
    log = tmp_path / "hook.log"
    gate = tmp_path / "gate"
    script = tmp_path / "hook.sh"
    script.write_text(
        f'#!/bin/sh\nwhile [ ! -e "{gate}" ]; do sleep 0.05; done\n'
        f'echo "$EMCFSYS_IMAGE $EMCFSYS_MASK" >> "{log}"\n'
    )
    script.chmod(0o755)
    config = tmp_path / "config"
    (config / "emcfsys").mkdir(parents=True)
    (config / "emcfsys" / "config.toml").write_text(f'[hooks]\nimage_done = ["{script}"]\n')
    run, again = hot.new_run(), hot.new_run(once=True)
    with forked(run, config=str(config)) as child:
        for index in range(5):
            hot.image(f"{index}.png", index)
        wait_for(lambda: len(read_ledger(hot.output)) == 5, child, run)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    gate.touch()
    with forked(again, config=str(config)) as child:
        child.join(PATIENCE_S)
        assert child.exitcode == 0
    expected = {f"{hot.incoming}/{n}.png {hot.output}/{n}.png" for n in range(5)}
    assert set(log.read_text().splitlines()) == expected
    warnings = [event.message for event in again.events() if isinstance(event, WarningGiven)]
    assert any("5 images whose command was not run" in text for text in warnings)


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    """Mount a folder a second time."""
    target.mkdir(exist_ok=True)
    if os.geteuid() or subprocess.run(["mount", "--bind", source, target]).returncode:
        pytest.skip("only root may mount, and not in every container")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", target], check=True)


def test_a_folder_that_is_mounted_twice_is_still_one(hot: Hot, model_file: Path) -> None:
    original = hot.image("a.png").read_bytes()
    with bound(hot.incoming, hot.output):
        with pytest.raises(ProjectError, match="is the watched folder itself"):
            make_watch(load_project(hot.folder))
        request = PredictRequest(
            model=str(model_file), inputs=(str(hot.incoming),), out=str(hot.output), force=True
        )
        with pytest.raises(InputError, match="inside the output folder"):
            find_inputs(request)
    hot.output.mkdir(exist_ok=True)
    with bound(hot.output, hot.incoming / "masks"):
        for _ in range(2):
            run = hot.new_run(once=True)
            with forked(run) as child:
                child.join(PATIENCE_S)
    assert hot.masks() == ["a.png"]
    assert (hot.incoming / "a.png").read_bytes() == original


def test_a_watch_whose_runs_are_removed_tells_of_every_image_all_the_same(hot: Hot) -> None:
    run = hot.new_run()
    with forked(run) as child:
        hot.image("0.png", 0)
        wait_for(lambda: len(read_ledger(hot.output)) == 1, child, run)
        shutil.rmtree(run.folder.rename(hot.folder / "removed"))
        wait_for(lambda: run.record_file.exists() and run.is_alive(), child, run)
        hot.image("1.png", 1)
        wait_for(lambda: len(read_ledger(hot.output)) == 2, child, run)
        wait_for(
            lambda: len([e for e in run.events() if isinstance(e, ImageDone)]) == 2, child, run
        )
    images_and_masks_agree(hot, 2)


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Let nothing be written below a folder for a while, as of a disk that the kernel doubts."""
    commands = ["mount", "--bind", place, place], ["mount", "-o", "remount,ro,bind", place]
    if any(subprocess.run(command, capture_output=True).returncode for command in commands):
        pytest.skip("nothing can be mounted in this container")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_an_output_that_may_only_be_read_for_a_while_is_waited_for(hot: Hot) -> None:
    run = hot.new_run()
    with forked(run) as child:
        hot.image("0.png", 0)
        wait_for(lambda: len(read_ledger(hot.output)) == 1, child, run)
        with read_only(hot.output):  # where even what is not there cannot be removed
            wait_for(lambda: states_of(run)[-1] == "waiting", child, run)
            hot.image("1.png", 1)
        wait_for(lambda: len(read_ledger(hot.output)) == 2, child, run)
    images_and_masks_agree(hot, 2)


def test_an_image_whose_place_is_closed_holds_up_no_other(hot: Hot) -> None:
    for number, name in enumerate(("a/0.png", "1.png", "z/2.png")):
        hot.image(name, number)
    (hot.output / "a").mkdir(parents=True)
    with read_only(hot.output / "a"):
        run = hot.new_run(once=True)
        with forked(run) as child:
            child.join(PATIENCE_S)
        assert child.exitcode == 1
        assert hot.masks() == ["1.png", "z/2.png"]
        told = [event.message for event in run.events() if isinstance(event, WarningGiven)]
        assert [one for one in told if str(hot.output / "a") in one]
        assert not [one for one in told if "settle" in one]
    with forked(hot.new_run(once=True)) as child:
        child.join(PATIENCE_S)
    assert hot.masks() == ["1.png", "a/0.png", "z/2.png"]
