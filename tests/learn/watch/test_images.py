"""The watch touches nothing that is not its own: originals, corrections, masks that are there."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.annotations.pair_masks import masks_that_count
from emcfsys_engine.commands.hotfolder import make_watch, watch
from emcfsys_engine.errors import ProjectError
from emcfsys_engine.hotfolder import scan
from emcfsys_engine.hotfolder.ledger import Entry, Ledger, read_ledger
from emcfsys_engine.hotfolder.status import what_it_would_do
from emcfsys_engine.images.reader import find_images
from emcfsys_engine.learn.inference import outputs
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.watch import run as watch_run
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageDone
from emcfsys_engine.run.folder import Run
from tests.learn.conftest import run_here
from tests.learn.hot import Hot, warnings_of


@pytest.fixture
def hot(tmp_path: Path, model_file: Path) -> Hot:
    return Hot(tmp_path, model_file)


def once(hot: Hot) -> Run:
    run = hot.new_run(once=True)
    code = run_here(run)
    assert code == 0, run.events()[-1]
    return run


def done_of(run: Run) -> list[str]:
    return [Path(event.mask).name for event in run.events() if isinstance(event, ImageDone)]


def pixels(seed: int, shape: tuple[int, ...] = (48, 56)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def add(hot: Hot, settings: str) -> None:
    file = hot.folder / "project.toml"
    file.write_text(file.read_text() + settings)


def paint_over(file: Path) -> bytes:
    """Be a person who corrects a mask."""
    with Image.open(file) as mask:
        corrected = np.asarray(mask).copy()
    corrected[:10] = 7 - corrected[:10]
    Image.fromarray(corrected).save(file)
    return file.read_bytes()


def other_model(file: Path, **facts: object) -> None:
    """Put a model that another training made under a model's name."""
    network, card = load_model(file)
    save_model(file, network, msgspec.structs.replace(card, digests={}, **facts))  # pyright: ignore


def link(hot: Hot) -> str:
    (hot.folder / "predictions").symlink_to("incoming")
    return "predictions"


def below_a_link(hot: Hot) -> str:
    (hot.folder / "other").symlink_to(".")
    return "other/incoming"


OUTPUTS: dict[str, Callable[[Hot], str]] = {
    "a link": link,
    "below a link": below_a_link,
    "dots": lambda hot: "predictions/../incoming",
    "itself": lambda hot: "incoming",
    "the project": lambda hot: ".",
    "above": lambda hot: "..",
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_masks_never_go_among_the_images_whatever_the_paths_look_like(hot: Hot, kind: str) -> None:
    original = hot.image("a.png").read_bytes()
    output = OUTPUTS[kind](hot)
    project = load_project(hot.folder, [f"hotfolder.output={output}"])
    for refuses in (make_watch, what_it_would_do):
        with pytest.raises(ProjectError, match=r"hotfolder\.output: (is|holds) the watched folder"):
            refuses(project)
    hot.output = hot.folder / output
    assert run_here(hot.new_run(once=True)) == 2  # a run from before the link was made
    assert (hot.incoming / "a.png").read_bytes() == original
    assert sorted(path.name for path in hot.incoming.rglob("*")) == ["a.png"]


def test_masks_of_masks_are_never_made(hot: Hot) -> None:
    hot.image("a.png")
    once(hot)
    mask = hot.output / "a.png"
    os.link(mask, hot.incoming / "hard.png")
    shutil.copyfile(mask, hot.incoming / "copy.png")
    (hot.incoming / "soft.png").symlink_to(mask)
    (hot.incoming / "folder").symlink_to(hot.output)
    run = once(hot)
    assert done_of(run) == []
    assert hot.masks() == ["a.png"]
    states = {entry.path: entry.state for entry in read_ledger(hot.output)}
    assert states == {"a.png": "done", "hard.png": "skipped", "copy.png": "skipped"}


def test_a_folder_of_originals_that_the_output_leads_to_is_never_written_to(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_run, "MAX_ATTEMPTS_ONCE", 1)
    original = hot.image("sub/a.png").read_bytes()
    hot.output.mkdir()
    (hot.output / "sub").symlink_to(hot.incoming / "sub")
    run = hot.new_run(once=True)
    assert run_here(run) == 1
    assert (hot.incoming / "sub" / "a.png").read_bytes() == original
    assert [path.name for path in (hot.incoming / "sub").iterdir()] == ["a.png"]
    (entry,) = read_ledger(hot.output)
    assert "the folder of its original" in entry.reason


@pytest.mark.parametrize("rewritten", ["redo", "version"])
def test_a_mask_that_a_person_changed_is_kept_and_a_new_version_lies_beside(
    tmp_path: Path, model_file: Path, rewritten: str
) -> None:
    hot = Hot(tmp_path, model_file, f'rewritten = "{rewritten}"')
    hot.image("a.png", 0)
    once(hot)
    corrected = paint_over(hot.output / "a.png")
    hot.image("a.png", 1)
    run = once(hot)
    assert hot.masks() == ["a.png", "a.v2.png"]
    assert (hot.output / "a.png").read_bytes() == corrected
    if rewritten == "redo":
        assert "a.png is not as a prediction wrote it, and kept" in warnings_of(run)
    hot.image("a.png", 2)
    once(hot)  # the version beside is ours, and redone
    assert hot.masks() == (
        ["a.png", "a.v2.png"] if rewritten == "redo" else ["a.png", "a.v2.png", "a.v3.png"]
    )
    assert (hot.output / "a.png").read_bytes() == corrected


def test_a_labelme_file_that_a_person_changed_is_kept_with_its_mask(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, "labelme = true")
    hot.image("a.png", 0)
    once(hot)
    labelme = hot.output / "a.json"
    labelme.write_text(labelme.read_text().replace('"flags": {}', '"flags": {"mine": true}'))
    corrected, mask = labelme.read_bytes(), (hot.output / "a.png").read_bytes()
    hot.image("a.png", 1)
    run = once(hot)
    assert labelme.read_bytes() == corrected
    assert (hot.output / "a.png").read_bytes() == mask
    assert (hot.output / "a.v2.json").exists()
    assert "a.json is not as a prediction wrote it" in warnings_of(run)


def test_what_another_program_put_there_is_kept(hot: Hot) -> None:
    hot.output.mkdir()
    (hot.output / "a.overlay.png").write_bytes(b"somebody's")
    add(hot, "overlay = true\n")
    hot.image("a.png")
    once(hot)
    assert (hot.output / "a.overlay.png").read_bytes() == b"somebody's"
    assert hot.masks() == ["a.overlay.png", "a.v2.overlay.png", "a.v2.png"]


@pytest.mark.parametrize("loss", ["empty", "damaged", "removed", "all of .emcfsys"])
def test_outputs_that_are_there_are_adopted_when_the_ledger_is_lost(hot: Hot, loss: str) -> None:
    for index in range(3):
        hot.image(f"{index}.png", index)
    tifffile.imwrite(hot.incoming / "s.tif", pixels(5, (3, 48, 56)), photometric="minisblack")
    once(hot)
    paint_over(hot.output / "1.png")
    before = {name: (hot.output / name).stat() for name in hot.masks()}
    file = hot.output / ".emcfsys" / "ledger.sqlite"
    if loss == "all of .emcfsys":
        shutil.rmtree(file.parent)
    elif loss == "removed":
        file.unlink()
    else:
        file.write_bytes(b"" if loss == "empty" else b"\0rubbish" * 999)
    hot.image("new.png", 9)
    run = once(hot)
    assert done_of(run) == ["new.png"]
    told = re.findall(r"(\d+) images? had a mask already", warnings_of(run))
    assert sum(map(int, told)) == 4
    after = {name: (hot.output / name).stat() for name in before}
    assert {k: v.st_mtime_ns for k, v in after.items()} == {
        k: v.st_mtime_ns for k, v in before.items()
    }
    assert all(entry.state == "done" for entry in read_ledger(hot.output))
    assert len(read_ledger(hot.output)) == 5


def test_an_image_rewritten_while_the_ledger_was_lost_gets_its_mask(hot: Hot) -> None:
    hot.image("a.png", 0)
    hot.image("b.png", 1)
    once(hot)
    corrected = paint_over(hot.output / "b.png")
    (hot.output / ".emcfsys" / "ledger.sqlite").unlink()
    hot.image("a.png", 5)
    hot.image("b.png", 6)
    assert sorted(done_of(once(hot))) == ["a.png", "b.v2.png"]
    assert (hot.output / "b.png").read_bytes() == corrected


@pytest.mark.parametrize("is_touched", [True, False])
def test_an_image_that_is_back_as_it_was_has_no_mask_of_the_one_between(
    hot: Hot, tmp_path: Path, is_touched: bool
) -> None:
    """The ledger knew it as done: it kept the other's mask, which a kill, or a change, left."""
    hot.image("a.png", 0)
    once(hot)
    mask = (hot.output / "a.png").read_bytes()
    known = (hot.output / ".emcfsys" / "ledger.sqlite").read_bytes()
    (hot.incoming / "a.png").rename(tmp_path / "aside.png")
    Image.fromarray(pixels(5, (40, 56))).save(hot.incoming / "a.png")
    once(hot)
    assert (hot.output / "a.png").read_bytes() != mask
    (hot.output / ".emcfsys" / "ledger.sqlite").write_bytes(known)  # it was not noted any more
    (tmp_path / "aside.png").replace(hot.incoming / "a.png")
    if is_touched:
        os.utime(hot.incoming / "a.png")
    assert done_of(once(hot)) == ["a.png"]
    assert (hot.output / "a.png").read_bytes() == mask
    assert done_of(once(hot)) == []


def test_names_that_an_older_ledger_recorded_stay(hot: Hot) -> None:
    file = hot.image("x.png", 0)
    hot.output.mkdir()
    (hot.output / "x.dm4.png").write_bytes(b"an older mask")
    ledger = Ledger(hot.output, owner="before")
    stamp = {"size": file.stat().st_size, "mtime_ns": 1}
    ledger.record([Entry(path="x.png", mask="x.dm4.png", digest="old", **stamp)])
    ledger.close()
    once(hot)
    assert (hot.output / "x.dm4.png").read_bytes() == b"an older mask"
    assert hot.masks() == ["x.dm4.png", "x.v2.png"]


def test_images_whose_names_meet_have_masks_of_their_own(hot: Hot) -> None:
    for index, name in enumerate(("a.tif", "s.0001.tif", "b.overlay.tif", "x.v2.tif", "x.tif")):
        tifffile.imwrite(hot.incoming / name, pixels(index))
    for index, name in enumerate(("a.png", "b.png", "a.png.tif")):
        hot.image(name, 10 + index)
    tifffile.imwrite(hot.incoming / "s.tif", pixels(20, (2, 48, 56)), photometric="minisblack")
    add(hot, 'overlay = true\nrewritten = "version"\n')
    once(hot)
    tifffile.imwrite(hot.incoming / "x.tif", pixels(30))
    once(hot)
    entries = {entry.path: entry.mask for entry in read_ledger(hot.output)}
    assert len(set(entries.values())) == len(entries) == 9
    num_planes_and_versions_more = 2
    assert len(hot.masks()) == 2 * (len(entries) + num_planes_and_versions_more)


def test_a_labelme_file_of_a_tiff_shows_the_picture_and_not_the_mask(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, model_file, "labelme = true")
    tifffile.imwrite(hot.incoming / "a.tif", pixels(0))
    tifffile.imwrite(hot.incoming / "s.tif", pixels(1, (2, 48, 56)), photometric="minisblack")
    hot.image("b.png")
    once(hot)
    shown = {
        name: json.loads((hot.output / name).read_text())["imagePath"]
        for name in ("a.json", "b.json", "s.0000.json", "s.0001.json")
    }
    assert shown["b.json"] == "../incoming/b.png"
    for name in ("a", "s.0000", "s.0001"):
        assert shown[f"{name}.json"] == f"{name}.view.png"
        with Image.open(hot.output / f"{name}.view.png") as picture:
            assert len(np.unique(np.asarray(picture))) > 2


def test_masks_whose_values_mean_other_classes_are_not_adopted_without_a_ledger(
    tmp_path: Path, model_file: Path
) -> None:
    hot = Hot(tmp_path, Path(shutil.copy(model_file, tmp_path / "model.safetensors")))
    hot.image("a.png")
    once(hot)
    for number, classes in enumerate((("resin", "grain"), ("resin", "pore"))):
        for file in hot.output.glob(".emcfsys/ledger.sqlite*"):
            file.unlink()
        other_model(hot.model, run="later", classes=classes)
        assert len(done_of(once(hot))) == number


def test_once_ends_with_an_empty_file_and_says_what_still_settles(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_HOPELESS_S", 0.1)
    (hot.incoming / "empty.tif").touch()
    hot.image("a.png")
    run = once(hot)
    assert hot.masks() == ["a.png"]
    assert "1 file still settles" in warnings_of(run)
    assert "empty.tif" in warnings_of(run)


def test_a_name_as_long_as_can_be_gets_its_mask(tmp_path: Path, model_file: Path) -> None:
    hot = Hot(tmp_path, model_file, "overlay = true\nlabelme = true")
    name = "n" * 246 + ".png"
    hot.image(name)
    once(hot)
    (entry,) = read_ledger(hot.output)
    assert (hot.output / entry.mask).is_file()
    assert len(hot.masks()) == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EROFS, errno.EDQUOT])
def test_errors_of_the_output_never_count_against_an_image(
    hot: Hot, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    hot.image("a.png")
    with monkeypatch.context() as patch:

        def broken(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        patch.setattr(outputs, "commit", broken)
        run = hot.new_run(once=True)
        assert run_here(run) == 1
    assert read_ledger(hot.output) == []
    assert not list(hot.output.rglob(".*.tmp"))
    once(hot)
    assert hot.masks() == ["a.png"]


def test_names_of_any_bytes_get_their_masks_and_are_told(hot: Hot) -> None:
    names = ["caf\udce9.png", "\udcff\udcfe.png", "new\nline \x1b[31m.png", "ünï.png"]
    for index, name in enumerate(names):
        hot.image(name, index)
    run = once(hot)
    assert hot.masks() == sorted(names)
    assert sorted(entry.path for entry in read_ledger(hot.output)) == sorted(names)
    assert sorted(entry.mask for entry in read_ledger(hot.output)) == sorted(names)
    assert sorted(done_of(run)) == sorted(names)
    assert done_of(once(hot)) == []
    for words in (["--status"], ["--status", "--json"], ["--dry-run"], ["--dry-run", "--json"]):
        result = CliRunner().invoke(watch, [str(hot.folder), *words], catch_exceptions=False)
        assert result.exit_code == 0
        assert "\x1b" not in result.output


def _hard_link(image: Path, mask: Path) -> None:
    mask.hardlink_to(image)


def _symbolic_link(image: Path, mask: Path) -> None:
    mask.symlink_to(image)


def _copy(image: Path, mask: Path) -> None:
    shutil.copyfile(image, mask)


@pytest.mark.parametrize("lay", [_hard_link, _symbolic_link, _copy])
def test_the_image_itself_under_the_name_of_its_mask_is_no_mask_and_is_kept(
    lay: Callable[[Path, Path], None], hot: Hot
) -> None:
    original = hot.image("a.png")
    content = original.read_bytes()
    hot.output.mkdir(exist_ok=True)
    lay(original, hot.output / "a.png")
    assert done_of(once(hot)) == ["a.v2.png"]
    assert original.read_bytes() == content
    assert (hot.output / "a.png").read_bytes() == content


def test_a_folder_in_the_output_that_leads_to_other_images_gets_no_mask(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_BACK_OFF_S", (0.0,) * scan.MAX_ATTEMPTS)
    originals = [hot.image("s1/a.png", 1), hot.image("s2/a.png", 2)]
    before = [file.read_bytes() for file in originals]
    hot.output.mkdir()
    (hot.output / "s1").symlink_to(hot.incoming / "s2")
    run = hot.new_run(once=True)
    assert run_here(run) == 1
    assert [file.read_bytes() for file in originals] == before
    states = {entry.path: entry.state for entry in read_ledger(hot.output)}
    assert states == {"s1/a.png": "failed", "s2/a.png": "done"}  # an original is nobody's mask
    assert hot.masks() == ["s2/a.png"]


def test_images_of_another_watched_folder_take_no_masks_of_the_first(hot: Hot) -> None:
    hot.image("i.png", 1)
    assert run_here(hot.new_run(once=True)) == 0
    mask = (hot.output / "i.png").read_bytes()
    hot.incoming = hot.folder / "other microscope"
    hot.image("i.png", 2)
    run = hot.new_run(once=True)
    assert run_here(run) == 2
    assert (hot.output / "i.png").read_bytes() == mask
    assert "has the masks of another watched folder" in str(run.events()[-1])
    hot.output = hot.folder / "others"
    assert run_here(hot.new_run(once=True)) == 0
    assert (hot.output / "i.png").exists()


def test_a_second_version_is_never_taken_for_the_mask_of_another_image(hot: Hot) -> None:
    """a.v2.png is of a.png, though an image a.v2.png came later."""
    add(hot, 'rewritten = "version"')
    hot.image("a.png", 1)
    once(hot)
    hot.image("a.png", 2)
    once(hot)
    hot.image("a.v2.png", 3)
    once(hot)
    assert hot.masks() == ["a.png", "a.v2.png", "a.v2.png.png"]
    images = find_images(str(hot.incoming), hot.folder)
    counting = masks_that_count(find_images(str(hot.output), hot.folder))
    pairs, left = counting.pairs(images, hot.incoming, hot.output)
    assert {image.path.name: mask.path.name for image, mask in pairs.items()} == {
        "a.png": "a.v2.png",
        "a.v2.png": "a.v2.png.png",
    }
    assert not left


@pytest.mark.parametrize("is_above", [True, False])
def test_a_mask_of_another_watch_whose_output_lies_within_is_no_mask_of_an_image_here(
    tmp_path: Path, model_file: Path, is_above: bool
) -> None:
    one, other = (tmp_path / name for name in ("one", "other"))
    one.mkdir()
    other.mkdir()
    outer, inner = Hot(one, model_file), Hot(other, model_file)
    outer.output, inner.output = tmp_path / "out", tmp_path / "out" / "sub"
    outer.image("sub/a.png", 1)
    inner.image("a.png", 2)
    first, second = (outer, inner) if is_above else (inner, outer)
    once(first)
    theirs = (inner.output / "a.png").read_bytes()

    run = once(second)

    assert done_of(run) == ["a.v2.png"]
    assert "had a mask already" not in warnings_of(run)
    assert (inner.output / "a.png").read_bytes() == theirs
    counting = masks_that_count(find_images(str(inner.output), tmp_path))
    pairs, left = counting.pairs(
        find_images(str(inner.incoming), tmp_path), inner.incoming, inner.output
    )
    mine, not_mine = ("a.v2.png", "a.png") if is_above else ("a.png", "a.v2.png")
    assert [mask.path.name for mask in pairs.values()] == [mine]
    assert [mask.path.name for mask in left] == [not_mine]
