"""Class ids to GeoJSON as QuPath reads it: one polygon with its holes a region."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.annotations.draw import Region
from emcfsys_engine.run.folder import write_whole


def write_geojson(file: Path, regions: Iterable[Region], names: Mapping[int, str]) -> None:
    """Write the regions of one image; the file's name says which. Units: pixels."""
    features = [_feature(region, names[region.class_id]) for region in regions]
    document = {"type": "FeatureCollection", "features": features}
    write_whole(file, json.dumps(document, ensure_ascii=False).encode("utf-8"))


def _feature(region: Region, name: str) -> dict[str, Any]:
    rings = [_closed(ring) for ring in region.rings]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def _closed(ring: np.ndarray) -> list[list[float]]:
    points = [[round(float(x), 2), round(float(y), 2)] for x, y in ring]
    return [*points, points[0]]
