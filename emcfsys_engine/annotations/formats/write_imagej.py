"""Class ids to an ImageJ RoiSet.zip: composites where there are holes."""

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import roifile

from emcfsys_engine.annotations.draw import Region
from emcfsys_engine.run.folder import write_whole

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
            roi = _roi(region, name)
            roi.group = region.class_id + 1  # 0 means no group
            if plane is not None:
                roi.position = plane + 1
            archive.writestr(f"{_file_name(name)}.roi", roi.tobytes())
    write_whole(file, packed.getvalue())


def _roi(region: Region, name: str) -> roifile.ImagejRoi:
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
