"""The images of a prediction in shards: listed before all, put together once all are told.

Large images are listed as the regions that they are cut into.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.images.micrograph import ImageRef, ImageRefs
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import Contents, is_content, stamp_of_status
from emcfsys_engine.images.own_outputs import Made, made_in, take_in
from emcfsys_engine.images.reader import left_out_words
from emcfsys_engine.images.rows import open_rows
from emcfsys_engine.learn.device import choose_device
from emcfsys_engine.learn.inference.bands import open_image
from emcfsys_engine.learn.inference.ensemble import load_members
from emcfsys_engine.learn.inference.files import Counted, PredictedImages, find_inputs, scale_of
from emcfsys_engine.learn.inference.mosaic import begin_mosaic, joined, mosaic_of
from emcfsys_engine.learn.inference.outputs import VectorOutputs
from emcfsys_engine.learn.inference.picture import Picture
from emcfsys_engine.learn.inference.predictor import tiles_of
from emcfsys_engine.learn.inference.tiles import Tiles
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.regions import Mosaic
from emcfsys_engine.run.events import Event, ImageDone, ImageFailed, WarningGiven
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import AnyTold
from emcfsys_engine.run.shards import Header, ShardItem, Shards, models_of
from emcfsys_engine.shards.work import Ended, ImageSizes, ref_of


def write_list(
    shards: Shards,
    request: PredictRequest,
    card: ModelCard,
    emit: Callable[[Event], None],
    asked: Callable[[], str | None],
) -> Header:
    """Find the images and write the list; return its first line.

    Raises: InputError, ImageError without images.
    """
    left_out: list[Path] = []
    refs = find_inputs(request, left_out)
    prediction = PredictedImages(request, refs, card, emit, asked)
    contents = prediction.book.contents
    cutter = Cutter(request, card, contents.of, shards.folder, emit)
    return shards.write(
        _items(refs, prediction, cutter),
        request.shards,
        left_out_words(left_out),
        models_of(request).digests,
        cutter.mosaics,
        is_fresh=not prediction.book.is_begun,
    )


def _items(refs: ImageRefs, prediction: PredictedImages, cutter: "Cutter") -> Iterator[ShardItem]:
    number_of_region = len(refs)
    planes = Counter(name for _, name, plane in refs.files() if plane is not None)
    sizes = ImageSizes()
    for number, name, plane in refs.files():
        mask = prediction.names.mask_name_of(name, plane)
        is_there = bool(prediction.is_there[number])
        size, pixels = sizes.of(name, planes.get(name, 1), is_wanted=not is_there)
        item = ShardItem(number, name, plane, mask, size, pixels, is_there)
        mosaic = None if is_there else cutter.mosaic_of(item)
        if mosaic is None:
            yield item
            continue
        place = len(cutter.mosaics) - 1
        for region in mosaic.regions:
            yield msgspec.structs.replace(
                item,
                number=number_of_region,
                pixels=region.pixels,
                mosaic=place,
                region=region,
            )
            number_of_region += 1


def why_in_one(request: PredictRequest) -> str:
    """Return which option keeps large images from being cut into regions; empty: none does."""
    beside = {
        "--overlay": request.overlay,
        "--probability": request.probability,
        "--uncertainty": request.uncertainty,
        "--rank-uncertain": request.rank_uncertain,
        "--vectors": bool(request.vectors),
        "--region": bool(request.region),
    }
    return next((option for option, is_given in beside.items() if is_given), "")


def is_mosaic(request: PredictRequest, pixels: int) -> bool:
    """Tell whether an image of so many pixels is cut, if its rows can be read in part."""
    is_large = pixels > request.region_px**2
    return bool(request.shards) and request.mask_format == "ome-zarr" and is_large


class Cutter:
    """Cuts large images into regions, and makes the empty masks that these are written into."""

    def __init__(
        self,
        request: PredictRequest,
        card: ModelCard,
        content_of: Callable[[Path], str],
        folder: Path,
        emit: Callable[[Event], None],
    ) -> None:
        self._request, self._card, self._emit = request, card, emit
        self._content_of, self._folder = content_of, folder
        self._told = False
        self.mosaics: list[Mosaic] = []

    def mosaic_of(self, item: ShardItem) -> Mosaic | None:
        """Return a large image as one that tasks share out; None: one task does it.

        Raises: OSError when its mask cannot be begun.
        """
        if not is_mosaic(self._request, item.pixels):
            return None
        ref = ref_of(item)
        if why := why_in_one(self._request):
            if not self._told:
                what = f"{ref}: one task predicts all of it, for {why}"
                self._emit(WarningGiven(message=f"{what}. Leave that out to share it out"))
            self._told = True
            return None
        try:
            mosaic = self._surveyed(ref, item)
        except EmcfError:
            return None  # its task says why
        if mosaic is not None:
            begin_mosaic(mosaic, self._folder, has_objects=bool(self._card.instances))
            self.mosaics.append(mosaic)
        return mosaic

    def _surveyed(self, ref: ImageRef, item: ShardItem) -> Mosaic | None:
        rows = open_rows(ref)
        if rows is None:
            return None  # each task would read all of it
        rows.close()
        # Known before it is read: an image that is replaced meanwhile is predicted again.
        content = self._content_of(ref.path)
        normaliser = Normaliser(**msgspec.structs.asdict(self._card.normaliser))
        image = open_image(ref, normaliser, self._card.network.in_channels)
        try:
            scale = scale_of(image, self._card, self._request.rescale, self._emit)
            whole = Picture(read=image.read, size_HW=image.size, scale=scale)
            tiles = self._tiles.sides(whole.inner_size, self._request.overlap)
            most_px = self._request.region_px
            return mosaic_of(item.number, image, Path(item.mask), content, tiles, most_px)
        finally:
            image.close()

    @cached_property
    def _tiles(self) -> Tiles:
        """All tasks take those of the machine that lists: where they differ, edges would show."""
        request = self._request
        networks, cards = load_members([Path(file) for file in (request.model, *request.also)])
        device = choose_device(request.gpus)
        return tiles_of(networks, cards[0], device, tile_px=request.tile_px, batch=request.batch)


# The last step of a prediction in shards: what concerns all images together, once all are told.
#
# Where an output folder was empty and nothing is written of all images, each task's share is
# looked through by itself: of a million images nothing is held, and no mask is read.


@dataclass(frozen=True)
class Together:
    """What was asked for, and what the last step of shards gets."""

    request: PredictRequest
    card: ModelCard
    ended: Ended

    @property
    def header(self) -> Header:
        """The list's first line."""
        return self.ended.header

    @property
    def shards(self) -> Shards:
        """The list and its files."""
        return self.ended.shards

    @property
    def became(self) -> Sequence[Mapping[int, AnyTold]]:
        """Of each shard what became of its images, by their numbers."""
        return [one.became for one in self.ended.told]


def put_together(end: Together) -> Counted:
    """Write what belongs to all images together, and one book of all that was written."""
    request, header = end.request, end.header
    is_alone = header.is_fresh and not header.there.images and not header.mosaics
    outdated = None
    if is_alone and not request.vectors and not request.rank_uncertain:
        outdated = _outdated(end)
    books = [end.shards.book_file(shard) for shard in range(len(header.shards))]
    take_in(Path(request.out), books)
    if outdated is None:
        return _of_all(end)
    for ref in outdated:
        end.ended.emit(_is_outdated(ref))
    every = (event for became in end.became for event in became.values())
    failed = len(outdated) + sum(isinstance(event, ImageFailed) for event in every)
    return Counted(done=header.num_images - failed, skipped=0, failed=failed)


def _outdated(end: Together) -> list[ImageRef] | None:
    """Return images whose masks are gone, or of them as they were before.

    None where a task's book does not tell: it was taken in before, or was damaged.
    """
    found: list[ImageRef] = []
    below = len(end.request.out) + 1
    for shard, share in enumerate(end.header.shards):
        made = made_in(end.shards.book_file(shard))
        became = end.became[shard]
        for item in end.shards.items(share):
            if not isinstance(became.get(item.number), ImageDone):
                continue
            content = made.contents.get(item.mask[below:])
            if content is None:
                return None
            if not os.access(item.mask, os.F_OK) or not _is_still(content, item.image, made):
                found.append(ref_of(item))
    return sorted(found, key=str)


def _is_still(content: str, image: str, made: Made) -> bool:
    """Tell whether a mask was made of an image; that is read where its stamp differs."""
    stamp, digest = made.seen.get(image, ("", ""))
    try:
        status = os.stat(image)
        if stat.S_ISREG(status.st_mode) and stamp_of_status(status) == stamp:
            return content == digest
        return is_content(content, Path(image), Contents().of(Path(image)))
    except OSError:
        return False


def _is_outdated(ref: ImageRef) -> ImageFailed:
    why = "its mask is gone, or of the image as it was before. Predict again"
    return ImageFailed(image=str(ref), reason=f"{ref}: {why}")


def _of_all(end: Together) -> Counted:
    request, header = end.request, end.header
    became = {n: event for one in end.became for n, event in one.items()}
    items = _whole(end, became)
    refs = ImageRefs(map(ref_of, items))
    said: list[Callable[[Event], None]] = [lambda event: None]  # all was said with the list
    whole = msgspec.structs.replace(request, force=False)
    prediction = PredictedImages(
        whole, refs, end.card, lambda event: said[-1](event), end.ended.asked
    )
    for number in sorted(became):
        event = became[number]
        assert isinstance(event, ImageDone | ImageFailed)  # regions were taken together
        prediction.count(event)
    said.append(end.ended.emit)
    done = {n for n, event in became.items() if isinstance(event, ImageDone)}
    done.update(item.number for item in items if item.is_there)
    prediction.outdated = {refs[n] for n in done if not prediction.is_there[n]}
    for ref in sorted(prediction.outdated, key=str):
        prediction.count(_is_outdated(ref))
    vectors = VectorOutputs(prediction.book.out, request.vectors, end.card, prediction.book)
    prediction.finish(vectors, set())
    failed = prediction.failed
    return Counted(done=len(items) - failed, skipped=header.there.images, failed=failed)


def _whole(end: Together, became: dict[int, AnyTold]) -> Sequence[ShardItem]:
    """Return all images, in order; of those that were cut, regions become one again."""
    request, header = end.request, end.header
    found = {item.number: item for item in _all_items(end)}
    of_mosaics: list[list[ShardItem]] = [[] for _ in header.mosaics]
    for number in [number for number in sorted(found) if found[number].region is not None]:
        of_mosaics[found[number].mosaic].append(found.pop(number))
    book = OutputBook(Path(request.out))
    for mosaic, mine in zip(header.mosaics, of_mosaics, strict=True):
        found[mosaic.number] = msgspec.structs.replace(
            mine[0], number=mosaic.number, pixels=mosaic.pixels, mosaic=-1, region=None
        )
        told = [became.pop(item.number, None) for item in mine]
        event = became[mosaic.number] = joined(mosaic, end.shards.folder, book, request, told)
        end.ended.tell(event)
    return [found[number] for number in sorted(found)]


def _all_items(end: Together) -> Iterator[ShardItem]:
    for share in (*end.header.shards, end.header.there):
        yield from end.shards.items(share)
