"""The list of a prediction's shards: each image once, with its mask's name, in order."""

import os
from pathlib import Path

import pytest

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import opened_book
from emcfsys_engine.learn.inference import shard_images
from emcfsys_engine.learn.inference.shard_images import why_in_one
from emcfsys_engine.run.events import ImageFailed
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.shards import Shards
from emcfsys_engine.shards.task import do_shards
from tests.learn.conftest import run_here
from tests.learn.inference.test_shards import NUMBER, images, request_of, told
from tests.shards.made import listed, made_in

__all__ = ["images"]


def test_each_image_is_listed_once_with_the_name_of_its_mask(
    images: Path, model_file: Path
) -> None:
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 3))
    shards = listed(run)
    header = shards.header()
    assert header is not None and header.num_images == NUMBER
    items = [item for share in header.shards for item in shards.items(share)]
    assert sorted(item.number for item in items) == list(range(NUMBER))
    for item in items:
        below = Path(item.image).relative_to(images)
        assert Path(item.mask) == images.parent / "out" / below
        assert item.size == Path(item.image).stat().st_size


def test_the_option_that_keeps_large_images_whole_is_named(images: Path, model_file: Path) -> None:
    assert why_in_one(request_of(images, model_file, "out", 3)) == ""
    assert why_in_one(request_of(images, model_file, "out", 3, overlay=True)) == "--overlay"


def _done_by_tasks(run: Run) -> None:
    header = listed(run).header()
    assert header is not None and header.is_fresh
    do_shards(run.folder, None, lambda: None)


def _reasons(run: Run) -> list[str]:
    return sorted(event.reason for event in run.events() if isinstance(event, ImageFailed))


def test_a_share_looked_through_by_itself_tells_what_all_images_held_at_once_tell(
    images: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[object, ...]] = []
    for is_alone in (True, False):
        out = images.parent / "out"
        run = new_run(out / ".emcfsys", request_of(images, model_file, "out", 2))
        _done_by_tasks(run)
        (out / "0.png").unlink()
        whole = (images / "2.png").read_bytes()
        (images / "2.png").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        (images / "6.png").touch()  # the same image as before
        if not is_alone:
            monkeypatch.setattr(shard_images, "_outdated", lambda end: None)
        assert run_here(run) == 1
        ended = run.finished()
        assert ended is not None
        assert not list(out.glob(".emcfsys/*/shards/*.book"))
        book = OutputBook(out)
        assert all(book.has(file) for file in out.rglob("[0-9].png"))
        outdated = [one for one in _reasons(run) if "of the image as it was before" in one]
        assert len(outdated) == 2 and "0.png" in outdated[0] and "2.png" in outdated[1]
        found.append((ended.done, ended.failed, _reasons(run), told(run), made_in(out)))
        (images / "2.png").write_bytes(whole)
        for file in sorted(out.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
    assert found[0] == found[1]


def test_no_image_is_held_and_no_mask_read_where_the_folder_was_empty(
    images: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 2))
    _done_by_tasks(run)

    def refused(*given: object) -> None:
        raise EmcfError("the road of all images is taken")

    monkeypatch.setattr(shard_images, "_of_all", refused)
    assert run_here(run) == 1
    assert len(_reasons(run)) == 1  # the image that is none


def test_where_a_book_was_taken_in_before_a_kill_the_folder_s_own_tells(
    images: Path, model_file: Path
) -> None:
    run = new_run(images.parent / "out/.emcfsys", request_of(images, model_file, "out", 2))
    _done_by_tasks(run)
    out = images.parent / "out"
    shard_images.take_in(out, [Shards(run).book_file(0)])
    (out / "0.png").unlink()
    assert run_here(run) == 1
    assert sum("its mask is gone" in one for one in _reasons(run)) == 1
    ended = run.finished()
    assert ended is not None and (ended.done, ended.failed) == (5, 2)


@pytest.mark.parametrize("force", [False, True])
def test_masks_of_shards_that_were_ended_for_good_are_known_as_ours(
    images: Path, model_file: Path, force: bool
) -> None:
    """Ctrl+C, and then the same without shards: no image has two masks, or one of another image."""
    out = images.parent / "out"
    ended = new_run(out / ".emcfsys", request_of(images, model_file, "out", 2))
    (first, *_) = Shards(ended).items(listed(ended).header().shards[0])  # type: ignore[union-attr]
    do_shards(ended.folder, 0, lambda: None)
    before = made_in(out)
    other = next(file for file in sorted(images.glob("*.png")) if str(file) != first.image)
    Path(first.image).write_bytes(other.read_bytes())
    whole = new_run(out / ".emcfsys", request_of(images, model_file, "out", 0, force=force))
    run_here(whole)
    after = made_in(out)
    assert before.keys() < after.keys() and not [name for name in after if ".v2." in name]
    anew = after[str(Path(first.mask).relative_to(out))]
    assert anew == after[str(other.relative_to(images))]
    assert OutputBook(out).has(Path(first.mask))


def test_what_a_task_that_runs_noted_is_left_to_it(images: Path, model_file: Path) -> None:
    out = images.parent / "out"
    run = new_run(out / ".emcfsys", request_of(images, model_file, "out", 2))
    shards = listed(run)
    do_shards(run.folder, 0, lambda: None)
    lock = shards.claim(0)
    assert lock is not None
    opened_book(out)
    assert shards.book_file(0).exists()
    os.close(lock)
    opened_book(out)
    assert not shards.book_file(0).exists()
