"""Class ids of one image after another to masks, Labelme, COCO, GeoJSON or ImageJ files."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

import msgspec
import numpy as np
from PIL import Image

from emcfsys_engine.annotations.draw import TOLERANCE_PX, DrawnRegion, regions_of, shapes_of
from emcfsys_engine.annotations.formats.coco import CocoImage, coco_image, write_coco
from emcfsys_engine.annotations.formats.geojson import write_geojson
from emcfsys_engine.annotations.formats.imagej import write_imagej
from emcfsys_engine.annotations.formats.labelme import write_labelme
from emcfsys_engine.annotations.numbered import with_own_values
from emcfsys_engine.files import write_whole
from emcfsys_engine.project import UNLABELLED

LabelFormat = Literal["masks", "labelme", "coco", "geojson", "imagej"]
LABELME_TOLERANCE_PX = 0.5
COCO_NAME = "annotations.json"
UNLABELLED_NAME = "__ignore__"  # Labelme's own word for it
_SUFFIXES: Mapping[LabelFormat, str] = {
    "masks": ".png",
    "labelme": ".json",
    "geojson": ".geojson",
    "imagej": ".zip",
}
LABELME_OPENS = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(kw_only=True)
class LabelWriter:
    """Writes labels in one format below one folder; COCO's single file at the end.

    Units: outlines stray at most tolerance_px (None: 0.5 for Labelme, else 0.3, which moves no
           pixel); regions below smallest_px are left out.
    """

    out: Path
    to: LabelFormat
    classes: Mapping[str, int]
    background: int
    tolerance_px: float | None = None
    smallest_px: int = 0
    _coco: list[tuple[CocoImage, Path | None]] = field(default_factory=list)  # of which image

    @property
    def names(self) -> dict[int, str]:
        """Class value -> name, with one for what is unlabelled."""
        # "ignore" is never a class: read back, what is unlabelled must not become one.
        word = "ignore" if UNLABELLED_NAME in self.classes else UNLABELLED_NAME
        return {value: name for name, value in self.classes.items()} | {UNLABELLED: word}

    def file_of(self, name: str) -> Path:
        """Return the file that the labels of an image are written to."""
        return file_of(self.out, self.to, name)

    def write(
        self,
        name: str,
        ids: np.ndarray,
        *,
        image: Path | None,
        plane: int | None,
        numbers: np.ndarray | None = None,
        to_file: Path | None = None,
    ) -> None:
        """Write the labels of one image; objects that are numbered are written one by one.

        `to_file` is another name in the same folder.

        Shapes: ids are uint8 H×W, numbers integers H×W.
        """
        if self.to == "coco":
            self.add(self.in_coco(name, ids, numbers), image if plane is None else None)
            return
        file = to_file or self.file_of(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        size = (ids.shape[0], ids.shape[1])
        if self.to == "masks":
            write_png(file, ids)
        elif self.to == "labelme":
            loose = LABELME_TOLERANCE_PX if self.tolerance_px is None else self.tolerance_px
            drawn, names = ids, self.names
            if numbers is not None:
                drawn, names = with_own_values(ids, numbers, self.names, self.background)
            shapes = shapes_of(
                drawn,
                names,
                background=self.background,
                tolerance_px=loose,
                smallest_px=self.smallest_px,
            )
            opens = image is not None and image.suffix.lower() in LABELME_OPENS
            shown = (
                image if image is not None and opens else file.with_name(f"{Path(name).name}.png")
            )
            write_labelme(file, shapes, size, shown)
        else:
            self._write_regions(file, ids, plane, numbers)

    def in_coco(self, name: str, ids: np.ndarray, numbers: np.ndarray | None) -> CocoImage:
        """Return the labels of one image as COCO's file has them.

        Shapes: ids are uint8 H×W, numbers integers H×W.
        """
        size = (ids.shape[0], ids.shape[1])
        return coco_image(f"{name}.png", size, self._regions(ids, numbers))

    def add(self, made: CocoImage, image: Path | None) -> None:
        """Take what `in_coco` made; `image`: the file that is labelled, unless it is of a stack."""
        self._coco.append((made, image))

    def finish(self, to_file: Path | None = None) -> bool:
        """Write what can only be written when all images are known; tell whether there was any."""
        if self._coco:
            write_coco(to_file or self.file_of(""), _named(self._coco), self.names)
        return bool(self._coco)

    def _write_regions(
        self,
        file: Path,
        ids: np.ndarray,
        plane: int | None,
        numbers: np.ndarray | None,
    ) -> None:
        regions = self._regions(ids, numbers)
        if self.to == "geojson":
            write_geojson(file, regions, self.names)
        else:
            write_imagej(file, regions, self.names, plane=plane)

    def _regions(self, ids: np.ndarray, numbers: np.ndarray | None) -> tuple[DrawnRegion, ...]:
        return tuple(
            regions_of(
                ids,
                background=self.background,
                tolerance_px=TOLERANCE_PX if self.tolerance_px is None else self.tolerance_px,
                smallest_px=self.smallest_px,
                numbers=numbers,
            )
        )


def file_of(out: Path, to: LabelFormat, name: str) -> Path:
    """Return the file below a folder that the labels of an image are written to."""
    return out / (COCO_NAME if to == "coco" else f"{name}{_SUFFIXES[to]}")


def _named(made: Sequence[tuple[CocoImage, Path | None]]) -> list[CocoImage]:
    """Call images in COCO as their files are called; those called alike, with their folders, too.

    What a mask is called may be another image's name: a.v2 is of a.tif. Of x.tif in two folders
    neither is called x.tif: it would be taken for the other.
    """
    plain = [_listed(one, image) for one, image in made]
    alike = {name for name, number in Counter(plain).items() if number > 1}
    places = [image for name, (_, image) in zip(plain, made, strict=True) if name in alike]
    depth = max((len(place.parts) for place in places if place is not None), default=0)
    for num_parts in range(2, depth):
        names = [
            "/".join(image.parts[1:][-num_parts:]) if image is not None and name in alike else name
            for name, (_, image) in zip(plain, made, strict=True)
        ]
        if len(set(names)) == len(names):
            break
    else:
        names = [
            f"{one.name.removesuffix('.png')}{image.suffix}" if image and name in alike else name
            for name, (one, image) in zip(plain, made, strict=True)
        ]
    return [
        msgspec.structs.replace(one, name=name) for name, (one, _) in zip(names, made, strict=True)
    ]


def _listed(one: CocoImage, image: Path | None) -> str:
    return one.name if image is None else (PurePath(one.name).parent / image.name).as_posix()


def write_png(file: Path, pixels: np.ndarray) -> None:
    """Write pixels as a PNG, whole or not at all.

    Shapes: uint8 H×W or H×W×3.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    write_whole(file, packed.getvalue())
