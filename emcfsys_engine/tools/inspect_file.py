"""Tell what any file is: a model file, a micrograph, an annotation file."""

from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from emcfsys_engine.annotations.files import NotAnAnnotation, read_annotations
from emcfsys_engine.annotations.shapes import Annotation
from emcfsys_engine.errors import InputError, printable
from emcfsys_engine.images.micrograph import ImageFacts, ImageRef
from emcfsys_engine.images.reader import format_of, probe, read_micrograph
from emcfsys_engine.model_card import ModelCard, read_card
from emcfsys_engine.suffixes import MICROGRAPH_SUFFIXES
from emcfsys_engine.text import few, how_many

_MOST_LABELS = 50


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a file is, and what there is to know of it."""

    file: str
    kind: Literal["micrograph", "annotation", "model"]
    format: str
    bytes: int
    shape: tuple[int, ...] = ()  # of one plane
    dtype: str = ""
    planes: int = 0
    pixel_nm: tuple[float, float] | None = None  # (y, x)
    bit_depth: int = 0
    info_bar_rows: int = 0
    lowest: float | None = None  # grey values of the first plane
    highest: float | None = None
    images: tuple[str, ...] = ()  # those an annotation file speaks of
    labels: dict[str, int] = {}  # label -> number of shapes that are drawn
    shapes_drawn: int = 0
    shapes_skipped: int = 0  # each with its reason in the notes
    model: ModelCard | None = None
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The facts for a terminal, one a line."""
        lines = [f"{self.file}: {self.kind}, {self.format}, {self.bytes:,} bytes"]
        if self.kind == "micrograph":
            lines += self._of_micrograph()
        elif self.kind == "annotation":
            lines.append(f"images: {len(self.images)} ({few(self.images, 5)})")
            drawn = f"{self.shapes_drawn} drawn, {self.shapes_skipped} skipped"
            lines.append(f"shapes: {self.shapes_drawn + self.shapes_skipped} ({drawn})")
            lines += [
                f"label {name}: {how_many(count, 'shape')}" for name, count in self.labels.items()
            ]
        elif self.model is not None:
            lines += _of_model(self.model)
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(printable(line) for line in lines)

    def _of_micrograph(self) -> list[str]:
        size = f"{self.shape[1]} × {self.shape[0]} pixels"
        colours = f", {self.shape[2]} channels" if len(self.shape) > 2 else ""
        planes, bits = how_many(self.planes, "plane"), how_many(self.bit_depth, "bit")
        lines = [f"{size}{colours}, {planes}, {self.dtype}, {bits}"]
        if self.pixel_nm is None:
            lines.append("pixel size: the file does not say")
        else:
            down, across = self.pixel_nm
            lines.append(f"pixel size: {across:.6g} nm across, {down:.6g} nm down")
        if self.lowest is not None:
            lines.append(f"values: {self.lowest:g} to {self.highest:g}")
        if self.info_bar_rows:
            lines.append(f"info bar: {how_many(self.info_bar_rows, 'row')} at the bottom")
        return lines


def inspect_file(file: Path) -> FileFacts:
    """Return what a file is; its content decides.

    Raises: InputError, in one line, when it is none of ours or damaged.
    """
    if _looks_like_a_model(file):
        card = read_card(file)
        return FileFacts(
            file=str(file),
            kind="model",
            format=f"EMCFsys model, format {card.format}",
            bytes=file.stat().st_size,
            model=card,
        )
    if format_of(file) is not None or file.suffix.lower() in MICROGRAPH_SUFFIXES:
        return _micrograph(file, probe(file))
    try:
        annotations = read_annotations(file)
    except NotAnAnnotation:
        what = "is no model file, micrograph or annotation file known here"
        raise InputError(file, what, "Name a file of one of these kinds") from None
    return _annotation(file, annotations)


def _looks_like_a_model(file: Path) -> bool:
    if file.suffix == ".safetensors":
        return True
    if not file.is_file() or file.stat().st_size < 10:
        return False
    with file.open("rb") as stream:
        start = stream.read(9)
    # safetensors: a length of 8 bytes, then its JSON header.
    return start[8:] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= 100_000_000


def _micrograph(file: Path, facts: ImageFacts) -> FileFacts:
    first = read_micrograph(ImageRef(path=file, plane=0))
    values = first.pixels[np.isfinite(first.pixels)]
    return FileFacts(
        file=str(file),
        kind="micrograph",
        format=facts.format,
        bytes=file.stat().st_size,
        shape=facts.shape,
        dtype=facts.dtype,
        planes=facts.planes,
        pixel_nm=facts.pixel_nm,
        bit_depth=facts.bit_depth,
        info_bar_rows=first.info_bar_rows,
        lowest=float(values.min()) if values.size else None,
        highest=float(values.max()) if values.size else None,
        notes=facts.notes,
    )


def _annotation(file: Path, annotations: tuple[Annotation, ...]) -> FileFacts:
    labels = Counter(shape.label for one in annotations for shape in one.shapes)
    sizes = {one.size_HW for one in annotations if one.size_HW is not None}
    return FileFacts(
        file=str(file),
        kind="annotation",
        format=annotations[0].format if annotations else "without images",
        bytes=file.stat().st_size,
        shape=next(iter(sizes)) if len(sizes) == 1 else (),
        images=tuple(one.image_name or file.stem for one in annotations if not one.unused),
        labels=dict(labels.most_common(_MOST_LABELS)),
        shapes_drawn=sum(len(one.shapes) for one in annotations),
        shapes_skipped=sum(len(one.skipped) for one in annotations),
        notes=tuple(dict.fromkeys(said for one in annotations for said in _said(one))),
    )


def _said(annotation: Annotation) -> tuple[str, ...]:
    if not annotation.unused or annotation.skipped:
        return annotation.remarks
    return (f"{annotation.image_name or 'an image'}: {annotation.unused}", *annotation.remarks)


def _reads(channels: int) -> str:
    return "reads greys" if channels == 1 else "reads colours (red, green, blue)"


def _of_model(card: ModelCard) -> list[str]:
    network = card.network
    classes = ", ".join(
        f"{name} = {value}" for name, value in zip(card.classes, card.class_values, strict=True)
    )
    size = "any pixel size" if card.pixel_nm is None else f"{card.pixel_nm:g} nm a pixel"
    lines = [
        f"network: {network.head} on {network.backbone}, {_reads(network.in_channels)}",
        f"classes: {classes}",
        f"trained at {size} in patches of {card.patch_px} px, {card.step} steps",
    ]
    lines += [f"{name}: {value:.4f}" for name, value in card.scores.items() if value is not None]
    if card.trust is None or card.cannot_tell:
        lines.append(f"does not tell how good its masks are: {card.cannot_tell}")
    else:
        images, trials = card.trust.num_images, len(card.trust.trials)
        learned = f"learned from {how_many(images, 'image')} in {how_many(trials, 'trial')}"
        lines.append(f"tells how good its masks are, {learned}")
    if card.project or card.run:
        lines.append(f"from project {card.project}, run {card.run}, {card.created}")
    return lines
