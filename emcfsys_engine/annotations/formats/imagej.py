"""ImageJ regions: .roi files and RoiSet.zip archives, composites with holes, slices of stacks."""

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import roifile

from emcfsys_engine.annotations.draw import DrawnRegion
from emcfsys_engine.annotations.pairing import bare_name
from emcfsys_engine.annotations.planes import StackPlace
from emcfsys_engine.annotations.shapes import (
    Annotation,
    Gathering,
    Shape,
    ShapeKind,
    box_ring,
    ellipse_ring,
)
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.files import write_whole
from emcfsys_engine.suffixes import is_left_alone
from emcfsys_engine.text import how_many

_LARGEST_ROI_BYTES = 64 << 20
_LARGEST_SET_BYTES = 512 << 20
_MOST_ROIS = 200_000
_WIDEST_LINE_PX = 1000
# ImageJ names a region by its place, "0012-0034"; scripts give numbers alone.
_AUTOMATIC_NAME = re.compile(r"\d{3,5}-\d{3,5}(-\d{3,5})*(-\d+)?|\d*")
_ONLY_FOR_UNIQUENESS = re.compile(r"-\d+$")  # ImageJ's and ours; "phase1" is a name
_KINDS: Mapping[str, ShapeKind] = {
    **dict.fromkeys(("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED"), "rings"),
    **dict.fromkeys(("LINE", "FREELINE", "POLYLINE", "ANGLE"), "linestrip"),
    "POINT": "point",
}
_MARKS = {"TEXT": "a text", "ARROW": "an arrow", "IMAGE": "an overlaid image"}


def read(path: Path, _start: bytes) -> list[Annotation]:
    """Return the regions of a file; each knows on which planes of a stack it lies.

    A label is the region's name without the number that keeps names apart ("mito-12" is mito), else
    its group.
    """
    found = Gathering()
    for name, data in _members(path):
        _shape(path, _roi(path, name, data), name, found)
    return [
        Annotation(
            file=path,
            format="ImageJ ROI",
            image_name=bare_name(path.name),
            size_HW=None,
            shapes=tuple(found.shapes),
            skipped=tuple(found.skipped),
        )
    ]


def _place(roi: roifile.ImagejRoi) -> StackPlace | None:
    """Return where a region lies in its stack; None where it lies on every plane.

    ImageJ counts from 1, and 0 is all; hyperstacks have three numbers, plain stacks one.
    """
    channel, slice_, frame = (
        max(0, int(number)) for number in (roi.c_position, roi.z_position, roi.t_position)
    )
    if channel or slice_ or frame:
        return StackPlace(channel=channel, slice=slice_, frame=frame)
    index = max(0, int(roi.position))
    return StackPlace(index=index) if index else None


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every region's name and bytes; an archive is read in memory, never unpacked to disk."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"Iout":
        yield path.stem, _bounded(path)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if _is_roi(m.filename)]
            if len(members) > _MOST_ROIS or sum(m.file_size for m in members) > _LARGEST_SET_BYTES:
                raise AnnotationError(path, "holds more regions than can be read", "Split it")
            for member in members:
                if member.file_size > _LARGEST_ROI_BYTES:
                    raise AnnotationError(
                        path, "holds a region of unbelievable size", "Do not use it"
                    )
                with archive.open(member) as inside:
                    yield Path(member.filename).stem, inside.read(_LARGEST_ROI_BYTES)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
        raise AnnotationError(path, "is a truncated or damaged archive", "Save it again") from None
    except Exception as error:
        if type(error).__module__ != "zlib":
            raise
        raise AnnotationError(path, "is a truncated or damaged archive", "Save it again") from None


def _is_roi(member: str) -> bool:
    """Tell whether a member of an archive is a region: macOS adds halves that only look like it."""
    path = PurePosixPath(member.replace("\\", "/"))
    parts = (part for part in path.parts if part != "..")
    return path.suffix.lower() == ".roi" and not any(is_left_alone(part) for part in parts)


def _bounded(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST_ROI_BYTES:
        raise AnnotationError(path, "is a region of unbelievable size", "Do not use it")
    return path.read_bytes()


def _roi(path: Path, name: str, data: bytes) -> roifile.ImagejRoi:
    try:
        return roifile.ImagejRoi.frombytes(data)
    except Exception as error:  # roifile raises what its parsing happens to meet
        words = " ".join(str(error).split())[:80]
        what = f"holds a truncated or damaged region {name} ({words})"
        raise AnnotationError(path, what, "Save it again in ImageJ") from None


def _shape(path: Path, roi: roifile.ImagejRoi, name: str, found: Gathering) -> None:
    label, place = _label(roi, name), _place(roi)
    word = roi.roitype.name
    what = f"region {name} ({label})" if label != name else f"region {name}"
    if roi.subtype.name in _MARKS:
        why = f"{what} is {_MARKS[roi.subtype.name]}, which marks no pixels"
        found.skip(label, why, place=place)
        return
    kind = _KINDS.get(word)
    if kind is None:
        found.skip(label, f"{what} is a {word.lower()} without an area", in_doubt=True, place=place)
        return
    try:
        rings = _rings(roi)
    except Exception:  # roifile raises what its parsing meets: a composite with torn paths
        raise AnnotationError(path, f"holds a damaged region {name}", "Save it again") from None
    fewest = {"rings": 3, "linestrip": 2}.get(kind, 1)
    if not rings or not all(np.isfinite(ring).all() for ring in rings):
        frame = _frame(roi, label)
        found.skip(label, f"{what} has no points", outline=frame, in_doubt=True, place=place)
    elif max(len(ring) for ring in rings) < fewest:
        found.skip(
            label, f"{what} is a {word.lower()} of {how_many(len(rings[0]), 'point')}", place=place
        )
    else:
        full = _name(roi, name)
        width = max(0, min(int(roi.stroke_width), _WIDEST_LINE_PX)) or None
        found.draw(
            Shape(label=label, kind=kind, rings=rings, full_name=full, place=place, width_px=width)
        )


def _rings(roi: roifile.ImagejRoi) -> tuple[np.ndarray, ...]:
    """Return a region's rings.

    roifile's ovals are 0.6 % small, its rounded corners square, its sides whole pixels.
    """
    word = "" if roi.composite else roi.roitype.name
    corner = np.array((roi.left, roi.top))
    size = np.array((roi.right, roi.bottom)) - corner
    if roi.subpixelrect:  # whole numbers are these, cut
        corner, size = np.array((roi.xd, roi.yd)), np.array((roi.widthd, roi.heightd))
    half, middle = size / 2, corner + size / 2
    if word == "OVAL":
        return (ellipse_ring((middle[0], middle[1]), (half[0], half[1]), 0.0),)
    if word == "RECT":
        radii = np.minimum(max(0, roi.rounded_rect_arc_size) / 2, half)
        if not radii.any():
            return (box_ring(*corner, *(corner + size)),)
        corners = ellipse_ring((0.0, 0.0), (radii[0], radii[1]), 0.0)
        return (middle + corners + np.where(corners >= 0, 1, -1) * (half - radii),)
    return tuple(np.asarray(ring, np.float64) for ring in roi.coordinates(multi=True) if len(ring))


def _frame(roi: roifile.ImagejRoi, label: str) -> Shape | None:
    """Return the box around a region, as its header says it."""
    sides = (roi.left, roi.top, roi.right, roi.bottom)
    if roi.right <= roi.left or roi.bottom <= roi.top:
        return None
    return Shape(label=label, kind="rings", rings=(box_ring(*map(float, sides)),))


def _name(roi: roifile.ImagejRoi, file_name: str) -> str:
    return (roi.name or file_name).strip()


def _label(roi: roifile.ImagejRoi, file_name: str) -> str:
    name = _name(roi, file_name)
    if not _AUTOMATIC_NAME.fullmatch(name):
        return _ONLY_FOR_UNIQUENESS.sub("", name) or name
    return f"group {roi.group}" if int(roi.group) > 0 else "roi"


_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # path segments of java.awt.geom.PathIterator


def write_imagej(
    file: Path,
    regions: Iterable[DrawnRegion],
    names: Mapping[int, str],
    *,
    plane: int | None = None,
) -> None:
    """Write the regions of one image, named "class-0001" and grouped by class.

    ImageJ's ROI Manager opens the archive as it is. A plane of a stack becomes ImageJ's slice.
    """
    counts: Counter[int] = Counter()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for region in regions:
            counts[region.class_id] += 1
            name = f"{names[region.class_id]}-{counts[region.class_id]:04d}"
            roi = _written_roi(region, name)
            roi.group = region.class_id + 1  # 0 means no group
            if plane is not None:
                roi.position = plane + 1
            # Without the time of now: the same labels are the same bytes, whoever writes them.
            entry = zipfile.ZipInfo(f"{_file_name(name)}.roi")
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)
    write_whole(file, packed.getvalue())


def _written_roi(region: DrawnRegion, name: str) -> roifile.ImagejRoi:
    if len(region.rings) == 1:
        return roifile.ImagejRoi.frompoints(region.rings[0].astype(np.float32), name=name)
    points = np.concatenate(region.rings)
    low, high = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    path = np.concatenate([_path(ring) for ring in region.rings]).astype(np.float32)
    return roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT,
        name=name,
        left=int(low[0]),
        top=int(low[1]),
        right=int(high[0]),
        bottom=int(high[1]),
        shape_roi_size=len(path),
        multi_coordinates=path,
    )


def _path(ring: np.ndarray) -> np.ndarray:
    """Return a ring as move, lines and close, three numbers a point. Shapes: flat."""
    kinds = np.full(len(ring), _LINE)
    kinds[0] = _MOVE
    steps = np.column_stack((kinds, ring)).ravel()
    return np.append(steps, _CLOSE)


def _file_name(name: str) -> str:
    """Return a name that no system takes for a path."""
    return "".join("_" if character in '/\\:*?"<>|' else character for character in name)
