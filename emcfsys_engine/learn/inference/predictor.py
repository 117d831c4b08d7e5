"""A model file in use: one call for an array, bands for images of any size.

C channels or classes, H and W pixels.
"""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from emcfsys_engine.errors import InputError, ModelFileError
from emcfsys_engine.images.normalise import GREY, Normaliser, has_no_number, is_in_colour, read_as
from emcfsys_engine.learn.device import autocast, choose_device, choose_precision, use
from emcfsys_engine.learn.faults import free_cached_memory, is_out_of_memory
from emcfsys_engine.learn.inference.bands import Band, Prediction, Sent, WantedMaps, sent, whole
from emcfsys_engine.learn.inference.ensemble import load_members, merged
from emcfsys_engine.learn.inference.evidence import Evidence, num_features
from emcfsys_engine.learn.inference.picture import (
    AS_IT_IS,
    Picture,
    Scale,
    ScaledBands,
    as_pixels,
    scaled_reader,
    slices_of,
)
from emcfsys_engine.learn.inference.pipeline import read_ahead
from emcfsys_engine.learn.inference.tiles import LOCAL_GROWTH, ImageRows, Place, Tiles, bands_of
from emcfsys_engine.learn.memory import choose_tiles
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.learn.networks.rewrites import folded, is_only_convolutions
from emcfsys_engine.learn.pixels_on_device import OwnRows, own_rows, rows_on, uploaded
from emcfsys_engine.model_card import ModelCard, Trust
from emcfsys_engine.run.models_used import InUse

__all__ = ["Picture", "Prediction", "Predictor"]
Call = Callable[[Tensor], Tensor]
Key = TypeVar("Key")
GREY_TOLD = "the model reads colours: of an image without them the grey is used three times"


class Predictor:
    """A model file in use: `Predictor("model.safetensors")(array)` returns a mask.

    Several files are an ensemble: the mean of their probabilities (`Predictor.of`).
    Raises: ModelFileError for a file that cannot be used, or is not alike the first one.
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path],
        *,
        gpus: int | None = None,
        overlap: float = 0.25,
        tta: bool = False,
        tile_px: int | None = None,
        batch: int | None = None,
    ) -> None:
        files = [model] if isinstance(model, str | Path) else model
        self._files = [Path(file) for file in files]
        networks, self.cards = load_members(self._files)
        self.card = self.cards[0]
        self._in_use = InUse(self._files)  # nobody deletes them meanwhile
        self.normaliser = Normaliser(**msgspec.structs.asdict(self.card.normaliser))
        self.device = choose_device(gpus)
        use(self.device)
        self.precision, _ = choose_precision(self.device)
        # How good a mask is can be told by an ensemble whose members all can.
        members = zip(self._files, self.cards, networks, strict=True)
        known = [_trust_of(file, card, network) for file, card, network in members]
        trusts = [one for one in known if one is not None and one.weights]
        self.evidence = Evidence(self.device)
        self.take_trusts(trusts if len(trusts) == len(known) else ())
        self._take(networks)
        self.before_batch: Callable[[], None] = lambda: None  # may raise, to end within an image
        self._told_grey = False
        self._overlap = overlap
        self._tta = tta
        self.tiles = tiles_of(networks, self.card, self.device, tile_px=tile_px, batch=batch)

    @classmethod
    def of(cls, models: Sequence[str | Path], **options: Any) -> "Predictor":
        """Return one predictor for several model files, such as the folds of a cross-validation.

        Its probabilities are the mean of those that each model alone would give; with `tta` each
        member is averaged over the flips first. Options are those of `Predictor`.
        Raises: ModelFileError if classes, values, normalisation or pixel size differ.
        """
        return cls(models, **options)

    def __call__(self, pixels: Any) -> np.ndarray:
        """Return the mask of an image: class values, H×W uint8. It takes what `predict` takes."""
        return self.predict(pixels).mask

    def predict(
        self,
        pixels: Any,
        *,
        info_bar_rows: int = 0,
        scale: float | tuple[float, float] = 1.0,
        probabilities: bool = False,
        uncertainty: bool = False,
    ) -> Prediction:
        """Return mask and confidence of an image.

        `scale` enlarges the image for the network (its pixel size over the model's; a pair: of rows
        and of columns); the mask has the image's own size. Rows of the info bar are given the first
        class.
        Shapes: H×W or H×W×C with C up to 4, of any real type: an array, a list, a picture of
        Pillow's, or a tensor on any device.
        Raises: InputError for a stack, and for what is no picture.
        """
        read = self._read(as_pixels(pixels))
        found = self.normaliser.per_channel(read, info_bar_rows)
        rows = own_rows(read, found)
        return self._whole(
            self.normaliser.apply_all(read, found) if rows is None else rows,
            info_bar_rows,
            scale,
            WantedMaps(probabilities=probabilities, uncertainty=uncertainty),
        )

    def predict_stack(self, stack: Any, **options: Any) -> Iterator[Prediction]:
        """Yield the prediction of each slice of a stack, in order, one in memory at a time.

        Shapes: D×H×W or D×H×W×C, or anything that yields images. Options are those of `predict`.
        Raises: InputError for what is no stack.
        """
        return (self.predict(one, **options) for one in slices_of(stack))

    def prepare(self, pixels: np.ndarray, info_bar_rows: int = 0) -> np.ndarray:
        """Return the image as the network wants it; safe to call in any thread.

        Shapes: H×W or H×W×C of any real dtype in, H×W×1 float32 out, H×W×3 for a model of colours.
        Raises: InputError for an image without pixels, or without a finite number.
        """
        return self.normaliser.apply(self._read(pixels), info_bar_rows)

    def predict_prepared(
        self,
        image: np.ndarray,
        *,
        info_bar_rows: int = 0,
        scale: float | tuple[float, float] = 1.0,
        wanted: WantedMaps = WantedMaps(),  # noqa: B008 - frozen
    ) -> Prediction:
        """Return mask and confidence of an image that `prepare` made ready.

        Shapes: the image is H×W×C float32.
        """
        rows = image[..., 0] if self.channels == GREY else image
        return self._whole(rows, info_bar_rows, scale, wanted)

    @property
    def tile_px(self) -> int:
        """The side of a tile in pixels."""
        return self.tiles.px

    @property
    def batch(self) -> int:
        """How many tiles of that side are predicted at a time."""
        return self.tiles.batch

    @property
    def channels(self) -> int:
        """Channels of an image that the network reads: 1, grey, or 3, colours."""
        return self.card.network.in_channels

    def _read(self, pixels: np.ndarray) -> np.ndarray:
        if self.channels != GREY and not self._told_grey and not is_in_colour(pixels):
            self._told_grey = True
            warnings.warn(GREY_TOLD, stacklevel=3)
        return _checked(read_as(pixels, self.channels))

    def _whole(
        self,
        rows: np.ndarray | OwnRows,
        info_bar_rows: int,
        scale: float | tuple[float, float],
        wanted: WantedMaps,
    ) -> Prediction:
        def read(first: int, last: int) -> np.ndarray | OwnRows:
            if isinstance(rows, OwnRows):
                return rows._replace(raw=rows.raw[first:last])
            return rows[first:last]

        height, width = (rows.raw if isinstance(rows, OwnRows) else rows).shape[:2]
        picture = Picture(
            read=read,
            size_HW=(height, width),
            info_bar_rows=info_bar_rows,
            scale=Scale(*scale) if isinstance(scale, tuple) else Scale(scale, scale),
            wanted=wanted,
        )
        return whole(self.bands(picture), self.card, (height, width), self.trusts)

    def bands(self, picture: Picture) -> Iterator[Band]:
        """Yield the prediction of an image from top to bottom; memory does not grow with height.

        An image of which not even one tile fits into the device's memory is begun anew with smaller
        ones; one whose numbers are too large for fp16 is computed in fp32 from there on.
        """
        given = 0  # rows
        while True:
            try:
                for _, band, _ in self._bands([(None, picture)], is_alone=True):
                    if self._overflows(band):
                        break
                    if band.first >= given:
                        yield band
                        given = band.first + len(band.mask)
                else:
                    return
            except RuntimeError as error:
                if given or not is_out_of_memory(error) or not self.shrink():
                    raise
            free_cached_memory()

    def stream(self, pictures: Iterable[tuple[Key, Picture]]) -> Iterator[tuple[Key, list[Band]]]:
        """Yield each picture's key with all of its bands, in order; tiles of several share a batch.

        Where not even one tile fits into the device's memory, or a number into fp16, those under
        way are begun anew, with smaller tiles or in fp32.
        """
        source = iter(pictures)
        begun: deque[tuple[Key, Picture]] = deque()

        def noted(source: Iterator[tuple[Key, Picture]]) -> Iterator[tuple[Key, Picture]]:
            for one in source:
                begun.append(one)
                yield one

        while True:
            bands: list[Band] = []
            try:
                for key, band, is_last in self._bands(noted(source)):
                    if self._overflows(band):
                        break
                    bands.append(band)
                    if is_last:
                        begun.popleft()
                        yield key, bands
                        bands = []
                else:
                    return
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self.shrink():
                    raise
            free_cached_memory()
            source = chain(list(begun), source)
            begun.clear()

    def _bands(
        self, pictures: Iterable[tuple[Key, Picture]], *, is_alone: bool = False
    ) -> Iterator[tuple[Key, Band, bool]]:
        """Yield bands with whose they are, and whether they are the last of it."""
        # Not in inference mode while the caller has the band: a generator would keep it so.
        under_way: deque[_OnItsWay[Any]] = deque()
        self.evidence.begin()
        made = self._sent(pictures, is_alone)
        try:
            while (item := _next(made)) is not None:
                under_way.append(item)
                if len(under_way) > _UNDER_WAY[self.device.type]:
                    yield under_way.popleft().arrived()
        finally:
            self.evidence.end()
        while under_way:
            yield under_way.popleft().arrived()

    def _sent(
        self, pictures: Iterable[tuple[Key, Picture]], is_alone: bool
    ) -> Iterator["_OnItsWay[Key]"]:
        values_C = uploaded(torch.tensor(self.card.class_values, dtype=torch.uint8), self.device)
        scaled: dict[int, ScaledBands] = {}

        def rows() -> Iterator[tuple[tuple[Key, Picture], ImageRows]]:
            for key, picture in pictures:
                if picture.scale != AS_IT_IS:
                    part = None if picture.part is None else picture.part.region
                    scaled[id(picture)] = ScaledBands(picture.inner_size, picture.whole_size, part)
                yield (key, picture), self._rows(picture)

        for done in bands_of(
            self.forward,
            rows(),
            self.tiles,
            overlap=self._overlap,
            tta=self._tta,
            is_alone=is_alone,
            seen=self._see if self.evidence.is_wanted else None,
        ):
            key, picture = done.key
            above = picture.inner_bar_from - picture.inner_part.top
            self.evidence.add_rows(picture, done.first, done.logits, above)
            made = done.first, self.merged(done.logits)
            if (rescaled := scaled.get(id(picture))) is not None:
                found = rescaled.add(*made)
                if done.is_last:
                    del scaled[id(picture)]
                if found is None:
                    continue
                made = found
            evidence = self.evidence.taken(picture)
            one = sent(*made, values_C, picture.bar_from, picture.wanted, evidence)
            yield _OnItsWay(key, one, done.is_last)

    def _see(self, places: Sequence[Place[tuple[Any, Picture]]]) -> None:
        """Sum up what was seen in a batch of tiles; those of the info bar are left out."""
        self.evidence.add_tiles([(place.key[1], place.key[1].above_bar(place)) for place in places])

    def take_trusts(self, trusts: Sequence[Trust]) -> None:
        """Tell by these how good a mask is, one a member; by none, where there are none."""
        self.trusts = tuple(trusts)
        self.evidence.compare_with(self.trusts)

    def _take(self, networks: Sequence[SegmentationNetwork]) -> None:
        for network in networks:
            folded(network)
        self.evidence.watch(networks)
        self._calls = [self._prepared(network) for network in networks]

    def _rows(self, picture: Picture) -> ImageRows:
        def load(first: int, last: int, columns: tuple[int, int]) -> Tensor:
            return rows_on(picture.read_columns(first, last, columns), self.device)

        read = load
        if picture.scale != AS_IT_IS:
            read = scaled_reader(load, picture.whole_size, picture.inner_size)

        def blocks(ranges: Sequence[tuple[int, int]], columns: tuple[int, int]) -> Iterator[Tensor]:
            made = (read(first, last, columns) for first, last in ranges)
            return read_ahead(made) if picture.ahead else made

        sides = None if picture.part is None else picture.part.sides
        return ImageRows(blocks, picture.inner_size, picture.inner_part, sides)

    def _overflows(self, band: Band) -> bool:
        """Tell whether numbers were too large for fp16, and take fp32 from now on."""
        if self.precision != torch.float16 or not math.isnan(band.sure):
            return False
        self.precision = torch.float32
        networks, cards = load_members(self._files)
        for file, before, card in zip(self._files, self.cards, cards, strict=True):
            if card != before:
                what = "was replaced by another model while it was in use"
                raise ModelFileError(file, what, "Begin anew with it, or put the old one back")
        self._take(networks)
        return True

    def shrink(self) -> bool:
        """Compute fewer tiles at a time, then smaller ones; False: there are none smaller."""
        return self.tiles.shrink()

    def forward(self, tiles_NCTT: Tensor) -> Tensor:
        """Return the logits of a batch of tiles, in the precision this device is fast at.

        A batch that does not fit into the device's memory is halved, and those after it, too.
        Shapes: N×1×T×T float32 in, N×3×T×T of colours; N×K×T×T in that precision or float32 out. An
        ensemble gives K = M·C channels, member after member: see `merged`.
        """
        self.before_batch()
        tiles_NCTT = tiles_NCTT.contiguous(memory_format=torch.channels_last)
        seen = self.evidence.mark()
        try:
            made = [call(tiles_NCTT) for call in self._calls]
        except RuntimeError as error:
            if len(tiles_NCTT) == 1 or not is_out_of_memory(error):
                raise
        else:
            return made[0] if len(made) == 1 else torch.cat(made, dim=1)
        free_cached_memory()  # outside the handler, which holds what did not fit
        self.evidence.back_to(seen)
        self.tiles.batch = max(1, self.batch // 2)
        halves = tiles_NCTT.split(-(-len(tiles_NCTT) // 2))
        return torch.cat([self.forward(half) for half in halves])

    def _prepared(self, network: SegmentationNetwork) -> Call:
        """Return a call of the network on its device, in the layout and precision it is fast at."""
        network = network.to(self.device).to(memory_format=torch.channels_last)
        if self.precision == torch.float32:
            return network
        if is_only_convolutions(network):  # nothing is cast on the way, weights included
            network = network.to(self.precision)
            return lambda tiles_NCTT: network(tiles_NCTT.to(self.precision))

        def mixed(tiles_NCTT: Tensor) -> Tensor:
            with autocast(self.device, self.precision):
                return network(tiles_NCTT)

        return mixed

    def merged(self, logits_KHW: Tensor) -> Tensor:
        """Return the logits of the ensemble from those of its members; one member's are its own.

        Shapes: K×H×W in, K = M·C, C×H×W out, of any float type, which is kept.
        """
        return merged(logits_KHW, len(self._calls), self.card.network.num_planes)


def tiles_of(
    networks: Sequence[SegmentationNetwork],
    card: ModelCard,
    device: torch.device,
    *,
    tile_px: int | None = None,
    batch: int | None = None,
) -> Tiles:
    """Return how large the tiles of a prediction by these networks are on a device.

    Nothing is computed there. A side that is given as `tile_px` is kept.
    """
    specs = [network.spec for network in networks]
    precision, _ = choose_precision(device)
    side_px, fits = choose_tiles(specs, device, precision, patch_px=card.patch_px, tile_px=tile_px)
    steps = [network.tile_step_px for network in networks]
    step_px = 0 if tile_px or 0 in steps else math.lcm(*steps)
    tiles = Tiles(px=side_px, batch=batch or fits, step_px=step_px)
    if all(network.is_local for network in networks):
        tiles.most_growth = LOCAL_GROWTH
    return tiles


def _trust_of(file: Path, card: ModelCard, network: SegmentationNetwork) -> Trust | None:
    trust = card.trust
    if trust is not None and len(trust.centre) != num_features(network):
        what = "what tells how good its masks are is of another network"
        raise ModelFileError(file, what, "Copy it again, or install the timm it was made with")
    return trust


# Bands that a device is ahead of the host: a GPU is never without work while one is fetched.
_UNDER_WAY = {"cpu": 0, "cuda": 2}


def _checked(pixels: np.ndarray) -> np.ndarray:
    if not pixels.size or has_no_number(pixels):
        what = "holds no finite number" if pixels.size else "has no pixels"
        raise InputError("image", what, "Leave it out")
    return pixels


class _OnItsWay(NamedTuple, Generic[Key]):
    """A band that is sent, and whose it is."""

    key: Key
    sent: Sent
    is_last: bool

    def arrived(self) -> tuple[Key, Band, bool]:
        return self.key, self.sent.band(), self.is_last


def _next(made: "Iterator[_OnItsWay[Key]]") -> "_OnItsWay[Key] | None":
    with torch.inference_mode():
        return next(made, None)
