"""Several processes watch one folder as one would; who dies gives its images back."""

import contextlib
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from emcfsys_engine.hotfolder import scan
from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.learn.watch.several import num_processes
from emcfsys_engine.project_tables import Compute
from emcfsys_engine.run.events import ImageDone, ImageFailed, RunFinished, WarningGiven
from emcfsys_engine.run.folder import Run
from tests.learn.conftest import replace_model, run_here
from tests.learn.hot import Hot, images_and_masks_agree, two_processes, until, watching
from tests.waiting import PATIENCE_S

TWO = "measure = true\n[inference]\ntile_px = 64\n"


def told(run: Run) -> list[tuple[str, str, str]]:
    return [
        (type(event).__name__, Path(event.image).name, getattr(event, "model", ""))
        for event in run.events()
        if isinstance(event, ImageDone | ImageFailed)
    ]


def fill(hot: Hot) -> None:
    for number in range(6):
        os.utime(hot.image(f"{number}.png", number), (number, number))
    stack = np.random.default_rng(9).integers(0, 255, (3, 48, 56), np.uint8)
    tifffile.imwrite(hot.incoming / "s.tif", stack, photometric="minisblack")
    image = (hot.incoming / "2.png").read_bytes()
    bad = hot.incoming / "bad.png"
    bad.write_bytes(image[:60] + bytes(len(image) - 100) + image[-40:])
    os.utime(bad, (3, 3))
    os.utime(hot.incoming / "s.tif", (4, 4))


def workers_of(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is none, too
            if "emcfsys_engine.learn.watch.several" in child.cmdline():
                found.append(child)
    return found


@pytest.mark.long
def test_masks_order_ledger_and_measurements_are_as_with_one(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_BACK_OFF_S", (0.0,) * 8)
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        hot = Hot(folder, model_file, TWO)
        two_processes(hot, number)
        fill(hot)
        run = hot.new_run(once=True)
        assert run_here(run) == 1  # one is no image
        entries = {one.path: (one.state, one.mask, one.digest) for one in read_ledger(hot.output)}
        table = (hot.output / ".emcfsys" / "measurements.csv").read_text().splitlines()
        pixels = {
            name: read_micrograph(ImageRef(path=hot.output / name)).pixels for name in hot.masks()
        }
        # When a fault is tried again is a matter of the clock: only its number of tries counts.
        events = told(run)
        firsts, tries = list(dict.fromkeys(events)), Counter(events)
        found.append((firsts, tries, entries, [row.split(",")[0] for row in table], pixels))
        again = hot.new_run(once=True)
        run_here(again)
        assert not [one for one in told(again) if one[0] == "ImageDone"]
    one, two = found
    assert one[:4] == two[:4]
    assert one[4].keys() == two[4].keys()
    for name, mask in one[4].items():
        assert (mask != two[4][name]).mean() < 1e-3, name


@pytest.mark.long
def test_a_killed_process_gives_its_images_back(tmp_path: Path, model_file: Path) -> None:
    hot = Hot(tmp_path, model_file, TWO)
    two_processes(hot)
    run = hot.new_run()
    for number in range(30):
        hot.image(f"{number}.png", number)
    with watching(run) as child:
        until(lambda: len(told(run)) > 3, child, run)
        os.kill(workers_of(child.pid)[0].pid, signal.SIGKILL)
        until(lambda: len(read_ledger(hot.output)) == 30, child, run)
        for number in range(30, 40):
            hot.image(f"{number}.png", number)
        until(lambda: len(told(run)) == 40, child, run)
        assert len(workers_of(child.pid)) == 2
        child.send_signal(signal.SIGTERM)
        child.wait(PATIENCE_S)
    images_and_masks_agree(hot, 40)
    assert sorted(name for _, name, _ in told(run)) == sorted(f"{n}.png" for n in range(40))
    warnings = [event.message for event in run.events() if isinstance(event, WarningGiven)]
    assert any("One of several processes ended (SIGKILL)" in words for words in warnings)


@pytest.mark.long
def test_no_process_begins_with_another_model_of_that_name_and_the_watch_says_why_it_ends(
    tmp_path: Path, model_file: Path
) -> None:
    model = tmp_path / "model.safetensors"
    shutil.copy(model_file, model)
    hot = Hot(tmp_path, model, TWO)
    two_processes(hot)
    run = hot.new_run()
    for number in range(10):
        hot.image(f"{number}.png", number)
    with watching(run) as child:
        until(lambda: len(told(run)) == 10, child, run)
        workers = workers_of(child.pid)
        replace_model(model)
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
        for number in range(10, 20):
            hot.image(f"{number}.png", number)
        assert child.wait(PATIENCE_S) == 1
    state, reason = run.outcome()
    assert state == "failed"
    assert "is another model than when this run began" in reason
    images_and_masks_agree(hot, 10)


@pytest.mark.long
def test_a_killed_watch_leaves_no_process_and_nothing_is_lost_or_done_twice(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, TWO)
    two_processes(hot)
    for number in range(40):
        hot.image(f"{number}.png", number)
    run = hot.new_run()
    with watching(run) as child:
        until(lambda: len(read_ledger(hot.output)) > 3, child, run)
        workers = workers_of(child.pid)
        assert len(workers) == 2
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
        assert not alive
    known = {entry.path for entry in read_ledger(hot.output)}
    again = hot.new_run(once=True)
    assert run_here(again) == 0
    images_and_masks_agree(hot, 40)
    done = [name for _, name, _ in told(again)]
    assert not known.intersection(done)
    table = (hot.output / ".emcfsys" / "measurements.csv").read_text().splitlines()[1:]
    names = [row.split(",")[0] for row in table]
    assert sorted(names) == sorted(set(names))


@pytest.mark.long
def test_several_processes_end_when_asked(tmp_path: Path, model_file: Path) -> None:
    hot = Hot(tmp_path, model_file, TWO)
    two_processes(hot)
    hot.image("0.png")
    run = hot.new_run()
    with watching(run) as child:
        until(lambda: told(run), child, run)
        workers = workers_of(child.pid)
        child.send_signal(signal.SIGTERM)
        child.wait(PATIENCE_S)
        assert not [one for one in workers if one.is_running()]
    assert isinstance(run.events()[-1], RunFinished) or run.outcome()[0] != "failed"


def test_a_watch_has_one_process_for_each_gpu_that_it_was_given() -> None:
    assert num_processes(Compute(), {}) == 1
    assert num_processes(Compute(gpus=4), {}) == 4
    assert num_processes(Compute(gpus=4), {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2"}) == 2
    assert num_processes(Compute(gpus=0, processes=3), {"CUDA_VISIBLE_DEVICES": ""}) == 3
    assert num_processes(Compute(processes=3), {}) == 1
