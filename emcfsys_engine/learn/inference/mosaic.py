"""One image that tasks share out in regions: what each of them writes, how it becomes one mask.

`mosaic-N.ome.zarr` in the folder of the run's shards grows to be the mask: each region has a file
of its own in it, which one task writes whole. Beside it lie the planes of objects, where a model
tells objects apart: those are found when all regions are there, from top to bottom, as in any
image.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.errors import OutputError
from emcfsys_engine.files import identity_of, is_full, remedy_of
from emcfsys_engine.images.label_zarr import (
    begin_instances,
    begin_labels,
    finish_labels,
    write_region,
)
from emcfsys_engine.images.mosaic_view import folder_of, ref_of, survey_of
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import resolved
from emcfsys_engine.images.rows import Survey
from emcfsys_engine.learn.inference.bands import Band, ImageTally, OpenImage
from emcfsys_engine.learn.inference.expected import expected, in_event
from emcfsys_engine.learn.inference.object_rows import ObjectRows
from emcfsys_engine.learn.inference.outputs import MadeFrom, among_originals, commit, maker_of
from emcfsys_engine.learn.inference.tiles import Sides
from emcfsys_engine.model_card import ModelCard, read_card
from emcfsys_engine.regions import Mosaic, Region, chunk_px, cut_of
from emcfsys_engine.run.events import ImageDone, ImageFailed, RegionDone
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import AnyTold

_PLANES = ("distance", "border")
_ROWS_AT_ONCE = 128


def mosaic_of(
    number: int, image: OpenImage, mask: Path, content: str, tiles: Sides, most_px: int
) -> Mosaic:
    """Return what all tasks must agree on to predict an image in regions of up to `most_px`²."""
    found = image.survey
    return Mosaic(
        number=number,
        image=str(image.ref.path),
        plane=image.ref.plane,
        mask=str(mask),
        content=content,
        size_HW=image.size,
        cut_HW=cut_of(image.size, most_px),
        chunk_px=chunk_px(most_px),
        pixel_nm=image.pixel_nm,
        info_bar_rows=found.info_bar_rows,
        statistics=found.statistics,
        is_coloured=found.is_coloured,
        colours=found.colours,
        tiles=tiles,
    )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One region of a mosaic."""

    mosaic: Mosaic
    region: Region
    folder: Path  # of the run's shards

    @property
    def survey(self) -> Survey:
        """The statistics of the whole image."""
        return survey_of(self.mosaic)

    @property
    def sides(self) -> Sides:
        """The sides of the whole image's tiles."""
        return Sides(*self.mosaic.tiles)

    def done(self, tally: ImageTally, seconds: float) -> RegionDone:
        """Return what is told of it once it is on the disk."""
        one, region = self.mosaic, self.region
        return RegionDone(
            image=str(ref_of(one)),
            region=(region.top, region.bottom, region.left, region.right),
            of=len(one.regions),
            seconds=seconds,
            shares=tally.shares,
            confidence=tally.confidence,
            evidence=[] if tally.evidence is None else tally.evidence.tolist(),
        )


class PieceOutputs:
    """Takes the bands of a piece, and writes its files when all are there.

    Raises: OutputError when the disk is full; what is there of an earlier start is written anew.
    """

    def __init__(self, piece: Piece, *, has_objects: bool) -> None:
        self.mask_file = Path(piece.mosaic.mask)
        self._piece = piece
        self._mask = np.zeros(piece.region.size, np.uint8)
        number = len(_PLANES) * has_objects
        self._planes = np.zeros((number, *piece.region.size), np.uint8)

    def add(self, band: Band) -> None:
        """Take the next rows."""
        rows = slice(band.first, band.first + len(band.mask))
        self._mask[rows] = band.mask
        if len(self._planes):
            assert band.planes is not None
            self._planes[:, rows] = band.planes

    def finish(self) -> None:
        """Write all of it."""
        piece = self._piece
        folders = _plane_folders(piece.mosaic, piece.folder)
        for number, plane in enumerate(self._planes):
            self._write(folders[number], plane)
        self._write(folder_of(piece.mosaic, piece.folder), self._mask)

    def abort(self) -> None:
        """Leave nothing behind: nothing was written."""

    def _write(self, folder: Path, pixels_HW: np.ndarray) -> None:
        try:
            write_region(_array(folder), self._piece.region, pixels_HW)
        except OSError as error:
            raise _unwritten(self.mask_file, error) from None


def _plane_folders(mosaic: Mosaic, folder: Path) -> list[Path]:
    return [folder / f"mosaic-{mosaic.number}.{name}.zarr" for name in _PLANES]


def _array(folder: Path) -> Any:
    import zarr  # takes a moment that only this needs

    return zarr.open_group(str(folder), mode="r+", zarr_format=3)["0"]


def begin_mosaic(mosaic: Mosaic, folder: Path, *, has_objects: bool) -> None:
    """Make the empty arrays of an image, once, before any task begins.

    Raises: OSError.
    """
    places = [folder_of(mosaic, folder)] + _plane_folders(mosaic, folder) * has_objects
    for place in places:
        begin_labels(
            place,
            Path(mosaic.mask).name,
            mosaic.size_HW,
            mosaic.pixel_nm,
            cut_HW=mosaic.cut_HW,
            chunk_px=mosaic.chunk_px,
        )


def joined(
    mosaic: Mosaic,
    folder: Path,
    book: OutputBook,
    request: PredictRequest,
    told: Sequence[AnyTold | None],
) -> ImageDone | ImageFailed:
    """Make one mask of an image's regions, and return what became of the image.

    `told`: what became of each region; None: nothing was told of it.
    Objects are those of the whole image: they are found here, in strips of one chunk's rows. After
    a kill all of it is done again.
    Raises: OutputError when the disk is full.
    """
    image, done = str(ref_of(mosaic)), [one for one in told if isinstance(one, RegionDone)]
    if len(done) < len(told):
        whys = [one.reason for one in told if isinstance(one, ImageFailed)]
        what = f"{len(told) - len(done)} of {len(told)} regions failed"
        return ImageFailed(image=image, reason=f"{image}: {what}: {'; '.join(whys[:1])}")
    cards = [read_card(Path(file)) for file in (request.model, *request.also)]
    try:
        _put_into_place(mosaic, folder, book, cards, request)
    except OutputError as error:
        if is_full(error):
            raise
        return ImageFailed(image=image, reason=str(error))
    return _told(mosaic, done, cards)


def _put_into_place(
    mosaic: Mosaic,
    folder: Path,
    book: OutputBook,
    cards: Sequence[ModelCard],
    request: PredictRequest,
) -> None:
    place, mask = folder_of(mosaic, folder), Path(mosaic.mask)
    if place.is_dir():  # else it was put there, and the end came before that was told
        try:
            _complete(mosaic, folder, book, cards, request)
        except OSError as error:
            raise _unwritten(mask, error) from None
    for leftover in _plane_folders(mosaic, folder):
        shutil.rmtree(leftover, ignore_errors=True)


def _complete(
    mosaic: Mosaic,
    folder: Path,
    book: OutputBook,
    cards: Sequence[ModelCard],
    request: PredictRequest,
) -> None:
    place, mask = folder_of(mosaic, folder), Path(mosaic.mask)
    if cards[0].instances:
        _find_objects(mosaic, folder, cards[0])
    finish_labels(place)
    book.refuse_gone()
    mask.parent.mkdir(parents=True, exist_ok=True)
    image = resolved(Path(mosaic.image))
    if identity_of(mask.parent) == identity_of(image.parent):
        raise among_originals(mask)
    origin = MadeFrom(image=image, content=mosaic.content, maker=maker_of(cards, request))
    commit([(place, mask)], book, origin)


def _unwritten(mask: Path, error: OSError) -> OutputError:
    what = f"cannot be written: {error.strerror or error}"
    remedy = f"{remedy_of(error)}, then predict again"
    return OutputError(mask, what, remedy, errno=error.errno or 0)


def _told(mosaic: Mosaic, told: Sequence[RegionDone], cards: Sequence[ModelCard]) -> ImageDone:
    end = mosaic.size_HW[0] - mosaic.info_bar_rows
    regions = [Region(*one.region) for one in told]
    pixels = [max(0, min(one.bottom, end) - one.top) * one.size[1] for one in regions]

    def mean(values: Iterator[float]) -> float:
        return sum(value * n for value, n in zip(values, pixels, strict=True)) / max(1, sum(pixels))

    found, classes = None, cards[0].classes
    if all(one.evidence for one in told):
        evidence = np.sum([np.array(one.evidence) for one in told], axis=0)
        found = expected([one.trust for one in cards if one.trust], evidence, classes)
    return ImageDone(
        image=str(ref_of(mosaic)),
        mask=mosaic.mask,
        seconds=sum(one.seconds for one in told),
        shares={name: mean(one.shares[name] for one in told) for name in classes},
        confidence=mean(one.confidence or 0.0 for one in told),
        **in_event(found),
    )


def _find_objects(mosaic: Mosaic, folder: Path, card: ModelCard) -> None:
    place = folder_of(mosaic, folder)
    arrays = [_array(one) for one in (place, *_plane_folders(mosaic, folder))]
    objects = ObjectRows(folder, mosaic.size_HW, card)
    try:
        for first in range(0, mosaic.size_HW[0], mosaic.chunk_px):
            strip = [np.asarray(one[first : first + mosaic.chunk_px]) for one in arrays]
            for row in range(0, len(strip[0]), _ROWS_AT_ONCE):  # finding takes many bytes a pixel
                mask, *planes = (one[row : row + _ROWS_AT_ONCE] for one in strip)
                objects.add(mask, np.stack(planes))
        level = begin_instances(place, mosaic.size_HW, mosaic.pixel_nm, objects.of_mask)
        for _, _, numbers in objects.rows():
            level.write(numbers[1:-1])
        level.finish()
    finally:
        objects.close()
