"""GeoJSON of QuPath: polygons with holes, one file an image."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine import any_names
from emcfsys_engine.annotations.draw import DrawnRegion
from emcfsys_engine.annotations.planes import StackPlace
from emcfsys_engine.annotations.shapes import Annotation, Gathering, Shape, ShapeKind, points_array
from emcfsys_engine.files import write_whole
from emcfsys_engine.text import how_many

_GEOMETRIES = (
    "Polygon", "MultiPolygon", "LineString", "MultiLineString", "Point", "MultiPoint",
)  # fmt: skip
UNCLASSIFIED = "Unclassified"


def is_geojson(document: object) -> bool:
    """Tell whether a JSON document is GeoJSON: a collection, a feature or a list of features."""
    if isinstance(document, list):
        return bool(document) and is_geojson(document[0])
    return isinstance(document, dict) and document.get("type") in ("FeatureCollection", "Feature")


def read(path: Path, document: Any) -> list[Annotation]:
    """Return the one annotation of a GeoJSON file; its image is the one with the file's name."""
    features = document if isinstance(document, list) else document.get("features", [document])
    found = Gathering()
    # QuPath leaves the first plane unsaid: a feature without a plane lies there, if any has one.
    stacked = any(_plane(feature) is not None for feature in features)
    for number, feature in enumerate(features, start=1):
        feature = feature if isinstance(feature, dict) else {}
        label = _label(feature.get("properties") or {})
        place = (_plane(feature) or StackPlace(slice=1, frame=1)) if stacked else None
        reader = _Feature(path=path, label=label, place=place, found=found)
        reader.read(f"feature {number} ({label})", feature.get("geometry"))
    return [
        Annotation(
            file=path,
            format="GeoJSON",
            image_name="",
            size_HW=None,
            shapes=tuple(found.shapes),
            skipped=tuple(found.skipped),
        )
    ]


def _plane(feature: object) -> StackPlace | None:
    """Return QuPath's plane, which counts from 0; channel -1 is every channel."""
    if not isinstance(feature, dict):
        return None
    geometry = feature.get("geometry")
    given = geometry.get("plane") if isinstance(geometry, dict) else None
    given = given or feature.get("plane")
    if not isinstance(given, dict):
        return None
    channel, slice_, frame = (
        int(given.get(key, low)) for key, low in (("c", -1), ("z", 0), ("t", 0))
    )
    return StackPlace(channel=channel + 1, slice=slice_ + 1, frame=frame + 1)


def _label(properties: Mapping[str, Any]) -> str:
    found = properties.get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        return str(found.get("name") or (": ".join(map(str, names)) if names else UNCLASSIFIED))
    for key in ("class", "label", "name"):
        if isinstance(properties.get(key), str):
            return properties[key]
    return UNCLASSIFIED


@dataclass(frozen=True, kw_only=True)
class _Feature:
    """Reads the geometry of one feature."""

    path: Path
    label: str
    place: StackPlace | None
    found: Gathering

    def read(self, what: str, geometry: Any) -> None:
        """Draw each part of a geometry, or skip it with its reason."""
        if not isinstance(geometry, dict) or not geometry.get("type"):
            self._skip(f"{what} has no geometry", in_doubt=True)
            return
        kind, coordinates = geometry["type"], geometry.get("coordinates") or []
        single = not kind.startswith("Multi")
        parts = [coordinates] if single else coordinates
        if kind == "GeometryCollection":
            for part in geometry.get("geometries") or [None]:
                self.read(what, part)
        elif kind not in _GEOMETRIES:
            self._skip(f"{what} is a {kind}, which is not drawn", in_doubt=True)
        elif not coordinates:
            self._skip(f"{what} is a {kind} without points", in_doubt=True)
        else:
            group = what if kind == "MultiPolygon" else ""  # its polygons are one object
            for part in parts:
                self._part(what, kind.removeprefix("Multi"), part, group)

    def _part(self, what: str, kind: str, part: Any, group: str) -> None:
        if kind == "Polygon":
            rings = tuple(_ring(self.path, what, ring) for ring in part)
            if rings and len(rings[0]) >= 3:
                self._draw("rings", rings, group)
            else:
                self._skip(
                    f"{what} is a polygon of {how_many(len(rings[0]) if rings else 0, 'point')}"
                )
        elif kind == "LineString":
            line = _ring(self.path, what, part)
            if len(line) > 1:
                self._draw("linestrip", (line,))
            else:
                self._skip(f"{what} is a line of {how_many(len(line), 'point')}")
        else:
            self._draw("point", (_ring(self.path, what, [part]),))

    def _draw(self, kind: ShapeKind, rings: tuple[np.ndarray, ...], group: str = "") -> None:
        self.found.draw(
            Shape(label=self.label, kind=kind, rings=rings, place=self.place, group=group)
        )

    def _skip(self, why: str, *, in_doubt: bool = False) -> None:
        self.found.skip(self.label, why, in_doubt=in_doubt, place=self.place)


def _ring(path: Path, what: str, points: Any) -> np.ndarray:
    ring = points_array(path, what, [point[:2] for point in points])
    # GeoJSON repeats the first point at the end.
    return ring[:-1] if len(ring) > 3 and (ring[0] == ring[-1]).all() else ring


def write_geojson(file: Path, regions: Iterable[DrawnRegion], names: Mapping[int, str]) -> None:
    """Write the regions of one image; the file's name says which. Units: pixels."""
    features = [_feature(region, names[region.class_id]) for region in regions]
    document = {"type": "FeatureCollection", "features": features}
    write_whole(file, any_names.for_others(document))


def _feature(region: DrawnRegion, name: str) -> dict[str, Any]:
    parts = [[_closed(ring) for ring in part] for part in region.polygons()]
    kind, coordinates = ("Polygon", parts[0]) if len(parts) == 1 else ("MultiPolygon", parts)
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def _closed(ring: np.ndarray) -> list[list[float]]:
    points = [[round(float(x), 2), round(float(y), 2)] for x, y in ring]
    return [*points, points[0]]
