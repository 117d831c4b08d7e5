"""The law of all formats: what a file holds is drawn or skipped with a reason, and nothing else.

Random shapes are written by our writers and by the formats' own libraries, broken ones between.
"""

import base64
import io
import json
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import shapely
import shapely.affinity
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from emcfsys_engine.annotations import formats
from emcfsys_engine.annotations.draw import fill_rings
from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.check import check_project
from emcfsys_engine.tools.convert.conversion import convert_labels
from emcfsys_engine.tools.inspect_file import inspect_file
from tests.annotations.painted import rasterise

WIDTH, HEIGHT = 64, 48


@dataclass(frozen=True)
class Box:
    """A box of whole pixels, turned about its centre; broken: the format's own way of damage."""

    left: int
    top: int
    width: int
    height: int
    degrees: int = 0
    broken: bool = False

    @property
    def ring(self) -> np.ndarray:
        """The corners, turned clockwise on the screen."""
        box = shapely.box(
            self.left, self.top, self.left + self.width, self.top + self.height, ccw=False
        )
        turned = shapely.affinity.rotate(box, self.degrees, origin="center")
        return shapely.get_coordinates(turned)[:-1]

    @property
    def flat(self) -> list[float]:
        return [float(value) for value in self.ring.ravel()]


BOXES = st.lists(
    st.builds(
        Box,
        left=st.integers(4, 30),
        top=st.integers(4, 20),
        width=st.integers(2, 25),
        height=st.integers(2, 20),
        degrees=st.sampled_from((0, 30, 45, 90, 200)),
        broken=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


def labelme(boxes: Sequence[Box], file: Path) -> Path:
    """Write Labelme 6: oriented rectangles as its window does, a kind of the future as damage."""
    shapes = [
        {
            "label": "pore",
            "points": box.ring.tolist(),
            "shape_type": "spline" if box.broken else "oriented_rectangle",
        }
        for box in boxes
    ]
    document = {
        "version": "6.3.1", "shapes": shapes, "imagePath": "img.png", "imageData": None,
        "imageHeight": HEIGHT, "imageWidth": WIDTH,
    }  # fmt: skip
    return _json(file, document)


def x_anylabeling(boxes: Sequence[Box], file: Path) -> Path:
    """Write X-AnyLabeling: turned boxes of four corners, a cuboid as damage."""
    shapes = [
        {
            "label": "pore",
            "points": box.ring.tolist(),
            "shape_type": "cuboid" if box.broken else "rotation",
            "direction": np.deg2rad(box.degrees),
        }
        for box in boxes
    ]
    document = {"version": "3.2.1", "shapes": shapes, "imagePath": "img.png", "imageData": None}
    return _json(file, document | {"imageHeight": HEIGHT, "imageWidth": WIDTH})


def coco(boxes: Sequence[Box], file: Path) -> Path:
    """Write COCO, flat, nested and as pycocotools' run lengths by turns; odd numbers as damage."""
    objects: list[dict[str, Any]] = []
    for number, box in enumerate(boxes):
        rle = coco_mask.frPyObjects([box.flat], HEIGHT, WIDTH)[0]
        packed = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        forms = ([box.flat], box.flat, [[box.flat]], box.ring.tolist(), packed)
        form = [box.flat[:-1]] if box.broken else forms[number % len(forms)]
        low, high = box.ring.min(axis=0), box.ring.max(axis=0)
        objects.append(
            {
                "id": number,
                "image_id": str(7) if number % 2 else 7,
                "category_id": 3,
                "segmentation": form,
                "bbox": [*low.tolist(), *(high - low).tolist()],
            }
        )
    image = {"id": 7, "file_name": "img.png", "width": WIDTH, "height": HEIGHT}
    categories = [{"id": "3", "name": "pore"}]
    return _json(file, {"images": [image], "annotations": objects, "categories": categories})


def cvat(boxes: Sequence[Box], file: Path) -> Path:
    """Write CVAT 1.1 with rotations; cuboids as damage."""
    root = ET.Element("annotations")
    image = ET.SubElement(root, "image", name="img.png", width=str(WIDTH), height=str(HEIGHT))
    for box in boxes:
        sides = {
            "xtl": box.left, "ytl": box.top,
            "xbr": box.left + box.width, "ybr": box.top + box.height,
        }  # fmt: skip
        texts = {key: str(value) for key, value in sides.items()}
        if box.broken:
            corners = {f"{key}1": value for key, value in texts.items()}
            ET.SubElement(image, "cuboid", {"label": "pore", **corners})
        else:
            turn = {"rotation": str(box.degrees)} if box.degrees else {}
            ET.SubElement(image, "box", {"label": "pore", **texts, **turn})
    ET.ElementTree(root).write(file.with_suffix(".xml"))
    return file.with_suffix(".xml")


def label_studio(boxes: Sequence[Box], file: Path) -> Path:
    """Write Label Studio: shape and Labels apart by one id, bitmasks; no label as damage."""
    results: list[dict[str, Any]] = []
    for number, box in enumerate(boxes):
        common = {"id": f"r{number}", "original_width": WIDTH, "original_height": HEIGHT}
        points = (box.ring / (WIDTH, HEIGHT) * 100).tolist()
        value: dict[str, Any] = {"points": points, "closed": True}
        kind = "polygon"
        if number % 2:
            picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
            picture[fill_rings([box.ring], (HEIGHT, WIDTH))] = 255
            packed = io.BytesIO()
            Image.fromarray(picture).save(packed, "PNG")
            url = f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}"
            kind, value = "bitmask", {"format": "rle", "imageDataURL": url}
        results.append({**common, "type": kind, "value": value})
        if not box.broken:
            results.append({**common, "type": "labels", "value": {**value, "labels": ["pore"]}})
    annotation = {"id": 1, "was_cancelled": False, "result": results}
    return _json(file, [{"id": 1, "data": {"image": "/d/img.png"}, "annotations": [annotation]}])


def via(boxes: Sequence[Box], file: Path) -> Path:
    """Write VIA 2; a polygon of two points as damage."""
    regions = [
        {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": box.ring[: 2 if box.broken else 4, 0].tolist(),
                "all_points_y": box.ring[: 2 if box.broken else 4, 1].tolist(),
            },
            "region_attributes": {"label": "pore"},
        }
        for box in boxes
    ]
    return _json(file, {"img.png1": {"filename": "img.png", "size": 1, "regions": regions}})


def geojson(boxes: Sequence[Box], file: Path) -> Path:
    """Write GeoJSON by shapely; QuPath's features without geometry as damage."""
    features = [
        {
            "type": "Feature",
            "geometry": None if box.broken else shapely.geometry.mapping(shapely.Polygon(box.ring)),
            "properties": {"classification": {"name": "pore"}},
        }
        for box in boxes
    ]
    document = {"type": "FeatureCollection", "features": features}
    return _json(file.with_suffix(".geojson"), document)


def imagej(boxes: Sequence[Box], file: Path) -> Path:
    """Write regions by roifile into a set as Finder packs it; texts as damage."""
    with zipfile.ZipFile(file.with_suffix(".zip"), "w") as archive:
        for number, box in enumerate(boxes):
            roi = roifile.ImagejRoi.frompoints(box.ring.astype(np.float32), name=f"pore-{number}")
            if box.broken:
                roi.roitype, roi.subtype = roifile.ROI_TYPE.RECT, roifile.ROI_SUBTYPE.TEXT
            archive.writestr(f"pore-{number}.roi", roi.tobytes())
            archive.writestr(f"__MACOSX/._pore-{number}.roi", b"\0\5\x16\7")
    return file.with_suffix(".zip")


def yolo(boxes: Sequence[Box], file: Path) -> Path:
    """Write YOLO-seg: polygons in fractions; boxes as damage, as tools mix them."""
    lines: list[str] = []
    for box in boxes:
        if box.broken:
            low, high = box.ring.min(axis=0), box.ring.max(axis=0)
            numbers = [*(low + high) / 2 / (WIDTH, HEIGHT), *(high - low) / (WIDTH, HEIGHT)]
        else:
            numbers = (box.ring / (WIDTH, HEIGHT)).ravel()
        lines.append(" ".join(["0", *(f"{number:.9f}" for number in numbers)]))
    file.with_name("classes.txt").write_text("pore\n")
    file.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    return file.with_suffix(".txt")


def segment_anything(boxes: Sequence[Box], file: Path) -> Path:
    """Write segment-anything's file of one image, by pycocotools; odd numbers as damage."""
    objects: list[dict[str, Any]] = []
    for number, box in enumerate(boxes):
        rle = coco_mask.frPyObjects([box.flat], HEIGHT, WIDTH)[0]
        packed = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        form = [box.flat[:-1]] if box.broken else packed
        low, high = box.ring.min(axis=0), box.ring.max(axis=0)
        sides = [*low.tolist(), *(high - low).tolist()]
        objects.append({"id": number, "segmentation": form, "bbox": sides})
    image = {"image_id": 1, "file_name": "img.png", "width": WIDTH, "height": HEIGHT}
    return _json(file, {"image": image, "annotations": objects})


def _json(file: Path, document: object) -> Path:
    file.write_text(json.dumps(document), "utf-8")
    return file


WRITERS = (
    labelme,
    x_anylabeling,
    coco,
    cvat,
    label_studio,
    via,
    geojson,
    imagej,
    yolo,
    segment_anything,
)
Writer = Callable[[Sequence[Box], Path], Path]
LABELS = {segment_anything: "mask"}  # its objects have no class


def test_every_format_that_is_read_is_under_the_law() -> None:
    read = {file.stem for file in Path(formats.__path__[0]).glob("[a-z]*.py")}
    variants = {"x_anylabeling": "labelme", "segment_anything": "coco"}
    assert {variants.get(write.__name__, write.__name__) for write in WRITERS} == read


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@settings(max_examples=20)
@given(boxes=BOXES)
def test_every_shape_is_drawn_or_skipped_with_its_reason(
    write: Writer, tmp_path_factory: pytest.TempPathFactory, boxes: list[Box]
) -> None:
    folder = tmp_path_factory.mktemp("law")
    sound = [box for box in boxes if not box.broken]
    if write is yolo and not sound:  # boxes alone are a detection set: an error, for each of them
        with pytest.raises(AnnotationError, match="is a box"):
            read_annotations(write(boxes, folder / "img.json"))
        return
    (annotation,) = read_annotations(write(boxes, folder / "img.json"))
    assert annotation.num_read == len(boxes)
    assert len(annotation.shapes) == len(sound)
    assert all(one.why for one in annotation.skipped)
    assert {shape.label for shape in annotation.shapes} <= {LABELS.get(write, "pore")}
    for shape, box in zip(annotation.shapes_in((HEIGHT, WIDTH)), sound, strict=True):
        drawn = rasterise([(shape, 1)], (HEIGHT, WIDTH), background=0) > 0
        wanted = fill_rings([box.ring], (HEIGHT, WIDTH))
        # Labelme and pycocotools draw the outline too; ours are pixel centres inside.
        assert (drawn ^ wanted).sum() <= 1.5 * shapely.Polygon(box.ring).length + 4


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_inspect_check_convert_and_the_data_set_count_the_same_shapes(
    write: Writer, tmp_path: Path
) -> None:
    boxes = [Box(8, 8, 12, 10, 30), Box(30, 20, 20, 12, 0, broken=True), Box(12, 24, 9, 9)]
    for name in ("images", "ann"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH), np.uint8)).save(
        tmp_path / "images" / "img.png"
    )
    file = write(boxes, tmp_path / "ann" / "img.json")
    (tmp_path / "project.toml").write_text(
        f'[project]\nname = "x"\n[classes]\nbackground = 0\n{LABELS.get(write, "pore")} = 1\n'
        '[[data]]\nimages = "images"\nannotations = "ann"\nsplit = "train"\n'
    )
    told = inspect_file(file)
    report = check_project(load_project(tmp_path))
    made = convert_labels("ann", tmp_path / "out", to="masks", images="images", base=tmp_path)
    assert (told.shapes_drawn, told.shapes_skipped) == (2, 1)
    assert (report.shapes_drawn, report.shapes_skipped) == (2, 1)
    assert (made.shapes_drawn, made.shapes_skipped) == (2, 1)
    (reason,) = told.notes
    assert reason.startswith("3 shapes, 2 drawn, 1 skipped: ")
    assert any(reason in note for note in report.notes)
    assert any(reason in note for note in made.notes)


@pytest.mark.parametrize("write", [labelme, coco, cvat, label_studio, geojson, yolo])
def test_a_skipped_shape_of_a_class_is_nowhere_background(write: Writer, tmp_path: Path) -> None:
    lost = Box(30, 20, 20, 12, broken=True)
    for name in ("images", "ann"):
        (tmp_path / name).mkdir()
    Image.new("L", (WIDTH, HEIGHT), 90).save(tmp_path / "images" / "img.png")
    write([Box(4, 4, 8, 8), lost], tmp_path / "ann" / "img.json")
    convert_labels(
        "ann",
        tmp_path / "out",
        to="masks",
        images="images",
        classes={"background": 0, "pore": 1},
        base=tmp_path,
    )
    mask = np.asarray(Image.open(tmp_path / "out" / "img.png"))
    assert not (mask[fill_rings([lost.ring], mask.shape)] == 0).any()
    assert 60 <= (mask == 1).sum() <= 81
