"""Images that are measured anew from the masks they have: nothing is predicted."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from emcfsys_engine.annotations.numbered import read_numbers
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.hotfolder.journal import Act, act_of
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.review import masks_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.learn.inference.bands import open_image
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.learn.watch.measurements import (
    Line,
    Measurements,
    area_of,
    measured,
    of_classes,
)
from emcfsys_engine.learn.watch.numbers import grey_values, numbers_of_objects
from emcfsys_engine.learn.watch.unlike import unlike_training
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import WarningGiven

_TOGETHER = 50  # images, noted at once


class MeasuredAgain:
    """Measures images of one output folder by the settings of today."""

    def __init__(
        self, ledger: Ledger, table: Measurements, card: ModelCard, project: Project
    ) -> None:
        self._ledger, self._table, self._card, self._project = ledger, table, card, project

    def run(self, root: Path, paths: Sequence[str], worker: RunContext) -> None:
        """Measure images; one that cannot be read is told, and tried again at the next start.

        Raises: OSError, OutputError where nothing can be noted.
        """
        for first in range(0, len(paths), _TOGETHER):
            if worker.stop_request() is not None:
                return
            done: list[Judged] = []
            lines: dict[str, list[Line]] = {}
            for one in self._ledger.judged(paths[first : first + _TOGETHER]):
                try:
                    found, lines[one.path] = self._of_image(root, one)
                    done.append(found)
                except (EmcfError, OSError) as error:
                    what = f"{one.path} is not measured anew: {error}"
                    worker.emit_when_possible(WarningGiven(message=what))
            self._table.append([line for of_one in lines.values() for line in of_one])
            self._ledger.measured(done, [self._act(one) for one in done if lines[one.path]])
            self._table.keep_newest(lines)

    def _act(self, one: Judged) -> Act:
        output = self._ledger.output
        masks = {
            str(file.relative_to(output.absolute())): digest_of_output(file)
            for file in masks_of(output, one)
        }
        recipe = self._ledger.recipe
        return act_of("measured", image=one.path, content=one.digest, masks=masks, recipe=recipe)

    def _of_image(self, root: Path, one: Judged) -> tuple[Judged, list[Line]]:
        masks = masks_of(self._ledger.output, one)
        planes = list(one.numbers) or [""]
        if not self._project.hotfolder.measure:
            return one, []
        if len(masks) != len(planes):
            what = f"has {len(masks)} masks for {len(planes)} planes"
            raise InputError(one.path, what, "Remove its masks: they are made anew")
        numbers: dict[str, dict[str, float]] = {}
        lines: list[Line] = []
        for plane, mask in zip(planes, masks, strict=True):
            ref = ImageRef(path=root / one.path, plane=int(plane) if plane else None)
            found, line = self._of_plane(ref, mask, one.path, one.numbers.get(plane, {}))
            numbers[plane] = found
            lines.append(line)
        return msgspec.structs.replace(one, numbers=numbers), lines

    def _of_plane(
        self, ref: ImageRef, mask: Path, name: str, known: dict[str, float]
    ) -> tuple[dict[str, float], Line]:
        normaliser = Normaliser(**msgspec.structs.asdict(self._card.normaliser))
        image = open_image(ref, normaliser, self._card.network.in_channels)
        with Image.open(mask) as opened:
            mask_HW = np.asarray(opened)
        if mask_HW.shape != image.size:
            what = f"is {mask_HW.shape[1]} × {mask_HW.shape[0]}, its image another size"
            raise InputError(mask, what, "Remove the mask: it is made anew")
        objects = read_numbers(ImageRef(path=mask)) if self._card.instances else None
        classes = of_classes(mask_HW, area_of(image.pixel_nm), self._card, objects)
        grey, confidence = grey_values(image), known.get("confidence", float("nan"))
        line = measured(
            name if ref.plane is None else f"{name}#{ref.plane}",
            image.pixel_nm,
            image.size,
            confidence,
            unlike_training(image, confidence, self._card, grey),
            classes,
        ) | {key: f"{value:.6g}" for key, value in grey.named().items()}
        return known | grey.named() | numbers_of_objects(classes), line
