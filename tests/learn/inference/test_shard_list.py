"""The list of a prediction's shards: each image once, with its mask's name, in order."""

from pathlib import Path

from emcfsys_engine.learn.inference.shard_list import why_in_one
from emcfsys_engine.run.folder import new_run
from tests.learn.inference.test_shards import NUMBER, images, request_of
from tests.shards.made import listed

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
