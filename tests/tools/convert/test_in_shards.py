"""Tasks that share a conversion out make what one process makes, whenever they are killed."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emcfsys_engine.errors import InputError, RunFolderError
from emcfsys_engine.run.events import ImageFailed, ItemDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import ConvertRequest, PredictRequest
from emcfsys_engine.run.shard_lines import ShardProgress
from emcfsys_engine.run.shards import Shards
from emcfsys_engine.shards.task import do_shards
from emcfsys_engine.tools.convert.conversion import convert_images, convert_labels
from emcfsys_engine.tools.convert.in_shards import forecast, result_of, work_of
from emcfsys_engine.tools.convert.writing import Conversion
from tests.jobs.conftest import wait_for
from tests.shards.made import here, listed, made_in, run_here
from tests.thorough import tries
from tests.tools.convert.made import alike, drawn_at, masks_at, run_of
from tests.tools.drawn_masks import blobs, save_mask

__all__ = ["here"]
TARGETS = ("masks", "labelme", "coco", "geojson", "imagej")
pytestmark = pytest.mark.usefixtures("own_cache")


def alone(source: Path, out: Path, to: Any, **more: Any) -> Conversion:
    images = more.pop("images", "") or None
    if to == "png":
        return convert_images(str(source), out, base=Path("/"), **more)
    return convert_labels(str(source), out, to=to, images=images, base=Path("/"), **more)


def assert_same(run: Run, made: Conversion, one: Path) -> None:
    out = Path(run.record().request.out)  # type: ignore[union-attr]
    assert alike(result_of(run), out) == alike(made, one)
    assert made_in(out) == made_in(one)
    told = [event for event in run.events() if isinstance(event, ItemDone | ImageFailed)]
    assert len(told) == len(made.written) + len(made.skipped)
    ended = run.finished()
    assert ended is not None and ended.called == "files"
    assert (ended.done, ended.failed) == (len(made.written), len(made.skipped))


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("kind", ["masks", "drawn"])
def test_shards_make_byte_for_byte_what_one_process_makes(
    kind: str, to: str, tmp_path: Path, here: None
) -> None:
    source = masks_at(tmp_path) if kind == "masks" else drawn_at(tmp_path)
    images = str(tmp_path / "images") if kind == "masks" else ""
    made = alone(source, tmp_path / "one", to, images=images)
    assert len(made.written) > 3
    assert len(made.skipped) in (1, 2, 3)
    run = run_of(source, tmp_path / "out", to, images=images)
    assert run_here(run) == 1
    assert_same(run, made, tmp_path / "one")


REAL: dict[str, tuple[str, str, str]] = {
    "masks": ("superalloy-sem/masks/val", "superalloy-sem/images/val", "labelme"),
    "coco": ("annotation-formats/coco-metallography", "", "masks"),
    "rois": ("annotation-formats/imagej-roi", "", "geojson"),
    "labelme": ("annotation-formats/labelme/semantic_segmentation/data_annotated", "", "coco"),
    "stacks": ("microscope-formats/mrc", "", "png"),
}


@pytest.mark.parametrize("kind", REAL)
def test_shards_of_real_files_make_what_one_process_makes(
    kind: str, shared_data: Path, tmp_path: Path, here: None
) -> None:
    source, images, to = REAL[kind]
    place = str(shared_data / images) if images else ""
    more = {"images": place} if place else {}
    made = alone(shared_data / source, tmp_path / "one", to, **more)
    run = run_of(shared_data / source, tmp_path / "out", to, 4, **more)
    assert run_here(run) == (1 if made.skipped else 0)
    assert_same(run, made, tmp_path / "one")


@pytest.mark.parametrize("to", ["labelme", "coco"])
def test_what_a_person_changed_is_kept_and_what_is_there_is_named_as_one_process_does(
    to: str, tmp_path: Path, here: None
) -> None:
    source, images = masks_at(tmp_path), str(tmp_path / "images")
    for out in (tmp_path / "one", tmp_path / "out"):
        alone(source, out, to, images=images)
        first = min(path for path in out.rglob("*.json") if ".emcfsys" not in path.parts)
        first.write_text("mine")
    for number, overwrite in enumerate((False, True), start=1):
        made = alone(source, tmp_path / "one", to, images=images, overwrite=overwrite)
        run = run_of(source, tmp_path / "out", to, 2, images=images, overwrite=overwrite)
        assert run_here(run) == 1
        assert run.id == f"run-000{number}"
        assert_same(run, made, tmp_path / "one")
    assert any("the new version is" in note for note in made.notes)


def _task(run: Run) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "emcfsys_engine.shards.task", str(run.folder)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def _num_told(run: Run) -> int:
    return sum(one.read_bytes().count(b'"became"') for one in Shards(run).folder.glob("0*.jsonl"))


@pytest.mark.parametrize("to", ["labelme", "coco"])
def test_tasks_killed_at_any_file_and_started_again_lose_nothing(
    to: str, tmp_path: Path, here: None
) -> None:
    source, images = masks_at(tmp_path), str(tmp_path / "images")
    made = alone(source, tmp_path / "one", to, images=images)
    run = run_of(source, tmp_path / "out", to, 2, images=images)
    for least in (1, 3, 6):
        task = _task(run)
        wait_for(lambda least=least, task=task: _num_told(run) >= least or task.poll() is not None)
        task.kill()
        task.wait()
    assert not (tmp_path / "out/annotations.json").exists()
    assert run_here(run) == 1
    assert_same(run, made, tmp_path / "one")


@pytest.mark.long
def test_tasks_killed_again_and_again_at_random_lose_nothing(tmp_path: Path, here: None) -> None:
    source, images = masks_at(tmp_path, 30), str(tmp_path / "images")
    made = alone(source, tmp_path / "one", "labelme", images=images)
    run = run_of(source, tmp_path / "out", "labelme", 4, images=images)
    listed(run)
    draw = random.Random(0)
    for _ in range(tries(6, 50)):
        task, least = _task(run), _num_told(run) + draw.randint(0, 1)
        wait_for(
            lambda task=task, n=least: _num_told(run) >= n or task.poll() is not None, seconds=120
        )
        task.send_signal(signal.SIGKILL)
        task.wait()
    assert run_here(run) == 1
    assert_same(run, made, tmp_path / "one")


def test_a_file_that_was_written_but_not_told_of_is_written_again_and_no_second_version(
    tmp_path: Path, here: None
) -> None:
    source = masks_at(tmp_path)
    made = alone(source, tmp_path / "one", "geojson")
    run = run_of(source, tmp_path / "out", "geojson", 1)
    listed(run)
    do_shards(run.folder, 0, lambda: None)
    lines = Shards(run).lines_file(0)
    lines.write_bytes(b"".join(lines.read_bytes().splitlines(keepends=True)[:2]))
    assert run_here(run) == 1
    assert_same(run, made, tmp_path / "one")


def test_files_that_vanish_or_change_meanwhile_are_named_and_the_others_converted(
    tmp_path: Path, here: None
) -> None:
    source, images = masks_at(tmp_path), str(tmp_path / "images")
    run = run_of(source, tmp_path / "out", "labelme", images=images)
    listed(run)
    (source / "0/m0.png").unlink()
    (source / "1/m1.png").write_bytes((source / "1/m3.png").read_bytes())
    (tmp_path / "images/0/m6.tif").unlink()
    assert run_here(run) == 1
    found = result_of(run)
    assert found is not None and len(found.written) == 4
    why = {Path(one.file).name: one.why for one in found.skipped}
    assert why.keys() == {"m0.png", "m1.png", "m4.png", "m6.png"} or len(why) == 4
    assert why["m0.png"].startswith("vanished since the list of shards was written. Convert again")
    assert "bytes" in why["m1.png"] and "Convert again" in why["m1.png"]


def test_labels_that_change_after_they_were_converted_are_named(tmp_path: Path, here: None) -> None:
    source, images = masks_at(tmp_path), str(tmp_path / "images")
    run = run_of(source, tmp_path / "out", "labelme", images=images)
    listed(run)
    do_shards(run.folder, None, lambda: None)
    mask = source / "0/m0.png"
    mask.write_bytes(mask.read_bytes()[:-1] + b"?")
    assert run_here(run) == 1
    found = result_of(run)
    assert found is not None
    why = {Path(one.file).name: one.why for one in found.skipped}
    what = "changed since the list of shards was written"
    assert why["m0.png"] == f"{what}. Convert again, with --overwrite"


def test_labels_whose_names_change_meanwhile_are_named(tmp_path: Path, here: None) -> None:
    save_mask(tmp_path / "images" / "a.png", blobs(1))
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.6\n")
    names = tmp_path / "drawn" / "classes.txt"
    names.write_text("pore\ngrain\n")
    run = run_of(tmp_path / "drawn", tmp_path / "out", "geojson", images=str(tmp_path / "images"))
    listed(run)
    names.write_text("grain\npore\n\n")
    assert run_here(run) == 1
    found = result_of(run)
    assert found is not None and not found.written
    (one,) = found.skipped
    assert one.why.startswith(f"{names}: has 12 bytes, 11 when the list of shards was written")


def test_what_shards_wrote_that_were_ended_for_good_is_ours(tmp_path: Path) -> None:
    source, images = masks_at(tmp_path), str(tmp_path / "images")
    run = run_of(source, tmp_path / "out", "labelme", 2, images=images)
    listed(run)
    do_shards(run.folder, 0, lambda: None)
    made = alone(source, tmp_path / "out", "labelme", images=images, overwrite=True)
    assert len(made.written) == 7 and not any("the new version is" in note for note in made.notes)
    assert not [name for name in made_in(tmp_path / "out") if ".v2." in name]


def test_classes_are_those_of_the_list_whatever_labels_say_later(
    tmp_path: Path, here: None
) -> None:
    source = drawn_at(tmp_path)
    run = run_of(source, tmp_path / "out", "masks", 2)
    listed(run)
    file = source / "i0.json"
    file.write_text(file.read_text().replace('"c0"', '"zz"'))  # as many bytes
    assert run_here(run) == 1
    found = result_of(run)
    assert found is not None
    assert found.classes == {"background": 0, "c0": 1, "c1": 2, "c2": 3}
    assert any(Path(one.file).name == "i0.json" and '"zz" is no class' in one.why
               for one in found.skipped)  # fmt: skip


def test_what_is_gone_before_the_end_is_named(tmp_path: Path, here: None) -> None:
    run = run_of(masks_at(tmp_path), tmp_path / "out", "geojson", 1)
    listed(run)
    do_shards(run.folder, None, lambda: None)
    (tmp_path / "out/1/m1.geojson").unlink()
    assert run_here(run) == 1
    found = result_of(run)
    assert found is not None
    assert [one.why for one in found.skipped if "is gone. Convert again" in one.why]


def test_marks_that_no_task_of_ours_left_are_no_files(tmp_path: Path, here: None) -> None:
    source = masks_at(tmp_path)
    run = run_of(source, tmp_path / "out", "geojson", 1)
    listed(run)
    event = '{"kind":"item_done","image":"x"}'
    told = "".join(f'{{"type":"became","number":{n},"event":{event}}}\n' for n in range(8))
    Shards(run).lines_file(0).write_text(told + '{"type":"finished"}\n')
    assert run_here(run) == 1
    found = result_of(run)
    assert found is not None and found.written == ()
    assert all("Convert again" in one.why for one in found.skipped)
    assert len(found.skipped) == 8


def test_a_list_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    for to, before, after in (
        ("labelme", b'"view":"m1.png"', b'"view":"../m1.png"'),
        ("coco", b'"whole":"', b'"whole":"/elsewhere'),
        ("geojson", b'"kind":"mask"', b'"kind":"none"'),
    ):
        folder = tmp_path / to
        source = masks_at(folder)
        run = run_of(source, folder / "out", to, 1, images=str(folder / "images"))
        file = listed(run).file
        head, _, body = file.read_bytes().partition(b"\n")
        changed = body.replace(before, after)
        header = head.replace(before, after)
        gained = len(changed) - len(body)
        length = f'"there":[{len(body)},0'.encode(), f'"there":[{len(body) + gained},0'.encode()
        first = f"[[0,{len(body)},".encode(), f"[[0,{len(body) + gained},".encode()
        file.write_bytes(header.replace(*length).replace(*first) + b"\n" + changed)
        with pytest.raises(RunFolderError, match=r"list\.jsonl: (names|is no list of what)"):
            do_shards(run.folder, None, lambda: None)
        files = made_in(folder / "out")
        assert not [name for name in files if "m1" in name or to != "labelme"]


def test_progress_counts_files_and_a_run_of_another_command_is_refused(tmp_path: Path) -> None:
    run = run_of(masks_at(tmp_path), tmp_path / "out", "geojson")
    listed(run)
    do_shards(run.folder, 0, lambda: None)
    assert "1 of 3 tasks done, " in ShardProgress(run).text()
    assert " of 8 files" in ShardProgress(run).text()
    other = PredictRequest(model="/m", inputs=("/i",), out=str(tmp_path / "p"))
    with pytest.raises(RunFolderError, match="is no conversion"):
        work_of(new_run(tmp_path / "p", other))


def test_a_source_without_labels_is_named_and_nothing_is_listed(
    tmp_path: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").mkdir()
    request = ConvertRequest(source=str(tmp_path / "none"), out=str(tmp_path / "out"), to="masks")
    run = new_run(tmp_path / "out/.emcfsys", request)
    assert run_here(run) == 2
    assert "none: holds no masks and no annotations" in capsys.readouterr().err
    assert not Shards(run).file.exists()


def _request(folder: Path, to: str) -> ConvertRequest:
    return ConvertRequest(
        source=str(folder / "masks"),
        out=str(folder / f"out-{to}"),
        to=to,  # type: ignore[arg-type]
        shards=4,
        shards_at_once=2,
    )


@pytest.mark.parametrize("to", ["geojson", "coco"])
def test_bytes_and_tasks_are_those_that_follow(to: str, tmp_path: Path) -> None:
    for number in range(12):
        save_mask(tmp_path / f"masks/{number}.png", blobs(number, 200))
    request = _request(tmp_path, to)
    found = forecast(request)
    assert (found.images, found.tasks, found.at_once, found.tried) == (12, 4, 2, 3)
    assert found.pixels == 12 * 200 * 207
    assert found.read_bytes == sum(f.stat().st_size for f in (tmp_path / "masks").iterdir())
    out = Path(request.out)
    assert not out.exists()
    assert found.lines[0].startswith("12 files, ")
    convert_labels(request.source, out, to=to)  # type: ignore[arg-type]
    written = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    assert 0.7 * written < found.written_bytes < 1.4 * written
    with pytest.raises(InputError, match="nothing of it is left to convert. Look at --out"):
        forecast(request)


def test_files_of_which_none_can_be_converted_are_named(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for n in range(3):
        (tmp_path / f"masks/{n}.png").write_bytes(b"\x89PNG\r\n\x1a\n none")
    with pytest.raises(InputError, match="none of the files that were tried can be converted"):
        forecast(_request(tmp_path, "geojson"))
