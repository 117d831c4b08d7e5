"""Annotation files of real tools are read as their tools draw them."""

import contextlib
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from emcfsys_engine.annotations.draw import mask_of, rasterise
from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.formats.coco import runs_of_text
from emcfsys_engine.annotations.shapes import Annotation, Shape, inner_path, mask_from_runs
from emcfsys_engine.errors import AnnotationError


def formats(shared_data: Path) -> Path:
    return shared_data / "annotation-formats"


def drawn(annotation: Annotation, size: tuple[int, int]) -> np.ndarray:
    """Paint every shape with 1."""
    return rasterise([(shape, 1) for shape in annotation.shapes_in(size)], size, background=0)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_labelme_shapes_are_drawn_as_labelme_draws_them(shared_data: Path) -> None:
    folder = formats(shared_data) / "labelme" / "semantic_segmentation"
    names = (folder / "expected_voc" / "class_names.txt").read_text().split("\n")
    annotation = read_annotations(folder / "data_annotated" / "2011_000025.json")[0]
    expected = np.load(folder / "expected_voc" / "SegmentationClassNpy" / "2011_000025.npy")
    pairs = [(shape, names.index(shape.label)) for shape in annotation.shapes]
    ids = rasterise(pairs, expected.shape, background=0)
    assert np.array_equal(ids, expected)


def test_every_primitive_of_labelme_is_read(shared_data: Path) -> None:
    (one,) = read_annotations(formats(shared_data) / "labelme/primitives/primitives.json")
    assert one.format == "Labelme 5.7.0"
    assert [shape.kind for shape in one.shapes] == [
        "rectangle", "circle", "rectangle", "polygon", "line", "point", "linestrip", "bitmap",
    ]  # fmt: skip
    areas = [int(found[1].sum()) for s in one.shapes if (found := mask_of(s, (450, 560)))]
    # Rectangle 101²; circle of radius 50.8; octagon as Labelme packed it.
    assert areas[0] == 101 * 101
    assert areas[1] == pytest.approx(np.pi * 50.8**2, rel=0.02)
    assert areas[7] == 7275  # the white pixels of the PNG that Labelme put into the file


def test_coco_polygons_agree_with_pycocotools(shared_data: Path) -> None:
    file = formats(shared_data) / "coco-metallography/annotations/validation.json"
    document = json.loads(file.read_text())
    annotations = read_annotations(file)
    assert len(annotations) == 32
    assert sum(len(one.shapes) for one in annotations) == 187
    assert annotations[0].image_name == "data/validation/Slice-10Bottom_3072_0_3584_512.png"
    polygons = [
        a["segmentation"]
        for a in document["annotations"]
        if a["image_id"] == document["images"][0]["id"]
    ]
    theirs = np.zeros((512, 512), bool)
    for polygon in polygons:
        theirs |= coco_mask.decode(coco_mask.frPyObjects(polygon, 512, 512)).any(axis=2)
    assert iou(drawn(annotations[0], (512, 512)) > 0, theirs) > 0.99


test_coco_polygons_agree_with_pycocotools = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)(test_coco_polygons_agree_with_pycocotools)


def test_coco_run_lengths_are_read_both_ways(shared_data: Path) -> None:
    folder = formats(shared_data) / "datumaro-assets"
    (plain,) = read_annotations(folder / "coco_dataset/coco_stuff/annotations/stuff_val.json")
    assert int(drawn(plain, (10, 5)).sum()) == 20
    (packed,) = read_annotations(folder / "segment_anything_dataset/a.json")
    assert int(drawn(packed, (5, 10)).sum()) == 4
    assert runs_of_text("`04n0") == [16, 4, 30]
    with pytest.raises(AnnotationError, match="does not fill"):
        mask_from_runs(Path("x"), "object 1", [5, 6], (3, 3))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coco/annotations/captions_val.json", "captions"),
        ("coco/annotations/panoptic_val.json", "panoptic"),
        ("coco/annotations/labels_val.json", "labels of whole images"),
        ("coco_instances/annotations/instances_train.json", "boxes without outlines"),
    ],
)
def test_coco_files_without_outlines_say_what_they_are(
    shared_data: Path, name: str, words: str
) -> None:
    with pytest.raises(AnnotationError, match=words):
        read_annotations(formats(shared_data) / "datumaro-assets/coco_dataset" / name)


def test_imagej_regions_have_the_areas_of_their_expected_shapes(shared_data: Path) -> None:
    folder = formats(shared_data) / "imagej-roi"
    areas: dict[str, int] = {}
    for file in sorted(folder.glob("*.roi")):
        (annotation,) = read_annotations(file)
        areas[file.stem] = int(drawn(annotation, (300, 300)).sum())
    rectangle = json.loads((folder / "rectangle.json").read_text())["rectangle"]
    assert areas["rectangle"] == rectangle["width"] * rectangle["height"]
    oval = json.loads((folder / "oval.json").read_text())["oval"]
    assert areas["oval"] == pytest.approx(np.pi / 4 * oval["width"] * oval["height"], rel=0.02)
    # A rectangle of 61 × 42 with a hole of 31 × 18, and a frame of 8 × 3 with a hole of 4 × 1.
    assert areas["composite-rect-in-rect"] == 61 * 42 - 31 * 18
    assert areas["composite-brush-donut"] < 8 * 3
    assert set(areas) == {file.stem for file in folder.glob("*.roi")}
    assert all(area > 0 for name, area in areas.items() if not name.endswith("left"))


def test_qupath_polygons_with_holes_are_read(shared_data: Path) -> None:
    (one,) = read_annotations(formats(shared_data) / "qupath-geojson/Single_cells.geojson")
    assert len(one.shapes) == 131
    assert {"class_1", "single_cells_demo"} <= {shape.label for shape in one.shapes}
    first = drawn(
        Annotation(file=one.file, format="", image_name="", size_HW=None, shapes=one.shapes[:1]),
        (1000, 1000),
    )
    assert int(first.sum()) == (982 - 296) * 416


def test_cvat_images_and_video_frames_are_read(shared_data: Path) -> None:
    folder = formats(shared_data) / "datumaro-assets/cvat_dataset"
    images = read_annotations(folder / "for_images/export_project/annotations.xml")
    assert [one.image_name for one in images][:2] == ["Test/img0.jpg", "Test/img1.jpg"]
    task = read_annotations(folder / "for_images/export_task/train.xml")
    box = next(shape for shape in task[0].shapes if shape.label == "label1")
    assert int(drawn(_with(task[0], box), (8, 8)).sum()) == 4 * 2
    frames = read_annotations(folder / "for_video/annotations.xml")
    assert [one.image_name for one in frames] == ["frame_000010", "frame_000013", "frame_000016"]


def _with(annotation: Annotation, shape: Shape) -> Annotation:
    return Annotation(
        file=annotation.file, format="", image_name="", size_HW=annotation.size_HW, shapes=(shape,)
    )


def test_label_studio_polygons_are_percent_of_the_image(shared_data: Path) -> None:
    folder = formats(shared_data) / "label-studio"
    (one,) = read_annotations(folder / "test_export_yolo/data_polygons.json")
    assert one.size_HW == (426, 640)
    assert one.shapes[0].label == "Airplane"
    assert one.shapes[0].points[0] == pytest.approx((0.6 * 640, 0.1955922865 * 426))
    (small,) = read_annotations(folder / "test_export_json_min/data.json")
    assert small.image_name == "example.png"


def test_yolo_boxes_are_refused_and_polygons_are_read(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="is a box"):
        read_annotations(formats(shared_data) / "yolo-stem/labels/Pt4.txt")
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_text("names:\n  0: matrix\n  1: 'pore'  # dark\n")
    file = tmp_path / "labels" / "a.txt"
    file.write_text("1 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n")
    (one,) = read_annotations(file)
    assert one.shapes[0].label == "pore"
    assert int(drawn(one, (100, 200)).sum()) == 80 * 50


def test_via_regions_are_read(tmp_path: Path) -> None:
    regions = [
        {
            "shape_attributes": {"name": "rect", "x": 2, "y": 3, "width": 5, "height": 4},
            "region_attributes": {"label": "pore"},
        },
        {
            "shape_attributes": {"name": "circle", "cx": 20, "cy": 20, "r": 5},
            "region_attributes": {"kind": {"grain": True, "pore": False}},
        },
        {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": [30, 40, 40, 30],
                "all_points_y": [30, 30, 40, 40],
            },
            "region_attributes": {"label": "pore"},
        },
    ]
    file = tmp_path / "via.json"
    entry = {"filename": "../x/a.png", "size": 9, "regions": regions, "file_attributes": {}}
    file.write_text(json.dumps({"_via_settings": {}, "_via_img_metadata": {"a.png9": entry}}))
    (one,) = read_annotations(file)
    assert one.image_name == "a.png"
    assert [shape.label for shape in one.shapes] == ["pore", "grain", "pore"]
    areas = [int(found[1].sum()) for s in one.shapes if (found := mask_of(s, (50, 50)))]
    assert areas[0] == 20
    assert areas[1] == pytest.approx(np.pi * 25, rel=0.1)
    assert areas[2] == 100


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("C:\\data\\a.png", "data/a.png"),
        ("/abs/./b.png", "abs/b.png"),
        (7, ""),
    ],
)
def test_paths_inside_files_lead_nowhere(name: object, clean: str) -> None:
    assert inner_path(name) == clean


def test_hostile_annotations_are_refused_quickly(tmp_path: Path) -> None:
    far = {"version": "5", "imagePath": "a", "shapes": [
        {"label": "a", "shape_type": "line", "points": [[-1e300, 0], [1e300, 1]]},
        {"label": "a", "shape_type": "polygon", "points": [[0, 0], [1e18, 5], [5, 1e18]]},
        {"label": "a", "shape_type": "circle", "points": [[5, 5], [1e15, 5]]},
    ]}  # fmt: skip
    huge = {"images": [{"id": 1, "file_name": "../../x", "height": 100000, "width": 100000}],
            "categories": [], "annotations": [{"image_id": 1, "category_id": 1, "segmentation":
            {"size": [100000, 100000], "counts": [10**10]}}]}  # fmt: skip
    (tmp_path / "far.json").write_text(json.dumps(far))
    (tmp_path / "huge.json").write_text(json.dumps(huge))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "laugh.xml").write_text(
        '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>'
    )
    (tmp_path / "nan.json").write_text(json.dumps(far).replace("1e+300", "NaN"))
    start = time.monotonic()
    (one,) = read_annotations(tmp_path / "far.json")
    assert drawn(one, (64, 64)).shape == (64, 64)
    for name in ("huge", "deep", "nan"):
        with pytest.raises(AnnotationError):
            read_annotations(tmp_path / f"{name}.json")
    with pytest.raises(AnnotationError, match="entities"):
        read_annotations(tmp_path / "laugh.xml")
    assert time.monotonic() - start < 5


def test_an_archive_of_regions_is_never_unpacked(shared_data: Path, tmp_path: Path) -> None:
    roi = (formats(shared_data) / "imagej-roi/polygon.roi").read_bytes()
    file = tmp_path / "in" / "a.zip"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../escaped.roi", roi)
        link = zipfile.ZipInfo("link.roi")
        link.external_attr = 0o120777 << 16  # a symbolic link
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(AnnotationError, match="region link"):
        read_annotations(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.roi", bytes(100 << 20))
    with pytest.raises(AnnotationError, match="unbelievable"):
        read_annotations(file)
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.zip"]


@pytest.mark.parametrize(
    "name",
    [
        "labelme/primitives/primitives.json",
        "coco-metallography/annotations/validation.json",
        "imagej-roi/composite-oval-in-rect.roi",
        "imagej-roi/ellipse.roi",
        "qupath-geojson/Single_cells.geojson",
        "datumaro-assets/cvat_dataset/for_images/export_task/train.xml",
        "label-studio/test_export_yolo/data_polygons.json",
    ],
)
def test_harmed_annotations_are_read_or_refused(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    whole = (formats(shared_data) / name).read_bytes()
    rng = np.random.default_rng(0)
    variants = [whole[: len(whole) * part // 16] for part in range(16)]
    for _ in range(40):
        harmed = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            harmed[place] = int(rng.integers(0, 256))
        variants.append(bytes(harmed))
    for number, variant in enumerate(variants):
        file = tmp_path / f"{number}{Path(name).suffix}"
        file.write_bytes(variant)
        start = time.monotonic()
        try:
            for one in read_annotations(file)[:2]:
                drawn(one, one.size_HW if one.size_HW and max(one.size_HW) < 2000 else (64, 64))
        except AnnotationError as error:
            assert "\n" not in str(error)
        assert time.monotonic() - start < 5


def test_a_hostile_run_length_of_a_megabyte_is_refused_at_once() -> None:
    for text in ("o" * 1_000_000, "O" * 1_000_000, ("o" * 11 + "0") * 90_000):
        began = time.process_time()
        with contextlib.suppress(ValueError):
            runs_of_text(text)
        assert time.process_time() - began < 5
