"""Images that are measured anew from the masks they have: nothing is predicted."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from emcfsys_engine.dataset.corrected import read_mask_now, size_of
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.hotfolder.journal import Act, act_of
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.review import files_of_mask, masks_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.learn.inference.bands import open_image
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.learn.watch.measurements import (
    INFO_BAR,
    Line,
    Measurements,
    area_of,
    measured,
    of_classes,
)
from emcfsys_engine.learn.watch.numbers import (
    grey_values,
    numbers_of_objects,
    shares_of,
    unlike_training,
)
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import WarningGiven
from emcfsys_engine.verdicts import needs_objects, number_of_class, verdict_of_planes

_TOGETHER = 50  # images, noted at once
_OF_MASKS = ("fraction", "objects", "diameter_nm", "diameter_px")


@dataclass(frozen=True, kw_only=True)
class _Image:
    """What is known of a micrograph, whatever its mask says."""

    pixel_nm: tuple[float, float] | None
    size_HW: tuple[int, int] | None  # None: nobody can say any more
    info_bar_rows: int
    grey: dict[str, float]
    unlike: str


class MeasuredAgain:
    """Measures images of one output folder by the settings of today."""

    def __init__(
        self,
        ledger: Ledger,
        table: Measurements,
        card: ModelCard,
        project: Project,
        book: OutputBook,
    ) -> None:
        self._ledger, self._table, self._card = ledger, table, card
        self._project, self._book = project, book
        self._classes = dict(zip(card.classes, card.class_values, strict=True))
        self._measures = project.hotfolder.measure
        self._counts = self._measures or needs_objects(project.limits, project.classes)

    def run(self, root: Path, paths: Sequence[str], worker: RunContext) -> None:
        """Measure images; one that cannot be read is told, and tried again at the next start.

        Raises: OSError, OutputError where nothing can be noted.
        """
        for done, lines in self._batches(root, paths, worker, is_corrected=False):
            self._table.replace_newest([line for of_one in lines.values() for line in of_one])
            acts = [self._act(one, self._ledger.recipe) for one in done if lines[one.path]]
            self._ledger.measured(done, acts)

    def follow(self, root: Path, words: Mapping[str, str], worker: RunContext) -> None:
        """Measure masks that people corrected; one that is none is told, and its numbers stay.

        `words`: image -> the act of the word.
        Raises: OSError, OutputError where nothing can be noted.
        """
        self._book.refresh()
        for done, lines in self._batches(root, list(words), worker, is_corrected=True):
            self._table.replace_newest([line for of_one in lines.values() for line in of_one])
            acts = [self._act(one, reason="as a person left its mask") for one in done]
            followed = {one.path: words[one.path] for one in done}
            self._ledger.follow_corrections(done, acts, followed)

    def _batches(
        self, root: Path, paths: Sequence[str], worker: RunContext, *, is_corrected: bool
    ) -> Iterator[tuple[list[Judged], dict[str, list[Line]]]]:
        for first in range(0, len(paths), _TOGETHER):
            if worker.stop_request() is not None:
                return
            done: list[Judged] = []
            lines: dict[str, list[Line]] = {}
            every = self._ledger.judged(paths[first : first + _TOGETHER])
            known = self._table.newest_of([one.path for one in every]) if self._measures else {}
            for one in every:
                try:
                    found, lines[one.path] = self._of_image(
                        root, one, known.get(one.path, {}), is_corrected=is_corrected
                    )
                    done.append(found)
                except (EmcfError, OSError) as error:
                    what = f"{one.path} is not measured anew: {error}"
                    worker.emit_when_possible(WarningGiven(message=what))
            yield done, lines

    def _act(self, one: Judged, recipe: str = "", reason: str = "") -> Act:
        output = self._ledger.output
        masks = {
            str(file.relative_to(output.absolute())): digest_of_output(file)
            for mask in masks_of(output, one)
            for file in (files_of_mask(mask) if reason else [mask])
        }
        facts = {"image": one.path, "content": one.digest, "masks": masks}
        return act_of("measured", **facts, recipe=recipe, reason=reason)

    def _of_image(
        self, root: Path, one: Judged, known: Mapping[str, Mapping[str, str]], *, is_corrected: bool
    ) -> tuple[Judged, list[Line]]:
        if not (self._measures or is_corrected):
            return one, []
        one = _with_planes(root, one)
        masks, planes = masks_of(self._ledger.output, one), list(one.numbers)
        if len(masks) != len(planes):
            what = f"has {len(masks)} masks for {len(planes)} planes"
            raise InputError(one.path, what, "Remove its masks: they are made anew")
        numbers: dict[str, dict[str, float]] = {}
        lines: list[Line] = []
        for plane, mask in zip(planes, masks, strict=True):
            ref = ImageRef(path=root / one.path, plane=int(plane) if plane else None)
            name = one.path if ref.plane is None else f"{one.path}#{ref.plane}"
            line = known.get(name, {})
            before = one.numbers[plane] or _certainty(line)
            image = self._noted(ref, one.numbers[plane], line) if is_corrected else None
            image = image or self._opened(ref, before)
            numbers[plane], new = self._of_plane(image, mask, name, before)
            if self._measures:
                found = verdict_of_planes({"": numbers[plane]}, self._project.limits)
                lines.append({**line, **new, "verdict": found.state if found else ""})
        return msgspec.structs.replace(one, numbers=numbers), lines

    def _noted(
        self, ref: ImageRef, known: Mapping[str, float], line: Mapping[str, str]
    ) -> _Image | None:
        """Return what was noted of an image when it was predicted: it may be away by now."""
        if not known:
            return None
        try:
            size_HW = int(line["height_px"]), int(line["width_px"])
        except (KeyError, ValueError):
            if self._measures:
                return None
            size_HW = size_of(ref.path)
        side_nm = known.get("pixel_nm")
        return _Image(
            pixel_nm=None if side_nm is None else (side_nm, side_nm),  # areas are all it is for
            size_HW=size_HW,
            info_bar_rows=self._bar_of(ref, line),
            grey={},
            unlike=line.get("unlike_training_data", ""),
        )

    def _bar_of(self, ref: ImageRef, line: Mapping[str, str]) -> int:
        """Return how many rows of an image are an info bar; 0 where nobody can say any more."""
        try:
            return int(line[INFO_BAR])
        except (KeyError, ValueError):  # a table of an older version, or none
            with suppress(EmcfError, OSError):
                return read_micrograph(ref).info_bar_rows
        return 0

    def _opened(self, ref: ImageRef, known: Mapping[str, float]) -> _Image:
        normaliser = Normaliser(**msgspec.structs.asdict(self._card.normaliser))
        image = open_image(ref, normaliser, self._card.network.in_channels)
        grey = grey_values(image) if self._measures or self._project.limits else None
        confidence = known.get("confidence", float("nan"))
        return _Image(
            pixel_nm=image.pixel_nm,
            size_HW=image.size,
            info_bar_rows=image.survey.info_bar_rows,
            grey=grey.named() if grey else {},
            unlike=unlike_training(image, confidence, self._card, grey) if grey else "",
        )

    def _of_plane(
        self, image: _Image, mask: Path, name: str, known: Mapping[str, float]
    ) -> tuple[dict[str, float], Line]:
        maker = self._book.maker_of(mask)
        if maker is not None and dict(maker.classes) != self._classes:
            remedy = "Watch with the model that made it"
            raise InputError(mask, "was made by a model of other classes", remedy)
        now = read_mask_now(mask, self._classes, self._book, image.size_HW)
        objects = now.numbers if self._card.instances else None
        area_nm2, bar = area_of(image.pixel_nm), image.info_bar_rows
        classes = of_classes(now.ids, area_nm2, self._card, objects, info_bar_rows=bar)
        line = measured(
            name,
            image.pixel_nm,
            image.size_HW or (now.ids.shape[0], now.ids.shape[1]),
            bar,
            known.get("confidence", float("nan")),
            image.unlike,
            classes,
        ) | {key: f"{value:.6g}" for key, value in image.grey.items()}
        of_mask = {number_of_class(each, word) for each in classes for word in _OF_MASKS}
        kept = {key: value for key, value in known.items() if key not in of_mask}
        found = shares_of(classes) | (numbers_of_objects(classes) if self._counts else {})
        return kept | image.grey | found, line


def _certainty(line: Mapping[str, str]) -> dict[str, float]:
    """Return how sure the model was, as a line of the table tells; {} where there is none."""
    try:
        return {"confidence": float(line["confidence"])}
    except (KeyError, ValueError):
        return {}


def _with_planes(root: Path, one: Judged) -> Judged:
    """Return an image with a place for the numbers of each plane, if it has none yet."""
    if one.numbers:
        return one
    count = probe(root / one.path).planes
    planes = map(str, range(count)) if count > 1 else [""]
    return msgspec.structs.replace(one, numbers={plane: {} for plane in planes})
