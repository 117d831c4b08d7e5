"""The list of a prediction's shards: which images there are, how large, what is done already.

Large images are listed as the regions that they are cut into.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import msgspec

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.images.micrograph import ImageRef, ImageRefs
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.images.reader import left_out_words
from emcfsys_engine.images.rows import open_rows
from emcfsys_engine.learn.device import choose_device
from emcfsys_engine.learn.inference.bands import open_image
from emcfsys_engine.learn.inference.ensemble import load_members
from emcfsys_engine.learn.inference.files import Prediction, find_inputs, scale_of
from emcfsys_engine.learn.inference.mosaic import begin_mosaic, mosaic_of
from emcfsys_engine.learn.inference.picture import Picture
from emcfsys_engine.learn.inference.predictor import tiles_of
from emcfsys_engine.learn.inference.tiles import Tiles
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.regions import Mosaic
from emcfsys_engine.run.events import Event, WarningGiven
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shards import Header, Item, Shards, models_of
from emcfsys_engine.shards.sizes import Sizes
from emcfsys_engine.shards.work import ref_of


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
    prediction = Prediction(request, refs, card, emit, asked)
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


def _items(refs: ImageRefs, prediction: Prediction, cutter: "Cutter") -> Iterator[Item]:
    number_of_region = len(refs)
    planes = Counter(name for _, name, plane in refs.files() if plane is not None)
    sizes = Sizes()
    for number, name, plane in refs.files():
        mask = prediction.names.mask_name_of(name, plane)
        is_there = bool(prediction.is_there[number])
        size, pixels = sizes.of(name, planes.get(name, 1), is_wanted=not is_there)
        item = Item(number, name, plane, mask, size, pixels, is_there)
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

    def mosaic_of(self, item: Item) -> Mosaic | None:
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

    def _surveyed(self, ref: ImageRef, item: Item) -> Mosaic | None:
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
