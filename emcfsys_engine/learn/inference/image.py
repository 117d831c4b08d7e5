"""One image, or one plane of a stack, predicted into its files: used by `predict` and the watch."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from emcfsys_engine.annotations.writer import LabelFormat
from emcfsys_engine.errors import OutputError
from emcfsys_engine.files import remedy_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import GREY
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import resolved
from emcfsys_engine.learn.inference.bands import (
    LARGE_PX,
    Band,
    ImageTally,
    OpenImage,
    WantedMaps,
    open_image,
)
from emcfsys_engine.learn.inference.mosaic import Piece, PieceOutputs
from emcfsys_engine.learn.inference.outputs import (
    Companions,
    MadeFrom,
    OutputSet,
    VectorOutputs,
    maker_of,
)
from emcfsys_engine.learn.inference.picture import AS_IT_IS, Part, Picture, Scale
from emcfsys_engine.learn.inference.pipeline import Arrived, Behind, Computed, Failure
from emcfsys_engine.learn.inference.predictor import GREY_TOLD, Predictor
from emcfsys_engine.model_card import SAME_PIXEL, ModelCard
from emcfsys_engine.project_tables import Inference
from emcfsys_engine.run.records import PredictRequest

Job = TypeVar("Job")
_AHEAD, _MOST_AHEAD = 3, 64  # images read before their turn


class EndAskedFor(Exception):
    """A person or the machine asked to end within an image; it is begun anew next time."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One image to predict, and what the names of its files begin with."""

    ref: ImageRef
    mask_file: Path
    content: str = ""  # digest of the file, where it is known already
    region: str = ""  # as `regions.written` returns it: all that is wanted; empty: the whole image
    piece: Piece | None = None  # of a mosaic: then its mask gets no name of its own


@dataclass(kw_only=True)
class ImageWork:
    """One image between its reading and its files.

    Shapes: mask rows h×W uint8, numbers H×W uint32.
    """

    order: Order
    image: OpenImage
    started: float
    tally: ImageTally
    content: str
    outputs: OutputSet | PieceOutputs | None = None  # open already when a large image was computed
    bands: list[Band] = field(default_factory=list)
    mask_rows: list[np.ndarray] = field(default_factory=list)  # kept where they are wanted whole
    numbers: np.ndarray | None = None  # of its objects, where masks are kept and objects told apart

    @property
    def whole_mask(self) -> np.ndarray:
        """The whole mask, where it was kept. Shapes: H×W uint8."""
        return np.concatenate(self.mask_rows)


def enlargement(image: OpenImage, card: ModelCard) -> Scale:
    """Return by what an image must be enlarged to have a model's pixels, which are square."""
    if card.pixel_nm is None or image.pixel_nm is None:
        return AS_IT_IS
    factors = Scale(*(side / card.pixel_nm for side in image.pixel_nm))
    return AS_IT_IS if all(abs(one - 1) < SAME_PIXEL for one in factors) else factors


class ImageJobs:
    """Reads, computes and writes images; each stage may be called in a thread of its own."""

    def __init__(
        self,
        predictor: Predictor,
        book: OutputBook,
        *,
        companions: Companions,
        vectors: Sequence[LabelFormat] = (),
        scale_of: Callable[[OpenImage], Scale] | None = None,
        settings: PredictRequest | Inference,
        asked: Callable[[], str | None],
        keeps_masks: bool = False,
        tell: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._predictor = predictor
        self._book = book
        self._companions = companions
        self._scale_of = scale_of or self._own_scale
        self._maker = maker_of(predictor.cards, settings)
        self._asked = asked
        self._wanted = WantedMaps(
            probabilities=companions.probabilities, uncertainty=companions.uncertainty
        )
        self.vectors = VectorOutputs(book.out, vectors, predictor.card, book)
        self._keeps_masks = keeps_masks or bool(self.vectors)
        self._tell = tell
        self._told_grey = predictor.channels == GREY  # nothing to tell
        self._open: dict[Order, OpenImage] = {}
        self._last_px = LARGE_PX  # of the image that was read last

    def _own_scale(self, image: OpenImage) -> Scale:
        card = self._predictor.card
        return enlargement(image, card) if card.rescales else AS_IT_IS

    def files(self, ref: ImageRef, mask_file: Path) -> list[Path]:
        """Return everything that is written for an image."""
        beside = self._companions.files(mask_file, self._predictor.card)
        return beside + self.vectors.files(ref, mask_file)

    def read(self, order: Order) -> ImageWork:
        """Open an image and find its statistics."""
        started = time.monotonic()
        # Known before it is read: an image that is replaced meanwhile is predicted again.
        content = order.content or self._book.contents.of(
            order.ref.path, lambda: self._asked() is not None
        )
        image = open_image(
            order.ref,
            self._predictor.normaliser,
            self._predictor.channels,
            region=order.region if order.piece is None else str(order.piece.region),
            known=None if order.piece is None else order.piece.survey,
        )
        self._open[order] = image
        self._last_px = math.prod(image.size)
        return ImageWork(
            order=order,
            image=image,
            started=started,
            tally=ImageTally(self._predictor.card, self._predictor.trusts),
            content=content,
        )

    def _say_grey(self, image: OpenImage) -> None:
        if not self._told_grey and not image.survey.is_coloured:
            self._told_grey = True
            self._tell(f"{image.ref}: {GREY_TOLD}")

    def compute_all(
        self, arrived: Arrived[Job, ImageWork | None], catch: tuple[type[Exception], ...]
    ) -> Computed[Job, ImageWork | None]:
        """Predict images one after the other, in order; tiles of small ones share their batches.

        What did not arrive is passed on. Of a batch that fails each image is computed alone: only
        the one that is at fault fails with an error of `catch`.
        Raises: EndAskedFor between two batches of tiles; other errors.
        """
        left: deque[tuple[Job, ImageWork | Failure[Job] | None]] = deque()
        is_over = False

        def small() -> Iterator[tuple[Job, ImageWork]]:
            nonlocal is_over
            for job, work in arrived:
                if not isinstance(work, ImageWork) or work.image.is_large:
                    left.append((job, work))
                    return
                yield job, work
            is_over = True

        while not is_over:
            yield from self._streamed(small(), catch)
            while left:
                job, work = left.popleft()
                yield job, self._alone(job, work, catch) if isinstance(work, ImageWork) else work

    def compute_each(
        self, arrived: Arrived[Job, ImageWork | None], catch: tuple[type[Exception], ...]
    ) -> Computed[Job, ImageWork | None]:
        """Predict each image by itself: no image's result depends on which others are near it.

        Raises: as `compute_all`.
        """
        for job, work in arrived:
            yield job, self._alone(job, work, catch) if isinstance(work, ImageWork) else work

    def _streamed(
        self, works: Iterator[tuple[Job, ImageWork]], catch: tuple[type[Exception], ...]
    ) -> Computed[Job, ImageWork | None]:
        under_way: deque[tuple[Job, ImageWork]] = deque()

        def pictures() -> Iterator[tuple[ImageWork, Picture]]:
            for job, work in works:
                self._say_grey(work.image)
                under_way.append((job, work))
                yield work, self._picture(work)

        self._predictor.before_batch = self._heed
        try:
            for work, bands in self._predictor.stream(pictures()):
                work.bands = bands
                yield under_way.popleft()
        except catch:
            if not under_way:  # it never began: the next one tells why
                under_way.extend(islice(works, 1))
        # One of those under way may be at fault: it fails again, alone.
        while under_way:
            job, work = under_way.popleft()
            yield job, self._alone(job, work, catch)

    def _alone(
        self, job: Job, work: ImageWork, catch: tuple[type[Exception], ...]
    ) -> ImageWork | Failure[Job]:
        try:
            return self.compute(work)
        except catch as error:
            return Failure(job, error)

    def compute(self, work: ImageWork) -> ImageWork:
        """Predict it alone; a large image is written meanwhile.

        Raises: EndAskedFor between two batches of tiles.
        """
        image = work.image
        self._say_grey(image)
        self._predictor.before_batch = self._heed
        try:
            bands = self._predictor.bands(self._picture(work))
            if image.is_large:
                self._write_while_computing(work, bands)
            else:
                work.bands = list(bands)
        except BaseException:
            self.give_up(work)
            raise
        return work

    def _picture(self, work: ImageWork) -> Picture:
        image = work.image
        return Picture(
            read=image.read,
            size_HW=image.size,
            info_bar_rows=image.survey.info_bar_rows,
            scale=self._scale_of(image),
            wanted=self._wanted,
            ahead=image.is_large,
            part=_part_of(work),
        )

    def ahead(self) -> int:
        """Return how many images may be read ahead: two batches, where they are small."""
        tiles = self._predictor.tiles
        return max(_AHEAD, min(_MOST_AHEAD, 2 * tiles.batch * tiles.px**2 // self._last_px))

    def write(self, work: ImageWork) -> Path:
        """Write its files and return the mask's; the image stays open until `close`."""
        try:
            outputs = work.outputs = work.outputs or self._open_outputs(work)
            for band in work.bands:
                self._add(work, outputs, band)
            if isinstance(outputs, OutputSet):
                if self.vectors:
                    self._write_vectors(work, outputs)
                if self._keeps_masks:
                    work.numbers = outputs.numbers()
            outputs.finish()
        except BaseException:
            self.give_up(work)
            raise
        return outputs.mask_file

    def _write_vectors(self, work: ImageWork, outputs: OutputSet) -> None:
        try:
            self.vectors.write(work.order.ref, outputs, work.whole_mask, work.image)
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            raise OutputError(
                outputs.mask_file,
                what,
                remedy_of(error),
                errno=error.errno or 0,
            ) from None

    def give_up(self, work: ImageWork) -> None:
        """Leave nothing of an image that did not become whole."""
        if work.outputs is not None:
            work.outputs.abort()
        self.close(work)

    def close(self, work: ImageWork) -> None:
        """Close an image that is done."""
        work.image.close()
        self._open.pop(work.order, None)

    def close_all(self) -> None:
        """Close what was read ahead and is no longer wanted."""
        for image in self._open.values():
            image.close()
        self._open.clear()

    def _heed(self) -> None:
        if self._asked() is not None:
            raise EndAskedFor

    def _write_while_computing(self, work: ImageWork, bands: Iterator[Band]) -> None:
        outputs = work.outputs = self._open_outputs(work)
        behind = Behind()
        try:
            for band in bands:
                self._heed()
                behind.do(lambda band=band: self._add(work, outputs, band))
        finally:
            behind.finish()

    def _open_outputs(self, work: ImageWork) -> OutputSet | PieceOutputs:
        image, order = work.image, work.order
        if order.piece is not None:
            return PieceOutputs(order.piece, has_objects=bool(self._predictor.card.instances))
        region = image.region
        return OutputSet(
            order.mask_file,
            image.size,
            image.pixel_nm,
            self._predictor.card,
            self._companions,
            image.view,
            book=self._book,
            origin=MadeFrom(
                image=resolved(order.ref.path),
                content=work.content,
                maker=self._maker,
            ),
            corner_px=(0, 0) if region is None else (region.top, region.left),
        )

    def _add(self, work: ImageWork, outputs: OutputSet | PieceOutputs, band: Band) -> None:
        work.tally.add(band)
        outputs.add(band)
        if self._keeps_masks:
            work.mask_rows.append(band.mask)


def _part_of(work: ImageWork) -> Part | None:
    image, piece = work.image, work.order.piece
    if image.region is None:
        return None
    return Part(
        region=image.region,
        read=image.read_part,
        of_HW=image.whole_size,
        sides=None if piece is None else piece.sides,
        is_one_of_many=piece is not None,
    )
