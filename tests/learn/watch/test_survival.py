"""What a hot folder must survive: kills, full disks, lost events, mounts that go and come.

Workers are forked from a server that has torch imported already: a start costs milliseconds.
"""

import ctypes
import json
import multiprocessing as mp
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.hotfolder import group_files, scan
from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.hotfolder.recipe import lock_recipe
from emcfsys_engine.hotfolder.review import overview, read_verdicts, say_word, verify_journal
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageDone, WarningGiven
from emcfsys_engine.run.folder import Run
from tests.hotfolder.test_journal import acts_in
from tests.images.test_bad_files import FUZZED
from tests.learn.hot import Hot, images_and_masks_agree, states_of
from tests.thorough import tries
from tests.waiting import PATIENCE_S

_SERVER = mp.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["emcfsys_engine.learn.worker", "emcfsys_engine.learn.watch.run", "timm", __name__]
)


def _give_up_privileges() -> None:
    """Let permissions hold for root, too: capset(2) with no capability at all."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, ourselves
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capset(header, nothing):
        raise OSError("capset was refused")


def _work(folder: str, is_plain: bool, config: str, looks_for_models_s: float) -> None:
    """Be the worker of a run, as its keeper would start it."""
    from emcfsys_engine.learn import worker
    from emcfsys_engine.learn.watch import between_images

    between_images._FOLLOW_EVERY_S = looks_for_models_s
    scan._BACK_OFF_S = (0.0, 0.5, 1.0, *scan._BACK_OFF_S[3:])
    if config:
        os.environ["XDG_CONFIG_HOME"] = config
    if is_plain:
        _give_up_privileges()
    log = os.open(Path(folder, "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(worker.main([folder]))


@contextmanager
def forked(
    run: Run, *, is_plain: bool = False, config: str = "", looks_for_models_s: float = 15.0
) -> Iterator[BaseProcess]:
    """Run a worker until the block ends; `config` is a folder of user's settings."""
    arguments = (str(run.folder), is_plain, config, looks_for_models_s)
    child = _SERVER.Process(target=_work, args=arguments)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def wait_for(
    condition: Callable[[], object], child: BaseProcess, run: Run, limit_s: float = PATIENCE_S
) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        log = run.log_file.read_text() if run.log_file.exists() else ""
        assert child.is_alive(), log
        assert time.monotonic() < deadline, log + str(run.events()[-3:])
        child.join(0.02)


def finish(hot: Hot, *, is_plain: bool = False, codes: Sequence[int] = (0, 1)) -> Run:
    """Watch once, to the end; `is_plain`: without the privileges of root."""
    run = hot.new_run(once=True)
    with forked(run, is_plain=is_plain) as child:
        child.join(300)
        assert child.exitcode in codes, run.log_file.read_text()
    return run


def kill_at_random(hot: Hot, number: int, kills: int) -> None:
    """Kill the watcher again and again, at any moment, while images wait; start it each time."""
    chance = random.Random(3)
    for index in range(number):
        hot.image(f"{index}.png", index)
    for _ in range(kills):
        run = hot.new_run()
        with forked(run) as child:
            # Sometimes before the first mask, most often between some mask and its ledger line.
            target = min(number, len(hot.masks()) + chance.randint(0, 4))
            wait_for(lambda: len(hot.masks()) >= target, child, run)  # noqa: B023
            child.join(chance.random() * 0.05)
    assert finish(hot).outcome() == ("done", "done")
    images_and_masks_agree(hot, number)


@pytest.fixture
def hot(tmp_path: Path, model_file: Path) -> Hot:
    return Hot(tmp_path, model_file, "measure = true")


def measured_images(hot: Hot) -> list[str]:
    lines = (hot.output / ".emcfsys" / "measurements.csv").read_text().splitlines()
    return sorted(line.partition(",")[0] for line in lines[1:])


def each_was_recorded_once(hot: Hot, number: int) -> None:
    """Check that journal and verdicts tell of every image, and of none twice."""
    acts = [act.image for act in acts_in(hot.output) if act.act == "predicted"]
    assert sorted(acts) == sorted(f"{index}.png" for index in range(number))
    assert verify_journal(hot.output).fault == ""
    assert len(read_verdicts(hot.output, ("", "pass", "review", "fail"))[1]) == number


@pytest.mark.long
def test_kills_between_mask_and_ledger_leave_every_image_one_whole_mask(hot: Hot) -> None:
    number = tries(60, 250)
    kill_at_random(hot, number, tries(12, 50))
    assert measured_images(hot) == sorted(f"{index}.png" for index in range(number))
    each_was_recorded_once(hot, number)


def follow(hot: Hot, review_below: float) -> str:
    """Let the project and a recipe have this limit; return the recipe's file."""
    limits = f'[limits]\ngroup = "folder"\n[limits.confidence]\nreview_below = {review_below}\n'
    toml = hot.folder / "project.toml"
    toml.write_text(toml.read_text().partition("[limits]")[0] + limits)
    file = hot.folder / f"{review_below}.json"
    if not file.exists():
        lock_recipe(load_project(hot.folder), hot.model, file)
    return str(file)


def kill_between_recipes(hot: Hot, number: int, kills: int) -> None:
    """Kill watches that follow two recipes in turn, at any moment, while people say words."""
    chance = random.Random(5)
    names = [f"s{index % 5}/{index}.png" for index in range(number)]
    for index, name in enumerate(names):
        hot.image(name, index)
    said: set[str] = set()
    for kill in range(kills):
        run = hot.new_run(recipe=follow(hot, 0.3 + 0.4 * (kill % 2)))
        with forked(run) as child:
            target = min(number, len(hot.masks()) + chance.randint(0, 4))
            wait_for(lambda: len(hot.masks()) >= target, child, run)  # noqa: B023
            child.join(chance.random() * 0.1)
        known = [entry.path for entry in read_ledger(hot.output) if entry.state == "done"]
        if word := next((name for name in known if name not in said), None):
            say_word(hot.output, [word], "accepted")
            said.add(word)
    run = hot.new_run(once=True, recipe=follow(hot, 0.3))
    with forked(run) as child:
        child.join(300)
    assert run.outcome() == ("done", "done")
    acts = acts_in(hot.output)
    assert sorted(act.image for act in acts if act.act == "predicted") == sorted(names)
    assert {act.image for act in acts if act.act == "accepted"} == said
    assert verify_journal(hot.output).fault == ""
    told = [
        json.loads(file.read_bytes()) for file in group_files.folder_of(hot.output).glob("*.json")
    ]
    assert sorted(one["image"] for group in told for one in group["images"]) == sorted(names)
    words = {one["image"] for group in told for one in group["images"] if one["word"]}
    assert words == said
    recipes = {one["recipe"] for group in told for one in group["images"]}
    assert recipes == {overview(hot.output).recipe}


@pytest.mark.long
def test_kills_between_two_recipes_leave_verdicts_words_and_groups_whole(hot: Hot) -> None:
    kill_between_recipes(hot, tries(45, 150), tries(14, 50))


@contextmanager
def mounted(place: Path, size: str) -> Iterator[None]:
    """Mount a file system in memory of its own."""
    place.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("only root may mount, and not in every container")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_waited_for_and_no_image_is_given_up(hot: Hot) -> None:
    with mounted(hot.output, "4m"):
        run = hot.new_run()
        with forked(run) as child:
            wait_for(lambda: states_of(run), child, run)
            ballast = hot.output / "ballast"
            ballast.write_bytes(bytes(os.statvfs(hot.output).f_bavail * 4096 - 8192))
            for index in range(5):
                hot.image(f"{index}.png", index)
            wait_for(lambda: states_of(run)[-1] == "full", child, run)
            assert hot.masks() == []
            ballast.unlink()
            wait_for(lambda: len(hot.masks()) == 5, child, run)
            wait_for(lambda: states_of(run)[-1] == "watching", child, run)
            wait_for(lambda: len(read_ledger(hot.output)) == 5, child, run)
        images_and_masks_agree(hot, 5)
        assert all(entry.attempts == 1 for entry in read_ledger(hot.output))


def test_once_on_a_full_disk_ends_and_says_so(hot: Hot) -> None:
    with mounted(hot.output, "4m"):
        hot.image("a.png")
        (hot.output / "ballast").write_bytes(bytes(3 << 20 | 1 << 19))
        state, reason = finish(hot).outcome()
        assert state == "failed"
        assert "no space left" in reason


def test_a_folder_mounted_anew_is_watched_again(hot: Hot) -> None:
    run = hot.new_run()
    with forked(run) as child:
        wait_for(lambda: states_of(run), child, run)
        for number in range(2):
            with mounted(hot.incoming, "4m"):
                name = f"{number}.png"
                hot.image(name, number)
                wait_for(lambda: name in hot.masks(), child, run)  # noqa: B023
        hot.image("below.png", 5)
        wait_for(lambda: len(read_ledger(hot.output)) == 3, child, run)
    assert hot.masks() == ["0.png", "1.png", "below.png"]


def stopped_while(hot: Hot, number: int, *, others: int = 0) -> None:
    """Make images while the watcher sleeps, and so many other files beside each."""
    first = hot.image("0.png")
    run = hot.new_run()
    with forked(run) as child:
        wait_for(lambda: hot.masks() == ["0.png"], child, run)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        try:
            for index in range(1, number):
                for other in range(others):
                    os.link(first, hot.incoming / f"{index}.{other}.log")
                os.link(first, hot.incoming / f"{index}.png")
        finally:
            os.kill(child.pid, signal.SIGCONT)
        wait_for(lambda: len(read_ledger(hot.output)) == number, child, run, 1500)
    images_and_masks_agree(hot, number)
    done = [event for event in run.events() if isinstance(event, ImageDone)]
    assert len(done) == number


def test_images_that_came_while_the_watcher_slept_are_found(hot: Hot) -> None:
    stopped_while(hot, 100)


@pytest.mark.long
def test_images_that_the_full_queue_of_events_does_not_name_are_found(
    tmp_path: Path, model_file: Path
) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    hot = Hot(tmp_path, model_file, 'ignore = ["*.log"]')
    stopped_while(hot, 200, others=most // 100)  # the queue is full after half of the images


@pytest.mark.long
def test_no_poisoned_file_stops_the_others(hot: Hot, shared_data: Path) -> None:
    chance = np.random.default_rng(0)
    originals: dict[Path, bytes] = {}
    for name in FUZZED:
        whole = (shared_data / "microscope-formats" / name).read_bytes()
        harmed = np.frombuffer(whole, np.uint8).copy()
        harmed[chance.integers(0, min(len(whole), 1024), 12)] = chance.integers(0, 256, 12)
        for kind, content in (("cut", whole[: len(whole) // 2]), ("harmed", harmed.tobytes())):
            file = hot.incoming / f"{kind} {Path(name).name}"
            file.write_bytes(content)
            originals[file] = content
    for index in range(10):
        hot.image(f"good{index}.png", index)
    run = finish(hot)
    state, _ = run.outcome()
    assert state in ("done", "failed"), run.log_file.read_text()
    goods = {f"good{index}.png" for index in range(10)}
    assert goods <= set(hot.masks())
    entries = {entry.path: entry for entry in read_ledger(hot.output)}
    assert {file.name for file in originals} <= entries.keys()
    for file, content in originals.items():
        assert file.read_bytes() == content
        assert entries[file.name].state in ("done", "failed")
        assert entries[file.name].state == "done" or entries[file.name].reason


@pytest.mark.parametrize("hours", [-1, 1])
def test_times_an_hour_off_change_nothing(hot: Hot, hours: int) -> None:
    for index in range(3):
        file = hot.image(f"{index}.png", index)
        moment = time.time() + 3600 * hours
        os.utime(file, (moment, moment))
    assert finish(hot).outcome() == ("done", "done")
    images_and_masks_agree(hot, 3)


@pytest.mark.long
def test_an_image_that_may_not_be_read_is_named_and_the_others_go_on(hot: Hot) -> None:
    hot.image("locked.png").chmod(0)
    hot.image("open.png")
    run = finish(hot, is_plain=True)
    assert hot.masks() == ["open.png"], run.log_file.read_text()
    entries = {entry.path: entry for entry in read_ledger(hot.output)}
    assert entries["locked.png"].state == "failed"
    assert "ermission" in entries["locked.png"].reason


def test_a_folder_that_may_not_be_entered_is_told_and_once_is_not_all_done(hot: Hot) -> None:
    """Its images were passed over without a word, with exit code 0: a night's table was a part."""
    closed = hot.image("closed/a.png").parent
    hot.image("open.png")
    closed.chmod(0)
    run = finish(hot, is_plain=True, codes=(1,))
    assert hot.masks() == ["open.png"], run.log_file.read_text()
    told = [event.message for event in run.events() if isinstance(event, WarningGiven)]
    assert told == [f"{closed}: cannot be looked into, and waits: Permission denied"]
    closed.chmod(0o700)
    finish(hot)
    assert hot.masks() == ["closed/a.png", "open.png"]


def test_the_output_may_lie_inside_the_watched_folder(tmp_path: Path, model_file: Path) -> None:
    hot = Hot(tmp_path, model_file)
    hot.output = hot.incoming / "masks"
    for index in range(3):
        hot.image(f"{index}.png", index)
    for _ in range(2):
        finish(hot)
    assert hot.masks() == ["0.png", "1.png", "2.png"]
    shutil.rmtree(hot.output)


def test_a_writer_that_pauses_in_the_middle_is_waited_for(hot: Hot) -> None:
    whole = hot.image("source.png").read_bytes()
    run = hot.new_run()
    slow = hot.incoming / "slow.png"
    with forked(run) as child:
        wait_for(lambda: hot.masks() == ["source.png"], child, run)
        with slow.open("wb") as stream:
            stream.write(whole[:-40])
            stream.flush()
            begun = time.monotonic()
            # longer than the settle time of this project: it must be the structure that tells
            wait_for(lambda: time.monotonic() - begun > 2.0, child, run)
            assert "slow.png" not in hot.masks()
            assert not [entry for entry in read_ledger(hot.output) if entry.path == "slow.png"]
            stream.write(whole[-40:])
        wait_for(lambda: "slow.png" in hot.masks(), child, run)
    with Image.open(hot.output / "slow.png") as mask:
        assert mask.size == (56, 48)
