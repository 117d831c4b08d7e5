"""GeoJSON of QuPath: polygons with holes, one file an image."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.annotations.draw import Region
from emcfsys_engine.annotations.shapes import Annotation, Shape, points_array
from emcfsys_engine.files import write_whole

UNCLASSIFIED = "Unclassified"


def is_geojson(document: object) -> bool:
    """Tell whether a JSON document is GeoJSON: a collection, a feature or a list of features."""
    if isinstance(document, list):
        return bool(document) and is_geojson(document[0])
    return isinstance(document, dict) and document.get("type") in ("FeatureCollection", "Feature")


def read(path: Path, document: Any) -> list[Annotation]:
    """Return the one annotation of a GeoJSON file; its image is the one with the file's name."""
    features = document if isinstance(document, list) else document.get("features", [document])
    shapes: list[Shape] = []
    notes: list[str] = []
    for number, feature in enumerate(features, start=1):
        label = _label(feature.get("properties") or {})
        shapes += _shapes(path, f"feature {number} ({label})", label, feature["geometry"], notes)
    return [
        Annotation(
            file=path,
            format="GeoJSON",
            image_name="",
            size_HW=None,
            shapes=tuple(shapes),
            notes=tuple(notes),
        )
    ]


def _label(properties: Mapping[str, Any]) -> str:
    found = properties.get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        return str(found.get("name") or (": ".join(map(str, names)) if names else UNCLASSIFIED))
    for key in ("class", "label", "name"):
        if isinstance(properties.get(key), str):
            return properties[key]
    return UNCLASSIFIED


def _shapes(
    path: Path, what: str, label: str, geometry: Mapping[str, Any], notes: list[str]
) -> Iterable[Shape]:
    kind, coordinates = geometry["type"], geometry.get("coordinates", ())
    if kind in ("Polygon", "MultiPolygon"):
        for polygon in [coordinates] if kind == "Polygon" else coordinates:
            rings = tuple(_ring(path, what, ring) for ring in polygon)
            if rings and len(rings[0]) >= 3:
                yield Shape(label=label, kind="rings", rings=rings)
    elif kind in ("LineString", "MultiLineString"):
        for line in [coordinates] if kind == "LineString" else coordinates:
            yield Shape(label=label, kind="linestrip", rings=(_ring(path, what, line),))
    elif kind in ("Point", "MultiPoint"):
        for point in [coordinates] if kind == "Point" else coordinates:
            yield Shape(label=label, kind="point", rings=(_ring(path, what, [point]),))
    elif kind == "GeometryCollection":
        for part in geometry.get("geometries", ()):
            yield from _shapes(path, what, label, part, notes)
    else:
        notes.append(f"{what} is a {kind}, which is not drawn")


def _ring(path: Path, what: str, points: Any) -> np.ndarray:
    ring = points_array(path, what, [point[:2] for point in points])
    # GeoJSON repeats the first point at the end.
    return ring[:-1] if len(ring) > 3 and (ring[0] == ring[-1]).all() else ring


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
