"""ImageJ regions: .roi files and RoiSet.zip archives, composites with holes, slices of stacks."""

import io
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import roifile

from emcfsys_engine.annotations.draw import Region
from emcfsys_engine.annotations.pairing import bare_name
from emcfsys_engine.annotations.shapes import Annotation, Shape, ShapeKind
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.files import write_whole

_LARGEST_ROI_BYTES = 64 << 20
_LARGEST_SET_BYTES = 512 << 20
_MOST_ROIS = 200_000
_AUTOMATIC_NAME = re.compile(r"\d{4}-\d{4}(-\d{4})*|[A-Za-z]?\d*")
_NUMBERED = re.compile(r"[ _\-.#]*\d+$")
_AREAS = ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")
_LINES = ("LINE", "FREELINE", "POLYLINE", "ANGLE")


def read(path: Path, _start: bytes) -> list[Annotation]:
    """Return the regions of a file, one annotation a slice where they lie on slices of a stack.

    A label is the region's name without its number ("mito-12" is mito), else its group.
    """
    by_slice: defaultdict[int, list[Shape]] = defaultdict(list)
    notes: list[str] = []
    for name, data in _members(path):
        roi = _roi(path, name, data)
        shape = _shape(path, roi, name)
        if shape is None:
            notes.append(
                f"region {name} is a {roi.roitype.name.lower()} without an area: not drawn"
            )
            continue
        position = max(int(roi.z_position), int(roi.position), 0)
        by_slice[position].append(shape)
    on_slices = max(by_slice, default=0) > 1
    if not on_slices:
        by_slice = defaultdict(list, {0: [s for shapes in by_slice.values() for s in shapes]})
    return [
        Annotation(
            file=path,
            format="ImageJ ROI",
            image_name=bare_name(path.name),
            size_HW=None,
            shapes=tuple(shapes),
            notes=tuple(notes),
            plane=position - 1 if on_slices and position else None,
        )
        for position, shapes in sorted(by_slice.items())
    ]


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every region's name and bytes; an archive is read in memory, never unpacked to disk."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"Iout":
        yield path.stem, _bounded(path)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.lower().endswith(".roi")]
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


def _shape(path: Path, roi: roifile.ImagejRoi, name: str) -> Shape | None:
    kind: ShapeKind
    word = roi.roitype.name
    if word in _AREAS:
        kind = "rings"
    elif word in _LINES:
        kind = "linestrip"
    elif word == "POINT":
        kind = "point"
    else:
        return None
    try:
        found = roi.coordinates(multi=True)
    except Exception:  # the same: a composite with torn paths
        raise AnnotationError(path, f"holds a damaged region {name}", "Save it again") from None
    rings = tuple(np.asarray(ring, np.float64) for ring in found if len(ring))
    if not rings or not all(np.isfinite(ring).all() for ring in rings):
        return None
    if kind == "rings" and max(len(ring) for ring in rings) < 3:
        return None
    if kind == "linestrip" and len(rings[0]) < 2:
        return None
    return Shape(label=_label(roi, name), kind=kind, rings=rings)


def _label(roi: roifile.ImagejRoi, file_name: str) -> str:
    name = (roi.name or file_name).strip()
    if not _AUTOMATIC_NAME.fullmatch(name):
        return _NUMBERED.sub("", name) or name
    return f"group {roi.group}" if int(roi.group) > 0 else "roi"


_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # path segments of java.awt.geom.PathIterator


def write_imagej(
    file: Path, regions: Iterable[Region], names: Mapping[int, str], *, plane: int | None = None
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
            archive.writestr(f"{_file_name(name)}.roi", roi.tobytes())
    write_whole(file, packed.getvalue())


def _written_roi(region: Region, name: str) -> roifile.ImagejRoi:
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
