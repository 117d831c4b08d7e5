"""The last step of a prediction in shards: what concerns all images together, once all are told.

Where an output folder was empty and nothing is written of all images, each task's share is looked
through by itself: of a million images nothing is held, and no mask is read.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from emcfsys_engine.images.micrograph import ImageRef, ImageRefs
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_parts import Made, made_in, take_in
from emcfsys_engine.images.own_files import Contents, is_content, stamp_of_status
from emcfsys_engine.learn.inference.files import Counted, Prediction
from emcfsys_engine.learn.inference.mosaic import joined
from emcfsys_engine.learn.inference.outputs import VectorOutputs
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run.events import Event, ImageDone, ImageFailed
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import AnyTold
from emcfsys_engine.run.shards import Header, Item, Shards
from emcfsys_engine.shards.ended import Ended
from emcfsys_engine.shards.work import ref_of


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
    prediction = Prediction(whole, refs, end.card, lambda event: said[-1](event), end.ended.asked)
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


def _whole(end: Together, became: dict[int, AnyTold]) -> Sequence[Item]:
    """Return all images, in order; of those that were cut, regions become one again."""
    request, header = end.request, end.header
    found = {item.number: item for item in _items(end)}
    of_mosaics: list[list[Item]] = [[] for _ in header.mosaics]
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


def _items(end: Together) -> Iterator[Item]:
    for share in (*end.header.shards, end.header.there):
        yield from end.shards.items(share)
