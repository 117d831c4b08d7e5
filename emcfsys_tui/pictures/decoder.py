"""A child process that looks at images for the interface: nothing it does can freeze a key.

`list PROJECT` writes one JSON line after the other: the images with their labels, then their sizes.
`serve` answers one JSON line a request with one JSON line, followed by the bytes it announces.
"""

import os
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from PIL import Image

from emcfsys_engine import any_names
from emcfsys_engine.annotations.formats.labelme import waiting_suggestions
from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.dataset.deals import planned
from emcfsys_engine.dataset.follow import labelled_now
from emcfsys_engine.dataset.samples import Sample, gather, read_labels
from emcfsys_engine.dataset.source_images import plain_names
from emcfsys_engine.dataset.sources import LabelRef
from emcfsys_engine.errors import EmcfError, printable
from emcfsys_engine.images.micrograph import ImageRef, Micrograph
from emcfsys_engine.images.normalise import to_8_bit, to_grey
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.images.walk import stamp_of
from emcfsys_engine.project import UNLABELLED, Project, load_project
from emcfsys_engine.run.folder import list_runs
from emcfsys_tui.pictures.drawing import Mosaics, Shown, classes_of, drawn
from emcfsys_tui.pictures.encoders import encoded
from emcfsys_tui.pictures.protocol import Answer, PictureRequest, Reply, drawn_px, fit, room

_PANELS = ("image", "truth", "prediction", "error")
_GAP_PX = 2
_SATURATED = 60  # between the strongest and the weakest of red, green, blue
_LEAST_SHARE = 0.2  # of a cell, from which on a colour fills it
_MOST_COLOURS = 64


def strip_reply(request: PictureRequest) -> Reply:
    """Return a preview's four panels, in a row or two by two, whichever is larger in this room.

    Raises: OSError for what is no picture.
    """
    with Image.open(request.path) as opened:
        strip = opened.convert("RGB")
    rows = _rows_of_panels(strip.size, request)
    picture = _arranged(strip, rows)
    width, height = picture.size
    left, top, wide, high = fit(
        request.view or (0.0, 0.0, float(width), float(height)), width, height
    )
    answer = Answer(
        key=request.key,
        image_px=(width, height),
        view_px=(left, top, wide, high),
        point=_panel_words(request.point, picture.size, rows),
        channels=3,
    )
    if request.point is not None or request.width < 1 or request.height < 1:
        return Reply(answer)
    num_x, num_y = room(request, wide, high)
    box = (left, top, left + wide, top + high)
    graphic = b""
    if request.drawing is not None:
        sharp = _sized(picture, drawn_px(request.drawing, num_x, num_y), box)
        graphic = encoded(sharp, request.drawing)
    full = msgspec.structs.replace(answer, width=num_x, height=num_y, drawing=request.drawing)
    return Reply(full, _sized(picture, (num_x, num_y), box).tobytes(), graphic=graphic)


def _sized(
    picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    if size[0] < box[2] - box[0]:
        return Image.fromarray(_reduced(picture, size, box))
    return picture.resize(size, Image.Resampling.NEAREST, box=box)


def _reduced(
    picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
    """Return a smaller picture in which class colours stay pure, and thin outlines stay seen.

    Shapes: H×W×3 uint8, H and W of `size` (width, height).
    """

    def mean(plane_HW: np.ndarray) -> np.ndarray:
        plane = Image.fromarray(plane_HW.astype(np.float32))
        return np.asarray(plane.resize(size, Image.Resampling.BOX, box=box))

    rgb = np.asarray(picture).astype(np.int32)
    is_coloured = rgb.max(axis=2) - rgb.min(axis=2) > _SATURATED
    plain = mean(np.where(is_coloured, 0, rgb.mean(axis=2)))
    shade = plain / np.maximum(mean(~is_coloured), 1e-3)
    small = np.repeat(np.clip(shade, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    best = np.full(small.shape[:2], _LEAST_SHARE, np.float32)
    for number in np.unique(packed[is_coloured])[:_MOST_COLOURS]:
        share = mean(packed == number)
        colour = (int(number) >> 16, int(number) >> 8 & 255, int(number) & 255)
        small[share > best] = colour
        best = np.maximum(best, share)
    return small


def _rows_of_panels(size: tuple[int, int], request: PictureRequest) -> int:
    """Return 1 or 2: how many rows of panels make them larger."""
    wide, high = max(1, request.width), max(1, request.height)
    in_row = min(wide / size[0], high / size[1])
    in_square = min(2 * wide / size[0], high / (2 * size[1]))
    return 2 if in_square > in_row else 1


def _arranged(strip: Image.Image, rows: int) -> Image.Image:
    if rows == 1:
        return strip
    width, height = (strip.width - _GAP_PX) // 2, strip.height
    square = Image.new("RGB", (width, 2 * height + _GAP_PX), (255, 255, 255))
    square.paste(strip.crop((0, 0, width, height)), (0, 0))
    right = strip.crop((width + _GAP_PX, 0, strip.width, height))
    square.paste(right, (0, height + _GAP_PX))
    return square


def _panel_words(point: tuple[int, int] | None, size: tuple[int, int], rows: int) -> str:
    if point is None or not (0 <= point[0] < size[0] and 0 <= point[1] < size[1]):
        return ""
    columns = 4 // rows
    wide, high = size[0] / columns, size[1] / rows
    across, down = int(point[0] / wide), int(point[1] / high)
    x, y = point[0] - round(across * wide), point[1] - round(down * high)
    return f"{_PANELS[down * columns + across]} {x},{y}"


_CHUNK = 500
_KEPT = 6  # decoded images, for zooming and going back and forth


class _Shown(Shown, kw_only=True):
    micrograph: Micrograph
    note: str


class Viewer:
    """Decodes images and keeps the last few."""

    def __init__(self) -> None:
        self._shown: OrderedDict[object, _Shown] = OrderedDict()
        self._projects: dict[str, Project] = {}
        self._mosaics = Mosaics()

    def answer(self, request: PictureRequest) -> Reply:
        """Return what is asked for; what cannot be read is said in the answer."""
        try:
            if request.is_strip:
                return strip_reply(request)
            if request.mosaic >= 0:
                return self._mosaics.answer(request)
            shown = self._look(request)
        except EmcfError as error:
            return Reply(Answer(key=request.key, fault=printable(str(error))))
        except (MemoryError, OSError, ValueError) as error:
            return Reply(Answer(key=request.key, fault=printable(f"{request.path}: {error}")))
        height, width = shown.grey.shape
        point = _point_words(shown, request.point)
        pixel_nm = shown.micrograph.pixel_nm
        answer = Answer(
            key=request.key,
            image_px=(width, height),
            pixel_nm=pixel_nm[1] if pixel_nm else self._project_nm(request),
            classes=shown.classes,
            point=point,
            info=shown.note,
        )
        if request.point is not None or request.width < 1 or request.height < 1:
            return Reply(answer)
        return drawn(answer, shown, request)

    def _look(self, request: PictureRequest) -> _Shown:
        key = (
            request.path,
            request.plane,
            repr(request.label),
            request.mask,
            *map(_stamp, (request.path, request.mask, request.project)),
            *map(_stamp, _files_of(request.label)),
        )
        if key not in self._shown:
            self._shown[key] = self._decode(request)
            while len(self._shown) > _KEPT:
                self._shown.popitem(last=False)
        self._shown.move_to_end(key)
        return self._shown[key]

    def _decode(self, request: PictureRequest) -> _Shown:
        ref = ImageRef(path=Path(request.path), plane=request.plane)
        micrograph = read_micrograph(ref)
        grey = to_8_bit(to_grey(micrograph.pixels), micrograph.info_bar_rows)
        shape = (grey.shape[0], grey.shape[1])
        project = self._project(request)
        classes = (
            tuple(zip(project.class_values, project.class_names, strict=True)) if project else ()
        )
        if request.model:
            classes = classes_of(Path(request.model))
        ids, note = None, ""
        try:
            if request.mask:
                ids = _mask(Path(request.mask), shape)
            elif project is not None:
                ids = _labels(request, ref, project, shape)
        except EmcfError as error:
            note = printable(str(error))
        return _Shown(micrograph=micrograph, grey=grey, ids=ids, note=note, classes=classes)

    def _project(self, request: PictureRequest) -> Project | None:
        if not request.project:
            return None
        stamp = f"{request.project}|{_stamp(request.project)}"
        if stamp not in self._projects:
            self._projects = {stamp: load_project(Path(request.project))}
        return self._projects[stamp]

    def _project_nm(self, request: PictureRequest) -> float | None:
        project = self._project(request)
        return project.project.pixel_nm if project else None


def list_images(project_file: Path, out: BinaryIO) -> None:
    """Write the images of a project with labels and splits, then their sizes in chunks."""
    try:
        project = load_project(project_file)
        gathered = gather(project, for_training=False)
        samples = _on_their_sides(project, gathered.samples)
    except EmcfError as error:
        _write(out, {"fault": printable(str(error))})
        return
    ground = next((name for name, value in project.classes.items() if value == 0), "")
    rows = [_row(sample, project, ground) for sample in samples]
    suggested = [str(path) for path in _suggested(project)]
    notes = [printable(note) for note in gathered.notes]
    _write(out, {"images": rows, "suggested": suggested, "notes": notes})
    paths = list(dict.fromkeys(sample.image.path for sample in samples))
    for start in range(0, len(paths), _CHUNK):
        _write(out, {"facts": {str(path): _facts(path) for path in paths[start : start + _CHUNK]}})


def serve(source: BinaryIO, out: BinaryIO) -> None:
    """Answer requests until the interface is gone."""
    viewer = Viewer()
    for line in source:
        out.write(viewer.answer(any_names.decode(line, PictureRequest)).line())
        out.flush()


def main() -> None:
    """Do what the first argument says."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between our answers
    if sys.argv[1] == "list":
        list_images(Path(sys.argv[2]), out)
    else:
        serve(sys.stdin.buffer, out)


def _write(out: BinaryIO, document: dict[str, object]) -> None:
    out.write(any_names.encode(document, enc_hook=str) + b"\n")
    out.flush()


def _on_their_sides(project: Project, samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return samples on the sides where the training has them that follows the labels just now."""
    runs = reversed(list_runs(project.folder)) if project.training.follow else ()
    deal = next((deal for run in runs if run.is_alive() and (deal := planned(run.plan_file))), None)
    if deal is None:
        return samples
    side = {(one.source, one.image): one.split for one in labelled_now(project, deal).samples}
    return [replace(one, split=side.get((one.source, one.image), one.split)) for one in samples]


def _suggested(project: Project) -> list[Path]:
    """Return the images for which a model's labels wait to be corrected by a person."""
    found: list[Path] = []
    for number, source in enumerate(project.data):
        waiting = waiting_suggestions(source, project.folder)
        if waiting and source.annotations is not None:
            root = root_of(source.annotations, project.folder)
            names = plain_names(project, number)
            found += [image.path for image, name in names if root / f"{name}.json" in waiting]
    return found


def _row(sample: Sample, project: Project, ground: str) -> dict[str, object]:
    """Return a sample for the list; the background is not worth a word where there is more."""
    names = sorted(sample.classes - {ground}) or sorted(sample.classes)
    held = ", ".join(names) if sample.label is not None else ""
    return {
        "name": sample.name,
        "path": str(sample.image.path),
        "plane": sample.image.plane,
        "source": sample.source,
        "split": sample.split,
        "labels": held or ("yes" if sample.label is not None else ""),
        "label": sample.label,
        "state": _state(sample, project),
        "num_px": sum(number for _, number in sample.pixels or ()),
    }


def _state(sample: Sample, project: Project) -> str:
    if sample.label is None:
        return "none"
    is_sparse = project.data[sample.source].undrawn == "ignore"
    return "part" if is_sparse and sample.label.kind == "shapes" else "whole"


def _facts(path: Path) -> dict[str, object]:
    try:
        found = probe(path)
    except EmcfError as error:
        return {"fault": printable(str(error))}
    height, width = found.shape[:2]
    return {"size": f"{width}×{height}", "pixel_nm": found.pixel_nm[1] if found.pixel_nm else None}


def _stamp(path: str) -> tuple[object, ...]:
    return stamp_of(Path(path)) if path else ()


def _files_of(label: Any) -> list[str]:
    """Return the files that labels are in, where JSON says a LabelRef: a person saves them anew."""
    if not isinstance(label, dict):
        return []
    return [str(label.get("path", "")), *(str(mask) for _, mask in label.get("parts", ()))]


def _labels(
    request: PictureRequest, ref: ImageRef, project: Project, shape: tuple[int, int]
) -> np.ndarray | None:
    label = msgspec.convert(request.label, LabelRef | None, dec_hook=_path)
    if label is None:
        return None
    sample = Sample(
        image=ref, label=label, source=request.source, split="train", name=ref.name, group=None
    )
    return read_labels(sample, project, shape)


def _path(kind: type, value: object) -> Path:
    """Read a path in JSON, which has only text."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind)


def _mask(file: Path, shape: tuple[int, int]) -> np.ndarray:
    if file.suffix == ".zarr":
        ids = read_micrograph(ImageRef(path=file)).pixels
    else:
        with Image.open(file) as picture:
            ids = np.asarray(picture)
    if ids.ndim != 2 or ids.shape != shape:
        raise EmcfError(f"{file}: is no mask of this image")
    return ids.astype(np.uint8)


def _point_words(shown: _Shown, point: tuple[int, int] | None) -> str:
    height, width = shown.grey.shape
    if point is None or not (0 <= point[0] < width and 0 <= point[1] < height):
        return ""
    x, y = point
    value: Any = shown.micrograph.pixels[y, x]
    words = f"{x},{y}  value {'/'.join(f'{v:g}' for v in np.atleast_1d(value))}"
    if shown.ids is not None:
        number = int(shown.ids[y, x])
        names = dict(shown.classes)
        words += f"  {'unlabelled' if number == UNLABELLED else names.get(number, number)}"
    if shown.micrograph.pixel_nm is not None:
        down, across = shown.micrograph.pixel_nm
        words += f"  {x * across:,.0f} {y * down:,.0f} nm"
    return words


if __name__ == "__main__":
    main()
