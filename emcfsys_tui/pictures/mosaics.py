"""Pictures of large images that tasks share out in regions, while these are being done."""

from pathlib import Path

import msgspec

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.images.mosaic_view import NOT_DONE, MosaicView, ref_of
from emcfsys_engine.model_card import read_card
from emcfsys_engine.regions import Region
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.shard_lines import DoneSoFar
from emcfsys_engine.run.shards import FOLDER
from emcfsys_tui.pictures.drawing import Shown, drawn
from emcfsys_tui.pictures.protocol import Answer, PictureRequest, Reply, fit

_SECONDS = 0.5  # of reading regions, then what is there is shown
_FINE_PX = 1 << 24  # a part of no more pixels is read anew, more finely
_MOST_PX = 1024  # of the longer side of what is drawn


class Mosaics:
    """Keeps the image that was looked at last."""

    def __init__(self) -> None:
        self._key: tuple[str, int] = ("", -1)
        self._done: DoneSoFar | None = None
        self._view: MosaicView | None = None

    def answer(self, request: PictureRequest) -> Reply:
        """Return what is done of an image by now; `is_whole` is false while more waits to be read.

        Raises: EmcfError where its image or mask cannot be read.
        """
        view, done = self._look(request)
        is_whole = view.grow(done.regions(str(ref_of(view.mosaic))), _SECONDS)
        height, width = view.mosaic.size_HW
        pixel_nm = view.mosaic.pixel_nm
        answer = Answer(
            key=request.key,
            image_px=(width, height),
            pixel_nm=pixel_nm[1] if pixel_nm else None,
            classes=classes_of(Path(request.model)) if request.model else (),
            is_whole=is_whole,
        )
        if request.point is not None:
            words = _point_words(view, answer, request.point)
            return Reply(msgspec.structs.replace(answer, point=words))
        return _part(view, answer, request)

    def _look(self, request: PictureRequest) -> tuple[MosaicView, DoneSoFar]:
        run, key = Run(Path(request.run)), (request.run, request.mosaic)
        if self._done is None or self._key[0] != request.run:
            self._done, self._view = DoneSoFar(run), None
        self._done.look()
        if self._view is None or self._key != key:
            if request.mosaic >= len(self._done.mosaics):
                what = "names no such image"
                raise RunFolderError(run.folder / FOLDER, what, "Look at the job again")
            mosaic = self._done.mosaics[request.mosaic]
            self._view = MosaicView(mosaic, run.folder / FOLDER, _MOST_PX)
        self._key = key
        return self._view, self._done


def classes_of(model: Path) -> tuple[tuple[int, str], ...]:
    """Return the values and names of a model's classes.

    Raises: ModelFileError.
    """
    card = read_card(model)
    return tuple(zip(card.class_values, card.classes, strict=True))


def _part(view: MosaicView, answer: Answer, request: PictureRequest) -> Reply:
    width, height = answer.image_px
    whole = (0.0, 0.0, float(width), float(height))
    left, top, wide, high = fit(request.view or whole, width, height)
    part = view
    if wide * high <= _FINE_PX and view.factor > 1:
        box = Region(
            int(top), min(height, -int(-top - high)), int(left), min(width, -int(-left - wide))
        )
        part = view.part(box, max(1, max(box.size) // _MOST_PX))
    by, x, y = part.factor, part.box.left, part.box.top
    asked = ((left - x) / by, (top - y) / by, wide / by, high / by)
    shown = Shown(grey=part.grey, ids=part.ids, classes=answer.classes)
    reply = drawn(answer, shown, msgspec.structs.replace(request, view=asked))
    seen = reply.answer.view_px
    in_image = (seen[0] * by + x, seen[1] * by + y, seen[2] * by, seen[3] * by)
    return reply._replace(answer=msgspec.structs.replace(reply.answer, view_px=in_image))


def _point_words(view: MosaicView, answer: Answer, point: tuple[int, int]) -> str:
    x, y = point
    if not (0 <= x < answer.image_px[0] and 0 <= y < answer.image_px[1]):
        return ""
    value = int(view.ids[y // view.factor, x // view.factor])
    name = "not done yet" if value == NOT_DONE else dict(answer.classes).get(value, str(value))
    words = f"{x},{y}  {name}"
    if view.mosaic.pixel_nm is not None:
        down, across = view.mosaic.pixel_nm
        words += f"  {x * across:,.0f} {y * down:,.0f} nm"
    return words
