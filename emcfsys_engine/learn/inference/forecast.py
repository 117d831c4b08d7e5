"""What a prediction will take, before anything is begun: from a few of its images, done here."""

import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.rows import open_rows
from emcfsys_engine.learn.inference.files import (
    Stages,
    find_inputs,
    load_predictor,
    predict_files,
)
from emcfsys_engine.learn.inference.image import Order
from emcfsys_engine.learn.inference.mosaic import Piece
from emcfsys_engine.learn.inference.pipeline import Failure
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.inference.shard_list import Cutter, is_mosaic, why_in_one
from emcfsys_engine.learn.inference.shards import at_once
from emcfsys_engine.regions import Mosaic, Region, cut_of, cuts
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shards import Item
from emcfsys_engine.shards.forecast import Forecast, bytes_of, fullest_s, peak_bytes, to_try
from emcfsys_engine.shards.sizes import Sizes


def forecast(request: PredictRequest) -> Forecast:
    """Predict a few images into a folder that goes away, and reckon what all of them take.

    Raises: InputError, ImageError without images, or where none of those tried can be predicted.
    """
    refs = find_inputs(request)
    sizes = Sizes()
    planes = Counter(ref.path for ref in refs)
    looked = {path: sizes.of(path, count, is_wanted=True) for path, count in planes.items()}
    pieces = _pieces(request, refs, [looked[ref.path][1] for ref in refs])
    pixels = [piece.pixels for piece in pieces]
    of_regions = sum(piece.pixels for piece in pieces if piece.region is not None)
    with tempfile.TemporaryDirectory() as name:
        trial = _Trial(request, load_predictor(request), Path(name))
        seconds, written, tried = trial.tried(pieces)
    number = min(max(1, request.shards), len(pieces))
    beside = min(number, at_once(request))
    rate = sum(pixels[n] for n in tried) / max(1e-6, seconds)
    total = sum(pixels)
    return Forecast(
        images=len(refs),
        regions=sum(piece.region is not None for piece in pieces),
        looked_s=of_regions * trial.looked_s_a_pixel,
        pixels=total,
        tasks=number,
        at_once=beside,
        seconds=fullest_s(pixels, beside, rate),
        read_bytes=sum(bytes_of(path, known) for path, (known, _) in looked.items()),
        written_bytes=math.ceil(written * total / max(1, sum(pixels[n] for n in tried))),
        memory_bytes=peak_bytes(),
        tried=len(tried),
        pixels_a_second=rate,
    )


class _Piece(NamedTuple):
    """What one task predicts at a time: an image, or a region of one that is cut."""

    ref: ImageRef
    pixels: int
    of_pixels: int  # of the whole image
    region: Region | None = None


def _pieces(
    request: PredictRequest, refs: Sequence[ImageRef], pixels: Sequence[int]
) -> list[_Piece]:
    """Return all that is predicted by itself."""
    pieces: list[_Piece] = []
    for ref, number in zip(refs, pixels, strict=True):
        rows = None
        if is_mosaic(request, number) and not why_in_one(request):
            rows = open_rows(ref)
        if rows is None:
            pieces.append(_Piece(ref, number, number))
            continue
        with rows:
            size_HW = rows.height, rows.width
        cut_HW = cut_of(size_HW, request.region_px)
        pieces += [_Piece(ref, one.pixels, number, one) for one in cuts(size_HW, cut_HW)]
    return pieces


class _Trial:
    """Predicts a few images, or regions of large ones, into a folder that goes away."""

    def __init__(self, request: PredictRequest, predictor: Predictor, folder: Path) -> None:
        self._request, self._predictor, self._folder = request, predictor, folder
        self._cutter = Cutter(request, predictor.card, lambda _: "", folder, lambda _: None)
        self._mosaics: dict[ImageRef, Mosaic | None] = {}
        self.looked_s_a_pixel = 0.0  # that finding the numbers of a large image took

    def tried(self, pieces: Sequence[_Piece]) -> tuple[float, int, list[int]]:
        """Return the seconds and the written bytes of a few images, and which they are."""
        tried = to_try([piece.pixels for piece in pieces])
        seconds, written, done = 0.0, 0, list[int]()
        self._once(pieces[tried[0]], "warm")  # first kernels take longer
        for number in tried:
            before = bytes_of(self._folder, -1)
            took = self._once(pieces[number], str(number))
            if took is not None:
                seconds += took
                written += bytes_of(self._folder, -1) - before
                done.append(number)
        if not done:
            what = f"none of {len(tried)} images that were tried can be predicted"
            raise InputError(", ".join(self._request.inputs), what, "Look at one with inspect")
        return seconds, written, done

    def _once(self, piece: _Piece, name: str) -> float | None:
        """Return how many seconds one of them takes; None where it fails."""
        if piece.region is not None:
            return self._region(piece, piece.region)
        out = str(self._folder / name)
        one = msgspec.structs.replace(self._request, out=out, rank_uncertain=False, shards=0)
        began = time.monotonic()
        found = predict_files(one, [piece.ref], self._predictor, lambda _: None, lambda: None)
        return time.monotonic() - began if found.done else None

    def _region(self, piece: _Piece, region: Region) -> float | None:
        mosaic = self._mosaic(piece)
        if mosaic is None:
            return None
        order = Order(
            ref=piece.ref,
            mask_file=Path(mosaic.mask),
            content="-",  # nothing of it is noted
            piece=Piece(mosaic=mosaic, region=region, folder=self._folder),
        )
        began = time.monotonic()
        book = OutputBook(self._folder / "regions")
        stages: Stages[Order] = Stages(
            self._request, book, lambda one: one, self._predictor, lambda _: None, lambda: None
        )
        for _, result in stages.run([order]):
            if isinstance(result, Failure):
                return None
        return time.monotonic() - began

    def _mosaic(self, piece: _Piece) -> Mosaic | None:
        if piece.ref not in self._mosaics:
            began = time.monotonic()
            mask = str(self._folder / f"{len(self._mosaics)}.ome.zarr")
            item = Item(
                len(self._mosaics), str(piece.ref.path), piece.ref.plane, mask, -1, piece.of_pixels
            )
            self._mosaics[piece.ref] = self._cutter.mosaic_of(item)
            self.looked_s_a_pixel = (time.monotonic() - began) / piece.of_pixels
        return self._mosaics[piece.ref]
