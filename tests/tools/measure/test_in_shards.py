"""Tasks that share a measurement out find what one process finds, whenever they are killed."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zarr

from emcfsys_engine import any_names
from emcfsys_engine.commands.shards import run_in_shards
from emcfsys_engine.errors import InputError, RunFolderError
from emcfsys_engine.run.events import ImageFailed, ItemDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import MeasureRequest
from emcfsys_engine.run.shard_lines import ShardProgress
from emcfsys_engine.run.shards import Shards, finished, unfinished
from emcfsys_engine.shards.task import do_shards
from emcfsys_engine.tools.measure.in_shards import forecast, result_of, what_was_found
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import Measurement, MeasureSettings
from emcfsys_engine.tools.measure.standards.results import StandardSettings
from emcfsys_engine.tools.measure.tables import TableFormat
from tests.jobs.conftest import wait_for
from tests.shards.made import here, listed, made_in, run_here
from tests.thorough import tries
from tests.tools.drawn_masks import CLASSES, blobs, save_mask

__all__ = ["here"]
_NM = (5.0, 5.0)


def run_of(folder: Path, out: Path, settings: MeasureSettings, shards: int = 3, **more: Any) -> Run:
    request = MeasureRequest(
        masks=str(folder / "masks"),
        out=str(out),
        settings=any_names.decode(any_names.encode(settings), dict),
        shards=shards,
        **more,
    )
    return new_run(out / ".emcfsys", request)


def alike(found: Measurement | None, out: Path) -> str:
    return str(found).replace(str(out), "OUT")


def files_of(out: Path) -> dict[str, bytes]:
    """Return what a measurement left; parts are called by the measurement that wrote them."""
    stamp = r"-[0-9a-f]{8}-"
    return {
        re.sub(stamp, "-S-", name): re.sub(stamp.encode(), b"-S-", content)
        for name, content in made_in(out).items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Masks of several sizes; one cannot be read, one is named in bytes that are no text."""
    for number in range(9):
        save_mask(
            tmp_path / f"masks/{number % 2}/m{number}.png", blobs(number, 40 + 9 * number), _NM
        )
    (tmp_path / "masks/0/m4.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    (tmp_path / "masks/0/m2.png").rename(tmp_path / "masks/0" / os.fsdecode(b"m2\xff.png"))
    return tmp_path


KINDS: dict[str, dict[str, Any]] = {
    "csv": {"classes": {"ground": 0, "blob": 1}},
    "parquet": {"table": "parquet", "split": "watershed", "histogram": "area"},
    "parts": {"table": "parts"},
    **{
        name: {"standard": StandardSettings(standard=name), "pixel_nm": _NM}  # type: ignore[arg-type]
        for name in ("e112", "e562", "iso13322")
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_shards_find_byte_for_byte_what_one_process_finds(
    kind: str, folder: Path, here: None
) -> None:
    settings = MeasureSettings(**KINDS[kind])
    one, out = folder / "one", folder / "out"
    alone = measure_masks(str(folder / "masks"), one, settings)
    assert (alone.num_masks, len(alone.failed)) == (8, 1)
    run = run_of(folder, out, settings)
    assert run_here(run) == 1
    assert alike(result_of(run), out) == alike(alone, one)
    assert files_of(out) == files_of(one)
    told = [event for event in run.events() if isinstance(event, ItemDone | ImageFailed)]
    assert len(told) == 9
    assert [Path(e.image).name for e in told if isinstance(e, ImageFailed)] == ["m4.png"]
    ended = run.finished()
    assert ended is not None and (ended.done, ended.failed, ended.called) == (8, 1, "masks")


def test_shards_of_real_masks_with_their_images_find_what_one_process_finds(
    shared_data: Path, tmp_path: Path, here: None
) -> None:
    source = shared_data / "superalloy-sem"
    masks, images = str(source / "masks/val"), str(source / "images/val")
    settings = MeasureSettings(
        classes=CLASSES, pixel_nm=_NM, standard=StandardSettings(standard="e1245")
    )
    alone = measure_masks(masks, tmp_path / "one", settings, images=images)
    stored = any_names.decode(any_names.encode(settings), dict)
    request = MeasureRequest(
        masks=masks, images=images, out=str(tmp_path / "out"), settings=stored, shards=2
    )
    run = new_run(tmp_path / "out/.emcfsys", request)
    assert run_here(run) == 0
    assert alike(result_of(run), tmp_path / "out") == alike(alone, tmp_path / "one")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "one")


@pytest.mark.long
def test_tasks_killed_at_any_item_and_started_again_lose_nothing(folder: Path, here: None) -> None:
    settings = MeasureSettings(standard=StandardSettings(standard="e112"), pixel_nm=_NM)
    alone = measure_masks(str(folder / "masks"), folder / "one", settings)
    run = run_of(folder, folder / "out", settings, 2)
    command = [sys.executable, "-m", "emcfsys_engine.shards.task", str(run.folder)]
    lines = Shards(run).folder
    for least in (1, 3, 6):
        task = subprocess.Popen(command)
        wait_for(
            lambda least=least, task=task: _num_told(lines) >= least or task.poll() is not None
        )
        task.kill()
        task.wait()
    assert not (folder / "out/objects.csv").exists()
    assert run_here(run) == 1
    assert alike(result_of(run), folder / "out") == alike(alone, folder / "one")
    assert files_of(folder / "out") == files_of(folder / "one")


def test_a_quota_that_is_reached_ends_the_task_in_a_line_and_nothing_is_lost(
    folder: Path, here: None
) -> None:
    alone = measure_masks(str(folder / "masks"), folder / "one", MeasureSettings())
    run = run_of(folder, folder / "out", MeasureSettings(), 1)
    listed(run)
    command = [sys.executable, "-m", "emcfsys_engine.shards.task", str(run.folder)]
    most = 12_000  # bytes of a file: the results of some masks
    ended = subprocess.run(
        ["prlimit", f"--fsize={most}", *command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line == f"{run.folder}: File too large. What is done is kept"
    assert 0 < _num_told(Shards(run).folder) < 8
    assert run_here(run) == 1
    assert alike(result_of(run), folder / "out") == alike(alone, folder / "one")
    assert files_of(folder / "out") == files_of(folder / "one")


def _num_told(lines: Path) -> int:
    return sum(file.read_bytes().count(b'"became"') for file in lines.glob("0*.jsonl"))


@pytest.mark.long
def test_tasks_killed_again_and_again_at_random_lose_nothing(tmp_path: Path, here: None) -> None:
    for number in range(tries(12, 60)):
        save_mask(tmp_path / f"masks/m{number:02d}.png", blobs(number, 48), _NM)
    settings = MeasureSettings(classes={"ground": 0, "blob": 1})
    alone = measure_masks(str(tmp_path / "masks"), tmp_path / "one", settings)
    run = run_of(tmp_path, tmp_path / "out", settings, 4)
    command = [sys.executable, "-m", "emcfsys_engine.shards.task", str(run.folder)]
    lines, draw = Shards(run).folder, random.Random(0)
    listed(run)
    for _ in range(tries(6, 50)):
        task, least = subprocess.Popen(command), _num_told(lines) + draw.randint(0, 2)
        wait_for(
            lambda task=task, n=least: _num_told(lines) >= n or task.poll() is not None, seconds=120
        )
        task.kill()
        task.wait()
    assert run_here(run) == 0
    assert alike(result_of(run), tmp_path / "out") == alike(alone, tmp_path / "one")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "one")


def test_a_last_step_that_is_killed_is_done_again_and_leaves_no_part_of_before(
    folder: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emcfsys_engine.tools.measure import in_shards as module

    run = run_of(folder, folder / "out", MeasureSettings(table="parts"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as then:
        then.setattr(module, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            run_here(run)
    before = files_of(folder / "out")
    assert run_here(run) == 1
    assert files_of(folder / "out") == before
    assert len(list((folder / "out/parts").iterdir())) == 2


def test_masks_that_vanish_or_change_meanwhile_are_named_and_the_others_measured(
    folder: Path, here: None
) -> None:
    run = run_of(folder, folder / "out", MeasureSettings())
    listed(run)
    (folder / "masks/0/m0.png").unlink()
    save_mask(folder / "masks/1/m1.png", blobs(99, 50), _NM)
    assert run_here(run) == 1
    found = result_of(run)
    assert found is not None and found.num_masks == 6
    why = {Path(one.file).name: one.why for one in found.failed}
    assert why.keys() == {"m0.png", "m1.png", "m4.png"}
    assert why["m0.png"].startswith("vanished since the list of shards was written. Measure again")
    assert "bytes" in why["m1.png"] and "Measure again" in why["m1.png"]


def test_a_mask_that_is_corrected_after_it_was_measured_is_none_of_the_numbers(
    folder: Path, here: None
) -> None:
    """Of the same size, as uncompressed TIFF are: the job was paused, say."""
    run = run_of(folder, folder / "out", MeasureSettings())
    listed(run)
    do_shards(run.folder, None, lambda: None)
    mask = folder / "masks/0/m0.png"
    mask.write_bytes(mask.read_bytes()[:-1] + b"?")
    assert run_here(run) == 1
    found = result_of(run)
    assert found is not None and found.num_masks == 7
    why = {Path(one.file).name: one.why for one in found.failed}
    assert why["m0.png"] == "changed since the list of shards was written. Measure again"
    assert b"m0.png" not in (folder / "out/images.csv").read_bytes()


@pytest.mark.parametrize("change", ["corrected", "new", "none"])
def test_the_same_command_begins_anew_where_its_files_are_others(
    folder: Path, here: None, change: str
) -> None:
    run = run_of(folder, folder / "out", MeasureSettings())
    listed(run)
    do_shards(run.folder, 0, lambda: None)
    if change != "none":
        name = "masks/0/m0.png" if change == "corrected" else "masks/m9.png"
        save_mask(folder / name, blobs(99, 50), _NM)
    request = run.record().request
    again = run_in_shards(request, folder / "out")
    assert (again.id == run.id) == (change == "none")
    run_here(again)
    found = result_of(again)
    assert found is not None and found.num_masks == (9 if change == "new" else 8)
    assert unfinished(folder / "out/.emcfsys", request) is None


def test_an_image_that_changes_meanwhile_fails_its_mask(folder: Path, here: None) -> None:
    images = folder / "images"
    for number in (0, 2):
        save_mask(images / f"{number}.png", blobs(number, 60) * 200)
        save_mask(folder / f"pairs/{number}.png", blobs(number, 60), _NM)
    request = MeasureRequest(
        masks=str(folder / "pairs"), images=str(images), out=str(folder / "out"), shards=2
    )
    run = new_run(folder / "out/.emcfsys", request)
    listed(run)
    save_mask(images / "2.png", blobs(5, 70) * 200)
    assert run_here(run) == 1
    (failed,) = (event for event in run.events() if isinstance(event, ImageFailed))
    assert str(images / "2.png") in failed.reason and "when the list" in failed.reason


def test_the_same_again_goes_on_and_once_done_says_so_until_something_changes(
    folder: Path, here: None
) -> None:
    run = run_of(folder, folder / "out", MeasureSettings())
    request, parent = run.record().request, folder / "out/.emcfsys"
    listed(run)
    begun = unfinished(parent, request)
    assert begun is not None and begun.id == run.id
    assert run_here(run) == 1
    assert unfinished(parent, request) is None
    assert [one.id for one in finished(parent, request)] == [run.id]
    assert what_was_found(run) == result_of(run) is not None
    (folder / "masks/new.png").write_bytes((folder / "masks/0/m0.png").read_bytes())
    assert what_was_found(run) is None
    (folder / "masks/new.png").unlink()
    assert what_was_found(run) is not None
    (folder / "out/objects.csv").unlink()
    assert what_was_found(run) is None


@pytest.mark.parametrize("table", ["csv", "parquet", "parts"])
def test_what_is_done_is_not_said_to_be_where_another_measurement_wrote_its_tables(
    folder: Path, here: None, table: TableFormat
) -> None:
    out, settings = folder / "out", MeasureSettings(table=table, histogram="none")
    run = run_of(folder, out, settings)
    assert run_here(run) == 1
    assert what_was_found(run) is not None
    measure_masks(str(folder / "masks/1"), out, settings)
    assert what_was_found(run) is None


def test_a_list_of_another_command_is_refused(
    folder: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(folder, folder / "out", MeasureSettings())
    file = listed(run).file
    file.write_bytes(file.read_bytes().replace(b'"unit":"nm"', b'"unit":"mm"'))
    assert run_here(run) == 2
    assert "list.jsonl: is no list of masks" in capsys.readouterr().err


def test_a_standard_without_a_scale_is_refused_before_anything_is_measured(
    folder: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    save_mask(folder / "masks/none.png", blobs(3))
    settings = MeasureSettings(standard=StandardSettings(standard="e112"))
    run = run_of(folder, folder / "out", settings)
    assert run_here(run) == 2
    assert "none.png: does not say how large its pixels are" in capsys.readouterr().err
    assert not Shards(run).file.exists()


def test_progress_counts_masks(folder: Path) -> None:
    run = run_of(folder, folder / "out", MeasureSettings())
    listed(run)
    do_shards(run.folder, 0, lambda: None)
    assert re.match(r"1 of 3 tasks done, \d of 8 masks", ShardProgress(run).text())


def test_settings_of_another_version_are_named(folder: Path) -> None:
    request = MeasureRequest(masks=str(folder / "masks"), out="/out", settings={"min_px": "many"})
    run = new_run(folder / ".emcfsys", request)
    with pytest.raises(InputError, match=r"run.json: does not say how to measure: .*min_px"):
        listed(run)


def test_what_was_kept_and_is_gone_is_named(folder: Path, here: None) -> None:
    run = run_of(folder, folder / "out", MeasureSettings(), 1)
    shards = listed(run)
    do_shards(run.folder, None, lambda: None)
    shards.results_file(0).unlink()
    with pytest.raises(RunFolderError, match="00000.results: cannot be read"):
        _put_together(run)


def test_what_was_kept_and_is_damaged_is_named_with_the_run_to_remove(
    folder: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(folder, folder / "out", MeasureSettings(), 1)
    results = listed(run).results_file(0)
    do_shards(run.folder, None, lambda: None)
    results.write_bytes(bytes(results.stat().st_size))
    assert run_here(run) == 2
    told = capsys.readouterr().err
    assert "what was kept of it is damaged" in told
    assert f"Remove {run.folder}, then measure anew" in told
    assert not made_in(folder / "out")


def _put_together(run: Run) -> None:
    from emcfsys_engine.run.shard_lines import TaskTold
    from emcfsys_engine.shards.work import Ended, work_of

    work, shards = work_of(run), Shards(run)
    header = shards.header()
    assert header is not None
    told = [TaskTold(shards.lines_file(0))]
    work.put_together(Ended(shards, header, told, print, print, lambda: None))


def _request(folder: Path) -> MeasureRequest:
    masks, out = str(folder / "masks"), str(folder / "out")
    return MeasureRequest(masks=masks, out=out, shards=4, shards_at_once=2)


def test_bytes_and_tasks_are_those_that_follow(tmp_path: Path) -> None:
    for number in range(12):
        save_mask(tmp_path / f"masks/{number}.png", blobs(number, 200), (5.0, 5.0))
    found = forecast(_request(tmp_path))
    assert (found.images, found.tasks, found.at_once, found.tried) == (12, 4, 2, 3)
    assert found.pixels == 12 * 200 * 207
    assert found.read_bytes == sum(f.stat().st_size for f in (tmp_path / "masks").iterdir())
    assert not (tmp_path / "out").exists()
    assert found.lines[0].startswith("12 masks, ")
    done = measure_masks(str(tmp_path / "masks"), tmp_path / "out", MeasureSettings())
    written = sum(Path(file).stat().st_size for file in (done.objects_file, done.images_file))
    assert 0.7 * written < found.written_bytes < 1.5 * written


def test_masks_of_which_none_can_be_measured_are_named(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    request = _request(tmp_path)
    with pytest.raises(InputError, match="holds no masks"):
        forecast(request)


def test_a_zarr_mask_that_somebody_painted_over_is_not_said_to_be_measured(tmp_path: Path) -> None:
    mask = tmp_path / "masks" / "a.zarr"
    zarr.save_array(str(mask), blobs(1))
    run = run_of(tmp_path, tmp_path / "out", MeasureSettings(pixel_nm=_NM), shards=1)
    assert run_here(run) == 0
    assert what_was_found(run) is not None
    zarr.open_array(str(mask), mode="r+")[:20] = 1
    assert what_was_found(run) is None
