"""Masks and their companions on the disk: how they are named, and how they are written whole."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.writer import (
    LABELME_OPENS,
    LabelFormat,
    LabelWriter,
    write_png,
)
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef, Micrograph
from emcfsys_engine.images.normalise import to_8_bit
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.images.writers import PngWriter, RowWriter, companion, stem_of, writer_for
from emcfsys_engine.learn.inference.bands import Band, OpenImage
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


SUFFIXES = {
    "png": "png",
    "tif": "tif",
    "tiff": "tif",
    "ome-tiff": "ome.tif",
    "ome-zarr": "ome.zarr",
}


class OutputNames:
    """Where each image's mask goes: the input's sub-folders are mirrored, no two share a name."""

    def __init__(
        self, out: Path, refs: Sequence[ImageRef], inputs: Sequence[str], suffix: str
    ) -> None:
        self._out = out
        self._suffix = suffix
        self._roots = sorted((Path(place) for place in inputs), key=lambda p: -len(p.parts))
        paths = {ref.path for ref in refs}
        self._stems = Counter(self._folder(path) / self._stem(path) for path in paths)

    def mask_of(self, ref: ImageRef) -> Path:
        """Return the mask's file: `sub/x.png`, `sub/x.dm4.png` on a collision, `x.0012.png`."""
        place = self._folder(ref.path) / self._stem(ref.path)
        stem = ref.path.name if self._stems[place] > 1 else place.name
        plane = "" if ref.plane is None else f".{ref.plane:04d}"
        return place.with_name(f"{stem}{plane}.{self._suffix}")

    def _stem(self, path: Path) -> str:
        """Return the name without its suffix; `x.ome.tif` gives no `x.ome.ome.tif`."""
        is_ome = self._suffix.startswith("ome.")
        return path.stem.removesuffix(".ome") if is_ome else path.stem

    def _folder(self, path: Path) -> Path:
        for root in self._roots:
            if root in path.parents:
                return self._out / path.parent.relative_to(root)
        return self._out


@dataclass(frozen=True, kw_only=True)
class Companions:
    """What is written beside a mask."""

    overlay: bool = False
    probabilities: bool = False
    uncertainty: bool = False


class OutputSet:
    """The files of one image, written band by band; they get their names together, at the end.

    A mask that is there means that all is there: it comes last.
    Shapes: view(first, last) gives rows of the picture as people see it, h×W uint8.
    Raises: InputError when the folder cannot be written or the disk is full; nothing of this image
    is left behind then.
    """

    def __init__(
        self,
        mask_file: Path,
        size_HW: tuple[int, int],
        pixel_nm: tuple[float, float] | None,
        card: ModelCard,
        wanted: Companions,
        view: Callable[[int, int], np.ndarray] | None = None,
    ) -> None:
        self.mask_file = mask_file
        self._card = card
        self._view = view
        self._wanted = wanted
        self._writers: dict[str, RowWriter] = {}
        self._guarded(lambda: self._open(size_HW, pixel_nm))

    def _open(self, size_HW: tuple[int, int], pixel_nm: tuple[float, float] | None) -> None:
        mask, writers = self.mask_file, self._writers
        mask.parent.mkdir(parents=True, exist_ok=True)
        if self._wanted.overlay:
            writers["overlay"] = PngWriter(
                companion(mask, "overlay"), size_HW, pixel_nm, channels=3, is_smooth=True
            )
        if self._wanted.uncertainty:
            writers["uncertainty"] = PngWriter(
                companion(mask, "uncertainty"), size_HW, pixel_nm, is_smooth=True
            )
        if self._wanted.probabilities:
            for name in self._card.classes:
                kind = f"prob-{name.replace('/', '_')}"
                writers[f"prob {name}"] = PngWriter(companion(mask, kind), size_HW, is_smooth=True)
        writers["mask"] = writer_for(mask, size_HW, pixel_nm)

    def add(self, band: Band) -> None:
        """Write the next rows; none once it was given up."""
        if not self._writers:
            return
        self._guarded(lambda: self._add(band))

    def _add(self, band: Band) -> None:
        writers = self._writers
        if self._wanted.overlay and self._view is not None:
            grey = self._view(band.first, band.first + len(band.mask))
            writers["overlay"].write(blend(grey, band.mask, self._card))
        if band.uncertainty is not None and "uncertainty" in writers:
            writers["uncertainty"].write(band.uncertainty)
        if band.probabilities is not None and self._wanted.probabilities:
            for name, plane in zip(self._card.classes, band.probabilities, strict=True):
                writers[f"prob {name}"].write(plane)
        writers["mask"].write(band.mask)

    def finish(self) -> None:
        """Give all files their names, the mask last."""
        self._guarded(self._finish)

    def _finish(self) -> None:
        for name in list(self._writers):
            self._writers[name].finish()
            del self._writers[name]

    def abort(self) -> None:
        """Leave nothing behind that is not whole."""
        while self._writers:
            self._writers.popitem()[1].abort()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self.abort()
            why = error.strerror or str(error)
            remedy = "Free some space or check the folder's permissions, then predict again"
            raise InputError(self.mask_file, f"cannot be written: {why}", remedy) from None
        except BaseException:
            self.abort()
            raise


def write_outputs(
    mask_file: Path, micrograph: Micrograph, mask_HW: np.ndarray, card: ModelCard, *, overlay: bool
) -> None:
    """Write the mask of an image in memory, and its overlay before.

    Raises: InputError when the folder cannot be written or the disk is full.
    """
    size = (mask_HW.shape[0], mask_HW.shape[1])
    counts = np.zeros(0, np.int64)
    view = _view_of(micrograph) if overlay else None
    outputs = OutputSet(
        mask_file, size, micrograph.pixel_nm, card, Companions(overlay=overlay), view
    )
    outputs.add(Band(first=0, mask=mask_HW, counts=counts, sure=0.0))
    outputs.finish()


def blend(
    grey_HW: np.ndarray, mask_HW: np.ndarray, card: ModelCard, opacity: float = 0.4
) -> np.ndarray:
    """Return the micrograph with its classes laid over in colour; the first class stays grey.

    Shapes: grey is H×W uint8, mask H×W class values; the result is H×W×3 uint8.
    """
    # Every (class, grey) has one colour: a table is exact, and cheaper than arithmetic on pixels.
    table = np.repeat(np.arange(256, dtype=np.float32)[None, :, None], 256, axis=0)
    table = np.repeat(table, 3, axis=2)
    for value, colour in list(zip(card.class_values, card.colours, strict=True))[1:]:
        table[value] = table[value] * (1 - opacity) + np.asarray(colour, np.float32) * opacity
    return table.astype(np.uint8)[mask_HW, grey_HW]


def _view_of(micrograph: Micrograph) -> Callable[[int, int], np.ndarray]:
    grey = to_8_bit(micrograph.pixels, micrograph.info_bar_rows)
    if grey.ndim == 3:
        grey = grey.mean(axis=2).astype(np.uint8)
    return lambda first, last: grey[first:last]
