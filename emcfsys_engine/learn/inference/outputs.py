"""Masks and their companions on the disk, written whole and together, over nobody else's files."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.numbered import all_numbered, read_numbers
from emcfsys_engine.annotations.writer import (
    LABELME_OPENS,
    LabelFormat,
    LabelWriter,
    write_png,
)
from emcfsys_engine.errors import OutputError
from emcfsys_engine.files import remedy_of, temporary_of
from emcfsys_engine.images.label_zarr import ZarrWriter
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.origins import Maker
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import (
    as_blind_disks_see,
    instances_of,
    is_ome_zarr,
    stem_of,
)
from emcfsys_engine.images.overlays import laid_over
from emcfsys_engine.images.own_files import digest_of_output, identity_of, remove
from emcfsys_engine.images.own_outputs import free_version, put_over_own
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.images.writers import (
    PngWriter,
    RowWriter,
    TiffWriter,
    companion,
    writer_for,
)
from emcfsys_engine.learn.inference.bands import Band, OpenImage
from emcfsys_engine.learn.inference.object_rows import ObjectRows, outlines
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project_tables import Inference
from emcfsys_engine.run.records import PredictRequest

_BESIDE_LINES = 0.2  # opacity of classes where objects have outlines, which are to be seen


class VectorOutputs:
    """Writes the outlines of masks that are whole.

    Outlines need the whole mask in memory: one byte a pixel, and that of the largest regions.
    """

    def __init__(
        self, out: Path, formats: Sequence[LabelFormat], card: ModelCard, book: OutputBook
    ) -> None:
        self._out = out
        self._book = book
        self.kept: set[Path] = set()  # a person's: a new version lies beside
        classes = dict(zip(card.classes, card.class_values, strict=True))
        self._background = card.class_values[0]
        self._writers = [
            LabelWriter(out=out, to=to, classes=classes, background=card.class_values[0])
            for to in dict.fromkeys(formats)
        ]

    def __bool__(self) -> bool:
        """Tell whether any outlines are wanted."""
        return bool(self._writers)

    def files(self, ref: ImageRef, mask_file: Path) -> list[Path]:
        """Return what is written for one image: COCO has one file for all."""
        found = [
            writer.file_of(self._name(mask_file)) for writer in self._writers if writer.to != "coco"
        ]
        if any(_needs_view(writer, ref) for writer in self._writers):
            found.append(companion(mask_file, "view"))
        return found

    def write(
        self, ref: ImageRef, outputs: "OutputSet", mask_HW: np.ndarray, image: OpenImage
    ) -> None:
        """Write the outlines of an image, to get their names with its mask.

        Objects that were told apart have a shape each. Labelme opens few formats: for others a
        picture is written that its file points to.
        Shapes: the mask is H×W uint8.
        """
        mask_file, numbers = outputs.mask_file, outputs.numbers()
        if numbers is not None:
            mask_HW, numbers = all_numbered(mask_HW, numbers, self._background)
        for writer in self._writers:
            shown = ref.path
            if _needs_view(writer, ref):
                shown = companion(mask_file, "view")
                outputs.stage(temporary_of(shown), shown)
                write_png(temporary_of(shown), image.view(0, len(mask_HW)))
            name = self._name(mask_file)
            if writer.to == "coco":
                writer.write(name, mask_HW, image=ref.path, plane=ref.plane, numbers=numbers)
                continue
            file = writer.file_of(name)
            temporary = temporary_of(file)
            outputs.stage(temporary, file)
            writer.write(
                name, mask_HW, image=shown, plane=ref.plane, numbers=numbers, to_file=temporary
            )

    def finish(self, others: Iterable[tuple[ImageRef, Path]]) -> None:
        """Write what can only be written at the end: COCO's one file, masks of before included.

        A file that is not ours, or that a person changed, is kept: see `kept`.
        """
        for writer in self._writers:
            if writer.to != "coco":
                continue
            for ref, mask_file in others:
                mask_HW = read_micrograph(ImageRef(path=mask_file)).pixels
                numbers = read_numbers(ImageRef(path=mask_file), must_read=True)
                if numbers is not None:
                    mask_HW, numbers = all_numbered(mask_HW, numbers, self._background)
                name = self._name(mask_file)
                writer.write(name, mask_HW, image=ref.path, plane=ref.plane, numbers=numbers)
            file = free_version(writer.file_of(""), self._book, of_image=True)
            if writer.finish(to_file=temporary_of(file)):
                commit([(temporary_of(file), file)], self._book, MadeFrom(image=self._out))
                self.kept |= {writer.file_of("")} - {file}

    def _name(self, mask_file: Path) -> str:
        return str(mask_file.with_name(stem_of(mask_file)).relative_to(self._out))


def _needs_view(writer: LabelWriter, ref: ImageRef) -> bool:
    plain = ref.plane is None and ref.path.suffix.lower() in LABELME_OPENS
    return writer.to == "labelme" and not plain


SUFFIXES = {
    "png": ".png",
    "tif": ".tif",
    "tiff": ".tif",
    "ome-tiff": ".ome.tif",
    "ome-zarr": ".ome.zarr",
}


@dataclass(frozen=True, kw_only=True)
class Companions:
    """What is written beside a mask."""

    overlay: bool = False
    probabilities: bool = False
    uncertainty: bool = False

    def files(self, mask_file: Path, card: ModelCard) -> list[Path]:
        """Return the names of a mask and of what stands beside it."""
        kinds = ["overlay"] * self.overlay + ["uncertainty"] * self.uncertainty
        if self.probabilities:
            kinds += probability_kinds(card.classes).values()
        is_beside = card.instances and not is_ome_zarr(mask_file)  # in that they are inside
        objects = [instances_of(mask_file)] if is_beside else []
        return [mask_file, *(companion(mask_file, kind) for kind in kinds), *objects]


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """What files are made of."""

    image: Path  # absolute, free of links
    content: str = ""  # its digest
    maker: Maker | None = None


class OutputSet:
    """The files of one image, written band by band; they get their names together, at the end.

    A mask that is there means that all is there: it comes last. What this program did not write,
    or a person changed, is never replaced.
    Shapes: view(first, last) gives rows of the picture as people see it, h×W uint8.
    Raises: OutputError when the folder cannot be written or the disk is full; nothing of this
    image is left behind then.
    """

    def __init__(
        self,
        mask_file: Path,
        size_HW: tuple[int, int],
        pixel_nm: tuple[float, float] | None,
        card: ModelCard,
        wanted: Companions,
        view: Callable[[int, int], np.ndarray] | None = None,
        *,
        book: OutputBook,
        origin: MadeFrom,
        corner_px: tuple[int, int] = (0, 0),
    ) -> None:
        """`corner_px`: where the mask begins in the image."""
        self.mask_file = mask_file
        self._corner = corner_px
        self._card = card
        self._of_classes = card.class_values, card.colours
        self._view = view
        self._wanted = wanted
        self._book = book
        self._origin = origin
        self._size_HW, self._pixel_nm = size_HW, pixel_nm
        self._writers: dict[str, RowWriter] = {}
        self._staged: list[tuple[Path, Path]] = []  # whole, under a temporary name; its own
        self._objects: ObjectRows | None = None  # of a model that tells them apart
        self._guarded(lambda: self._open(size_HW, pixel_nm))

    def _open(self, size_HW: tuple[int, int], pixel_nm: tuple[float, float] | None) -> None:
        mask, writers = self.mask_file, self._writers
        self._book.refuse_gone()
        mask.parent.mkdir(parents=True, exist_ok=True)
        if identity_of(mask.parent) == identity_of(self._origin.image.parent):
            raise among_originals(mask)
        if self._wanted.overlay:
            writers["overlay"] = PngWriter(
                companion(mask, "overlay"), size_HW, pixel_nm, channels=3, is_smooth=True
            )
        if self._wanted.uncertainty:
            writers["uncertainty"] = PngWriter(
                companion(mask, "uncertainty"), size_HW, pixel_nm, is_smooth=True
            )
        if self._wanted.probabilities:
            for name, kind in probability_kinds(self._card.classes).items():
                file = companion(mask, kind)
                writers[f"prob {name}"] = PngWriter(file, size_HW, is_smooth=True)
        if self._card.instances:
            self._objects = ObjectRows(mask.parent, size_HW, self._card)
        writers["mask"] = writer_for(mask, size_HW, pixel_nm, self._corner)

    def add(self, band: Band) -> None:
        """Write the next rows; none once it was given up."""
        if not self._writers:
            return
        self._guarded(lambda: self._add(band))

    def _add(self, band: Band) -> None:
        writers = self._writers
        if self._objects is not None:
            assert band.planes is not None
            self._objects.add(band.mask, band.planes)
        elif self._wanted.overlay and self._view is not None:
            grey = self._view(band.first, band.first + len(band.mask))
            writers["overlay"].write(laid_over(grey, band.mask, *self._of_classes))
        if band.uncertainty is not None and "uncertainty" in writers:
            writers["uncertainty"].write(band.uncertainty)
        if band.probabilities is not None and self._wanted.probabilities:
            for name, plane in zip(self._card.classes, band.probabilities, strict=True):
                writers[f"prob {name}"].write(plane)
        writers["mask"].write(band.mask)

    def numbers(self) -> np.ndarray | None:
        """Return the objects of all pixels, once all rows were added; None: none are told apart.

        Shapes: uint32 H×W, 0 where there is none.
        """
        objects, made = self._objects, list[np.ndarray]()
        if objects is not None:
            self._guarded(lambda: made.append(objects.whole()))
        return made[0] if made else None

    def stage(self, temporary: Path, file: Path) -> None:
        """Give a file that is whole its name with the others, or remove it with them."""
        self._staged.append((temporary, file))

    def finish(self) -> None:
        """Give all files their names, the mask last."""
        self._guarded(self._finish)

    def _write_objects(self, objects: ObjectRows) -> None:
        """Write what could not be written before all objects were known."""
        write = self._object_writer(objects.of_mask)
        for first, mask, numbers in objects.rows():
            write(numbers[1:-1])
            if self._wanted.overlay and self._view is not None:
                grey = self._view(first, first + len(mask))
                lines = outlines(numbers)
                made = laid_over(
                    grey, mask, *self._of_classes, opacity=_BESIDE_LINES, lines_HW=lines
                )
                self._writers["overlay"].write(made)
        objects.close()

    def _object_writer(self, of_mask: str) -> Callable[[np.ndarray], None]:
        """Begin what numbers the objects: labels inside an OME-Zarr mask, else a file beside it."""
        mask = self._writers["mask"]
        if isinstance(mask, ZarrWriter):
            return mask.instances(of_mask)
        file = instances_of(self.mask_file)
        self._writers["instances"] = TiffWriter(
            file, self._size_HW, self._pixel_nm, dtype=np.uint32, description=of_mask
        )
        return self._writers["instances"].write

    def _finish(self) -> None:
        if self._objects is not None:
            self._write_objects(self._objects)
        # The mask tells that all is there: it is the last.
        for name in sorted(self._writers, key=lambda name: name == "mask"):
            self._staged.append((self._writers[name].complete(), self._writers[name].file))
            del self._writers[name]
        self._book.refuse_gone()
        commit(self._staged, self._book, self._origin)
        self._staged.clear()

    def abort(self) -> None:
        """Leave nothing behind that is not whole."""
        if self._objects is not None:
            self._objects.close()
        while self._writers:
            self._writers.popitem()[1].abort()
        while self._staged:
            remove(self._staged.pop()[0])

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self._abort_quietly()
            why = error.strerror or str(error)
            remedy = f"{remedy_of(error)}, then predict again"
            raise OutputError(
                self.mask_file, f"cannot be written: {why}", remedy, errno=error.errno or 0
            ) from None
        except BaseException:
            self._abort_quietly()
            raise

    def _abort_quietly(self) -> None:
        try:
            self.abort()
        except OSError as error:  # the disk is gone: its hidden files are `runs clean`'s
            print(f"{self.mask_file.parent}: {error.strerror}", flush=True)


def maker_of(cards: Sequence[ModelCard], asked: PredictRequest | Inference) -> Maker:
    """Return what is noted of who makes masks: a model, or an ensemble, and how, if not as usual.

    Other settings make other masks; the usual ones are not named, as older versions did not.
    """
    names = [f"{one.run} step {one.step} {one.weights_digest[:12]}".strip() for one in cards]
    card, usual = cards[0], Inference()
    rescaled = getattr(asked, "rescale", False) and not card.rescales
    settings = [f"overlap {asked.overlap:g}"] if asked.overlap != usual.overlap else []
    settings += [f"tiles of {asked.tile_px} px"] if asked.tile_px else []
    settings += ["four flips"] * asked.tta + ["rescaled"] * rescaled
    return Maker(
        model=", ".join((" with ".join(names), *settings)),
        classes=dict(zip(card.classes, card.class_values, strict=True)),
    )


def among_originals(mask_file: Path) -> OutputError:
    """Return what is said of an output folder that leads to the images themselves."""
    what = "is the folder of its original, too"
    return OutputError(mask_file.parent, what, "Choose another output folder")


def commit(staged: list[tuple[Path, Path]], book: OutputBook, origin: MadeFrom) -> None:
    """Give finished files their names, in order, after their digests are written down.

    Raises: OutputError if one would replace what is not ours; OSError.
    """
    digests = {file: digest_of_output(temporary) for temporary, file in staged}
    for file in digests:
        if os.path.lexists(file) and not book.has_now(file, of_image=True):
            raise _is_kept(file)
    book.note(digests, image=origin.image, content=origin.content, maker=origin.maker)
    for temporary, file in staged:
        try:
            put_over_own(temporary, file, book, of_image=True)
        except FileExistsError:  # somebody saved it since
            raise _is_kept(file) from None


def _is_kept(file: Path) -> OutputError:
    what = "was changed, or written by somebody else"
    return OutputError(file, what, "Predict again: it is kept, and gets a new version beside")


def probability_kinds(classes: Sequence[str]) -> dict[str, str]:
    """Return what the file of each class's probability is called beside its mask; no two alike."""
    kinds: dict[str, str] = {}
    taken: set[str] = set()
    for name in classes:
        # What moves a terminal's cursor or turns its writing has no place in a file's name.
        told = "".join(one if one.isprintable() and one != "/" else "_" for one in name)
        plain = kind = f"prob-{told}"
        number = 1
        while as_blind_disks_see(kind) in taken:
            number += 1
            kind = f"{plain}~{number}"
        taken.add(as_blind_disks_see(kind))
        kinds[name] = kind
    return kinds
