"""Outlines beside the masks of a prediction: Labelme, COCO, GeoJSON, ImageJ.

H and W pixels.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.writer import (
    LABELME_OPENS,
    LabelFormat,
    LabelWriter,
    write_png,
)
from emcfsys_engine.images.companions import companion, stem_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.learn.inference.bands import Band
from emcfsys_engine.learn.inference.opened import OpenImage
from emcfsys_engine.model_card import ModelCard


class VectorOutputs:
    """Keeps the rows of each mask until it is whole, then writes its outlines.

    Outlines need the whole mask in memory: one byte a pixel, and that of the largest regions.
    """

    def __init__(self, out: Path, formats: Sequence[LabelFormat], card: ModelCard) -> None:
        self._out = out
        self._rows: dict[Path, list[np.ndarray]] = {}
        classes = dict(zip(card.classes, card.class_values, strict=True))
        self._writers = [
            LabelWriter(out=out, to=to, classes=classes, background=card.class_values[0])
            for to in dict.fromkeys(formats)
        ]

    def add(self, mask_file: Path, band: Band) -> None:
        """Keep some rows."""
        if self._writers:
            self._rows.setdefault(mask_file, []).append(band.mask)

    def forget(self, mask_file: Path) -> None:
        """Give up a mask that did not become whole."""
        self._rows.pop(mask_file, None)

    def write(self, ref: ImageRef, mask_file: Path, image: OpenImage) -> None:
        """Write the outlines of an image that is whole.

        Labelme opens few formats: for others a picture is written that its file points to.
        """
        if not self._writers:
            return
        mask_HW = np.concatenate(self._rows.pop(mask_file))
        for writer in self._writers:
            shown = ref.path
            plain = ref.plane is None and ref.path.suffix.lower() in LABELME_OPENS
            if writer.to == "labelme" and not plain:
                shown = companion(mask_file, "view")
                write_png(shown, image.view(0, len(mask_HW)))
            self._write(writer, ref, mask_file, mask_HW, shown)

    def finish(self, others: Iterable[tuple[ImageRef, Path]]) -> None:
        """Write what can only be written at the end: COCO's one file, masks of before included."""
        for writer in self._writers:
            if writer.to != "coco":
                continue
            for ref, mask_file in others:
                mask_HW = read_micrograph(ImageRef(path=mask_file)).pixels
                self._write(writer, ref, mask_file, mask_HW, ref.path)
            writer.finish()

    def _write(
        self, writer: LabelWriter, ref: ImageRef, mask_file: Path, mask_HW: np.ndarray, shown: Path
    ) -> None:
        place = mask_file.with_name(stem_of(mask_file)).relative_to(self._out)
        writer.write(str(place), mask_HW, image=shown, plane=ref.plane)
