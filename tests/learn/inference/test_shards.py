"""Tasks that share a prediction out make what one makes, whenever they are killed."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile
from msgspec.structs import replace
from PIL import Image

from emcfsys_engine.errors import InputError, OutputError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.learn.inference import shards as module
from emcfsys_engine.learn.inference.shards import forecast
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.run.events import ImageDone, ImageFailed, RunFailed, RunFinished
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.outcome import became_of_images
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import Finished, Lines, ShardBecame, TaskTold, Trying
from emcfsys_engine.run.shards import MOST_TRIES, Shards, unfinished
from emcfsys_engine.shards import runner
from emcfsys_engine.shards.task import Task, do_shards
from emcfsys_engine.shards.work import work_of
from tests.jobs.conftest import wait_for
from tests.learn.conftest import run_here
from tests.shards.made import Here, here, listed, made_in
from tests.thorough import tries

__all__ = ["here", "made_in"]
NUMBER = 7


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of small images of several sizes, one of which is none."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number in range(NUMBER):
        rng = np.random.default_rng(number)
        size = (64, 64 + 8 * (number % 3))
        name = folder / ("sub" if number % 2 else "") / f"{number}.png"
        Image.fromarray(rng.integers(0, 250, size, np.uint8)).save(name)
    (folder / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    return folder


def request_of(images: Path, model: Path, out: str, shards: int, **options: Any) -> PredictRequest:
    return PredictRequest(
        model=str(model),
        inputs=(str(images),),
        out=str(images.parent / out),
        gpus=0,
        tile_px=64,
        threads=1,
        shards=shards,
        **options,
    )


def told(run: Run) -> list[tuple[str, str]]:
    return sorted(
        (type(event).__name__, Path(event.image).name)
        for event in run.events()
        if isinstance(event, ImageDone | ImageFailed)
    )


EVERYTHING: dict[str, Any] = {
    "vectors": ("coco", "geojson"),
    "rank_uncertain": True,
    "probability": True,
    "overlay": True,
}


@pytest.mark.usefixtures("here")
def test_shards_make_byte_for_byte_what_one_makes(images: Path, model_file: Path) -> None:
    found: list[dict[str, bytes]] = []
    for out, shards in (("one", 1), ("three", 3), ("plain", 0)):
        request = request_of(images, model_file, out, shards, **EVERYTHING)
        run = new_run(images.parent / out / ".emcfsys", request)
        assert run_here(run) == 1  # one image is none
        assert told(run) == told_of_all()
        found.append(made_in(images.parent / out))
    one, three, plain = found
    assert {"annotations.json", "ranking.json", "ranking.csv", "sub/3.png"} <= one.keys()
    assert three == one
    assert plain.keys() == one.keys()
    masks = [name for name in one if name.endswith(".png") and "." not in name[:-4]]
    assert all(plain[name] == one[name] for name in masks)


def told_of_all() -> list[tuple[str, str]]:
    kinds = ["ImageFailed" if n == 4 else "ImageDone" for n in range(NUMBER)]
    return sorted((kind, f"{n}.png") for n, kind in enumerate(kinds))


@pytest.mark.usefixtures("here")
def test_what_tasks_wrote_is_known_to_the_folder_and_left_alone_next_time(
    images: Path, model_file: Path
) -> None:
    out = images.parent / "out"
    request = request_of(images, model_file, "out", 3)
    assert run_here(new_run(out / ".emcfsys", request)) == 1
    book = OutputBook(out)
    assert all(book.has(file) for file in out.rglob("[0-9].png"))
    assert not list(out.glob(".emcfsys/*/shards/*.book"))
    before = {file: file.stat().st_mtime_ns for file in out.rglob("[0-9].png")}
    again = new_run(out / ".emcfsys", request)
    assert run_here(again) == 1
    assert told(again) == [("ImageFailed", "4.png")]
    assert {file: file.stat().st_mtime_ns for file in out.rglob("[0-9].png")} == before


@pytest.mark.usefixtures("here")
def test_a_run_that_is_started_again_tells_each_image_once_and_tries_what_failed(
    images: Path, model_file: Path
) -> None:
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 2))
    assert run_here(run) == 1
    assert run_here(run) == 1
    assert told(run) == told_of_all()
    number = 4
    size = (images / "4.png").stat().st_size
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(images / "5.bmp")
    whole = (images / "5.bmp").read_bytes()
    (images / "5.bmp").unlink()
    assert (images / "4.png").stat().st_size == size
    (images / "4.png").write_bytes(whole)
    assert run_here(run) == 1  # the list is never changed: it is another image now
    ended = run.finished()
    assert ended is not None and (ended.done, ended.failed) == (NUMBER - 1, 1)
    (reason,) = [
        event.reason
        for event in _became(run).values()
        if isinstance(event, ImageFailed) and f"{number}.png" in event.image
    ]
    assert "bytes" in reason and "Predict again" in reason


def _became(run: Run) -> dict[int, ImageDone | ImageFailed]:
    shards = Shards(run)
    header = shards.header()
    assert header is not None
    every = [TaskTold(shards.lines_file(number)).became for number in range(len(header.shards))]
    return {n: event for one in every for n, event in one.items()}


def test_an_image_that_vanished_since_the_list_is_named_and_the_others_are_done(
    images: Path, model_file: Path, here: None
) -> None:
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 2))
    listed(run)
    (images / "2.png").unlink()
    assert run_here(run) == 1
    failed = [event.reason for event in run.events() if isinstance(event, ImageFailed)]
    assert len(failed) == 2
    assert any("2.png: vanished since the list of shards was written" in one for one in failed)


@pytest.mark.usefixtures("here")
def test_an_image_that_was_replaced_after_its_mask_was_made_is_named(
    images: Path, model_file: Path
) -> None:
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 2))
    listed(run)
    do_shards(run.folder, None, lambda: None)
    for name in ("0.png", "2.png"):  # of the same number of bytes: the list cannot tell
        whole = bytearray((images / name).read_bytes())
        whole[-1] ^= 1
        (images / name).write_bytes(whole)
    assert run_here(run) == 1
    failed = {
        Path(event.image).name: event.reason
        for event in run.events()
        if isinstance(event, ImageFailed)
    }
    assert failed.keys() == {"0.png", "2.png", "4.png"}
    assert "of the image as it was before" in failed["0.png"]
    ended = run.finished()
    assert ended is not None and (ended.done, ended.failed) == (NUMBER - 3, 3)


@pytest.mark.usefixtures("here")
def test_a_model_replaced_under_its_name_is_refused_and_the_same_command_begins_anew(
    images: Path, model_file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "best.safetensors"
    model.write_bytes(model_file.read_bytes())
    request = request_of(images, model, "out", 2)
    run = new_run(images.parent / "out/.emcfsys", request)
    listed(run)
    assert unfinished(run.folder.parent, request) is not None
    network, card = load_model(model)
    save_model(model, network, replace(card, classes=tuple(reversed(card.classes))))
    with pytest.raises(InputError, match="is another model than when the list"):
        do_shards(run.folder, 0, lambda: None)
    assert run_here(run) == 2
    assert not list((images.parent / "out").glob("**/[0-9].png"))
    assert unfinished(run.folder.parent, request) is None
    model.write_bytes(model_file.read_bytes())
    assert unfinished(run.folder.parent, request) is not None


def test_an_image_over_which_tasks_end_again_and_again_is_told_and_the_shard_goes_on(
    images: Path, model_file: Path, here: None
) -> None:
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 1))
    shards = listed(run)
    header = shards.header()
    assert header is not None
    deadly = next(item for item in shards.items(header.shards[0]) if "2.png" in item.image)
    lines = Lines(shards.lines_file(0))
    for _ in range(MOST_TRIES):
        lines.write(Trying(number=deadly.number))
    lines.close()
    assert run_here(run) == 1
    reasons = [event.reason for event in run.events() if isinstance(event, ImageFailed)]
    assert sum(f"2.png: {MOST_TRIES} tasks ended over it" in one for one in reasons) == 1
    assert len(reasons) == 2


def test_an_image_is_not_blamed_for_the_ends_that_people_asked_for(
    images: Path, model_file: Path, here: None
) -> None:
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 1))
    listed(run)
    file = Shards(run).lines_file(0)
    file.touch()  # a task was there before: images are taken up one by one
    for number in range(MOST_TRIES + 2):

        def asked(number: int = number) -> str | None:
            return "terminated" if file.read_bytes().count(b'"trying"') > number else None

        do_shards(run.folder, None, asked)
        assert file.read_bytes().count(b'"trying"') == number + 1
    assert not _became(run)
    assert run_here(run) == 1
    assert told(run) == told_of_all()


@pytest.mark.usefixtures("here")
def test_an_image_that_failed_and_is_done_when_the_run_is_started_again_is_told_so(
    images: Path, model_file: Path
) -> None:
    bad = images / "2.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:40] + bytes(len(whole) - 40))
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 2))
    assert run_here(run) == 1
    became = {Path(event.image).name: event for event in became_of_images(run.events())}
    assert isinstance(became["2.png"], ImageFailed)
    bad.write_bytes(whole)
    assert run_here(run) == 1  # 4.png is none yet
    became = {Path(event.image).name: event for event in became_of_images(run.events())}
    failed = [name for name, event in became.items() if isinstance(event, ImageFailed)]
    assert failed == ["4.png"]
    assert len(became) == NUMBER


@pytest.mark.long
def test_a_task_that_does_not_see_the_run_says_on_which_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", module.__spec__.name, str(tmp_path / "nowhere"), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not seen by" in done.stderr and "all nodes share" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_quota_that_is_reached_ends_the_task_and_not_the_image(
    images: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch, here: None
) -> None:
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 1))
    real = module.Stages.run

    def full(self: Any, jobs: Iterator[Any]) -> Iterator[Any]:
        for place, (job, result) in enumerate(real(self, jobs)):
            error = OutputError("x.png", "cannot be written", "Free some space", errno=122)
            yield job, module.Failure(job, error) if place == 3 else result

    monkeypatch.setattr(module.Stages, "run", full)
    assert run_here(run) in (1, 2)
    assert not any(
        "x.png" in event.reason for event in run.events() if isinstance(event, ImageFailed)
    )
    monkeypatch.undo()
    monkeypatch.setattr(runner, "started", Here)
    assert run_here(run) == 1
    assert told(run) == told_of_all()


@pytest.mark.long
def test_tasks_killed_again_and_again_lose_nothing_and_do_nothing_twice_or_half(
    images: Path, model_file: Path
) -> None:
    number_more, most_kills = tries(16, 60), tries(10, 50)
    for number in range(number_more):
        pixels = np.random.default_rng(number).integers(0, 250, (96, 80), np.uint8)
        Image.fromarray(pixels).save(images / f"more{number}.png")
    one = new_run(images.parent / "one/.emcfsys", request_of(images, model_file, "one", 1))
    assert run_here(one) == 1
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 4))
    command = [sys.executable, "-m", module.__spec__.name, str(run.folder)]
    rng = np.random.default_rng(5)
    killed = 0
    while killed < most_kills:
        tasks = [subprocess.Popen(command) for _ in range(2)]
        before = _num_told(run)
        # Some are killed before they begin, the others soon after something new is told.
        with suppress(AssertionError):
            wait_for(
                partial(_is_new, run, before, tasks),
                seconds=float(rng.choice([2.0, 60.0])),
            )
        for task in tasks:
            killed += task.poll() is None
            task.kill()
            task.wait()
        if all(file.read_bytes().endswith(b'"finished"}\n') for file in _lines(run)):
            break
    assert run_here(run) == 1
    assert told(run) == told(one)
    assert len(told(run)) == NUMBER + number_more
    assert made_in(images.parent / "out") == made_in(images.parent / "one")
    assert sum(isinstance(event, RunFinished) for event in run.events()) == 1


def _lines(run: Run) -> list[Path]:
    return sorted(Shards(run).folder.glob("0*.jsonl")) or [run.record_file]


def _is_new(run: Run, before: int, tasks: list["subprocess.Popen[bytes]"]) -> bool:
    return _num_told(run) != before or all(task.poll() is not None for task in tasks)


def _num_told(run: Run) -> int:
    return sum(file.read_bytes().count(b'"became"') for file in _lines(run))


def test_a_finished_shard_is_not_begun_again(images: Path, model_file: Path, here: None) -> None:
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 1))
    shards = listed(run)
    header = shards.header()
    assert header is not None
    lines = Lines(shards.lines_file(0))
    for item in shards.items(header.shards[0]):
        event = ImageFailed(image=item.image, reason="as a test wants it")
        lines.write(ShardBecame(number=item.number, event=event))
    lines.write(Finished())
    lines.close()
    assert Task(work_of(run), header, lambda: None).do(0, 0.0)
    assert not list((images.parent / "out").glob("*.png"))


def test_what_all_tasks_say_of_their_input_ends_the_run_at_once_in_their_words(
    images: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Here] = []

    class Counted(Here):
        def __init__(self, run: Run, environment: object) -> None:
            super().__init__(run, environment)
            started.append(self)

    monkeypatch.setattr(runner, "started", Counted)
    request = request_of(images, model_file, "out", 2, shards_at_once=2)
    run = new_run(images.parent / "out/.emcfsys", request)
    file = listed(run).file
    head, _, body = file.read_bytes().partition(b"\n")
    file.write_bytes(head + b"\n" + body.replace(b"[", b"{"))  # as long as before
    run.log_file.write_text("something else\nlist.jsonl: is damaged. Predict anew.\n")
    assert run_here(run) == 1
    assert len(started) == 2
    ending = run.ending()
    assert isinstance(ending, RunFailed)
    assert "in vain (exit code 2): list.jsonl: is damaged. Predict anew." in ending.reason


def _request(folder: Path, model: Path) -> PredictRequest:
    return PredictRequest(
        model=str(model),
        inputs=(str(folder / "in"),),
        out=str(folder / "out"),
        gpus=0,
        threads=1,
        tile_px=64,
        shards=6,
        shards_at_once=2,
    )


def test_a_forecast_counts_all_images_and_leaves_nothing(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    found = forecast(_request(tmp_path, model_file))
    assert (found.images, found.pixels, found.tasks, found.at_once) == (10, 10 * 64**2, 6, 2)
    assert found.read_bytes == sum(file.stat().st_size for file in (tmp_path / "in").iterdir())
    assert found.tried == 3
    assert found.seconds == pytest.approx(5 * 64**2 / found.pixels_a_second)
    assert found.written_bytes > 0
    assert found.memory_bytes > 1 << 20
    assert "10 images" in found.lines[0]
    assert "6 tasks, 2 at a time" in found.lines[1]
    assert not (tmp_path / "out").exists()


def test_images_of_which_none_can_be_predicted_are_said(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    with pytest.raises(InputError, match="none of 2 images that were tried"):
        forecast(_request(tmp_path, model_file))


def test_a_forecast_tells_the_regions_of_a_large_image_and_tries_only_some(
    tmp_path: Path, model_file: Path
) -> None:
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (700, 900), np.uint8)
    tifffile.imwrite(tmp_path / "in/x.tif", pixels, tile=(128, 128))
    asked = msgspec.structs.replace(
        _request(tmp_path, model_file), mask_format="ome-zarr", region_px=256
    )
    found = forecast(asked)
    assert (found.images, found.regions, found.tasks) == (1, 12, 6)
    assert found.pixels == 700 * 900
    assert found.tried == 3
    assert found.looked_s > 0
    assert found.written_bytes > 0
    assert "1 images, 1 megapixels, the large ones in 12 regions" in found.lines[0]
    assert "for their numbers" in found.lines[1]
    assert "measured here on 3 regions" in found.lines[-1]
    assert not (tmp_path / "out").exists()
