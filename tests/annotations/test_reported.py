"""Annotations of public bug reports: nothing drawn is lost, nothing undrawn is invented."""

import json
from pathlib import Path

import numpy as np
import pytest
import roifile
import tifffile
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.annotations.files import NotAnAnnotation, find_annotations, read_annotations
from emcfsys_engine.cli import cli
from emcfsys_engine.dataset.samples import gather, read_labels
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.check import check_project
from emcfsys_engine.tools.convert import Conversion, convert_labels
from emcfsys_engine.tools.inspect_file import inspect_file


def reported(shared_data: Path, name: str) -> Path:
    folder = shared_data / "reported" / name
    if not folder.exists():
        pytest.skip(f"the reported inputs are not here ({folder})")
    return folder


def converted(folder: Path, out: Path, source: str = "ann", **kwargs: object) -> Conversion:
    images = "images"
    return convert_labels(source, out, to="masks", images=images, base=folder, **kwargs)  # type: ignore[arg-type]


def mask(out: Path, name: str = "img.png") -> np.ndarray:
    return np.asarray(Image.open(out / name))


def project_of(folder: Path, classes: str, data: str = 'annotations = "ann"') -> Path:
    (folder / "project.toml").write_text(
        f'[project]\nname = "x"\n[classes]\n{classes}\n[[data]]\nimages = "images"\n{data}\n'
        'split = "train"\n'
    )
    return folder


def image(folder: Path, name: str = "img.png", size: tuple[int, int] = (64, 48)) -> None:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "ann").mkdir(exist_ok=True)
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0]), np.uint8)
    Image.fromarray(noise).save(folder / "images" / name)


def test_a_turned_box_of_cvat_is_drawn_turned(shared_data: Path, tmp_path: Path) -> None:
    converted(reported(shared_data, "01_cvat_rotated_box"), tmp_path)
    # 40 × 10 about (30, 20), 30 degrees clockwise: its right end lies lower than its left end.
    assert int((mask(tmp_path) == 1).sum()) == 400
    assert mask(tmp_path)[28, 45] == 1
    assert mask(tmp_path)[20, 48] == 0


def test_every_object_of_coco_is_drawn_or_named(shared_data: Path, tmp_path: Path) -> None:
    folder = reported(shared_data, "02_coco_silently_lost")
    made = converted(folder, tmp_path)
    assert (made.shapes_drawn, made.shapes_skipped) == (5, 1)
    assert any("object 6 (pore) is of image 9" in note for note in made.notes)
    assert int((mask(tmp_path, "a.png") == 1).sum()) == 192
    assert int((mask(tmp_path, "b.png") == 1).sum()) == 128


def test_shape_and_labels_of_label_studio_are_one_region(shared_data: Path, tmp_path: Path) -> None:
    made = converted(reported(shared_data, "03a_ls_polygon_plus_labels"), tmp_path)
    assert made.classes == {"background": 0, "Airplane": 1}
    assert int((mask(tmp_path) == 1).sum()) == pytest.approx(726, abs=3)


def test_an_oriented_rectangle_is_a_polygon_of_four_points(
    shared_data: Path, tmp_path: Path
) -> None:
    converted(reported(shared_data, "04a_labelme6_oriented_rectangle"), tmp_path)
    assert int((mask(tmp_path) == 1).sum()) == 423  # as labelme.utils.shape_to_mask counts


def test_a_region_of_a_hyperstack_lies_on_its_channel_and_slice(
    shared_data: Path, tmp_path: Path
) -> None:
    made = converted(reported(shared_data, "06_roi_hyperstack_channel"), tmp_path)
    assert [Path(file).name for file in made.written] == ["img.0003.png"]


def test_slice_1_is_one_plane_and_position_0_is_every_plane(
    shared_data: Path, tmp_path: Path
) -> None:
    first = converted(reported(shared_data, "07a_roi_all_on_slice_1"), tmp_path / "a")
    assert [Path(file).name for file in first.written] == ["img.0000.png"]
    second = converted(reported(shared_data, "07b_roi_slice_0_and_3"), tmp_path / "b")
    areas = [int((mask(tmp_path / "b", f"img.000{n}.png") == 1).sum()) for n in range(4)]
    assert len(second.written) == 4
    assert areas == [100, 100, 200, 100]


def test_phase1_and_phase2_are_two_labels(shared_data: Path, tmp_path: Path) -> None:
    made = converted(reported(shared_data, "08a_roi_names_end_in_digits"), tmp_path)
    assert made.classes == {"background": 0, "phase1": 1, "phase2": 2}


@pytest.mark.parametrize("to", ["imagej", "labelme", "coco", "geojson"])
def test_unlabelled_pixels_survive_our_own_exports(
    shared_data: Path, tmp_path: Path, to: str
) -> None:
    folder = reported(shared_data, "08b_own_imagej_with_255")
    truth = np.asarray(Image.open(folder / "m" / "a.png"))
    for classes in (None, {"bg": 0, "grain": 1, "pore-2": 2}):
        out = tmp_path / f"{to}-{classes is None}"
        convert_labels(str(folder / "m"), out, to=to, images="images", base=folder, classes=classes)  # type: ignore[arg-type]
        convert_labels(
            str(out), out / "back", to="masks", images="images", base=folder, classes=classes
        )
        assert np.array_equal(mask(out / "back", "a.png"), truth)


def test_a_text_of_imagej_marks_no_pixels(shared_data: Path, tmp_path: Path) -> None:
    made = converted(reported(shared_data, "09_roi_text_scale_bar"), tmp_path)
    assert made.classes == {"background": 0, "pore": 1}
    assert any("500 nm is a text" in note for note in made.notes)


def test_sizes_that_disagree_are_named_both(shared_data: Path, tmp_path: Path) -> None:
    folder = reported(shared_data, "12_labelme_size_disagrees")
    (skipped,) = converted(folder, tmp_path / "o").skipped
    assert "128 × 96" in skipped.why
    assert "64 × 48" in skipped.why
    image(tmp_path)
    (tmp_path / "ann" / "img.json").write_bytes((folder / "ann" / "img.json").read_bytes())
    report = check_project(load_project(project_of(tmp_path, "bg = 0\ngrain = 1")))
    assert any("128 × 96" in one.text and "64 × 48" in one.text for one in report.errors)


def test_a_feature_without_geometry_leaves_its_image_in_doubt(
    shared_data: Path, tmp_path: Path
) -> None:
    made = converted(reported(shared_data, "13_geojson_null_geometry"), tmp_path)
    assert (made.shapes_drawn, made.shapes_skipped) == (1, 1)
    drawn = mask(tmp_path)
    assert set(np.unique(drawn)) == {made.classes["Unclassified"], 255}
    assert int((drawn == made.classes["Unclassified"]).sum()) == 45 * 35


def test_a_mask_of_coco_that_is_larger_than_its_image_is_an_error(tmp_path: Path) -> None:
    coded = {"size": [96, 128], "counts": [96 * 128 - 4, 4]}
    document = {
        "images": [{"id": 1, "file_name": "img.png", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": coded}],
        "categories": [{"id": 1, "name": "pore"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match="128 × 96 pixels, its image 64 × 48"):
        read_annotations(tmp_path / "a.json")


def test_pairs_of_label_studio_without_ids_are_one_region(tmp_path: Path) -> None:
    size = {"original_width": 64, "original_height": 48}
    box = {"x": 10, "y": 10, "width": 20, "height": 30, "rotation": 0, **size}
    other = {**box, "x": 60}
    task = {
        "image": "img.png", "id": 1, "annotator": 1, "annotation_id": 2,
        "shapes": [box, other], "Type": [{**box, "labels": ["pore"]}],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps([task]))
    (one,) = read_annotations(tmp_path / "a.json")
    assert [shape.label for shape in one.shapes] == ["pore"]
    assert [lost.why for lost in one.skipped] == ["task 1: region ? has a shape without a label"]


def test_a_box_that_x_anylabeling_turned_by_degrees_is_drawn_turned(tmp_path: Path) -> None:
    box = {"label": "pore", "points": [[10, 10], [50, 20]], "shape_type": "rectangle"}
    upright = {**box, "points": [[10, 10], [50, 10], [50, 20], [10, 20]]}
    corners = {**box, "points": [[25, -5], [35, -5], [35, 35], [25, 35]]}
    shapes = [{**box, "rotation": 90}, {**upright, "rotation": 90}, upright, corners]
    (tmp_path / "a.json").write_text(json.dumps({"version": "3.2.0", "shapes": shapes}))
    (one,) = read_annotations(tmp_path / "a.json")
    boxes = [tuple(np.ptp(shape.points, axis=0).round(6)) for shape in one.shapes]
    assert boxes == [(10, 40), (10, 40), (40, 10), (10, 40)]


def test_convert_takes_what_a_project_says_of_its_own_labels(tmp_path: Path) -> None:
    image(tmp_path)
    shapes = [
        {"label": "hole", "points": [[5, 5], [20, 5], [20, 20]], "shape_type": "polygon"},
        {"label": "seen", "points": [[2, 2], [40, 40]], "shape_type": "rectangle"},
    ]
    document = {"version": "5", "shapes": shapes, "imagePath": "img.png"}
    (tmp_path / "ann" / "img.json").write_text(json.dumps(document))
    data = 'annotations = "ann"\nundrawn = "ignore"\nreviewed = "seen"'
    project_of(tmp_path, "bg = 0\npore = 1", data)
    with (tmp_path / "project.toml").open("a") as file:
        file.write('[data.labels]\nhole = "pore"\n')
    words = ["convert", str(tmp_path / "ann"), "--to", "masks", "--project", str(tmp_path)]
    words += ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(cli, words)
    assert ended.exit_code == 0, ended.output
    ids = mask(tmp_path / "out")
    assert (ids[8, 18], ids[30, 30], ids[45, 60]) == (1, 0, 255)


@pytest.mark.parametrize(
    ("encoding", "word", "said"),
    [
        ("gbk", "析出相", "GBK"),
        ("shift_jis", "ミトコンドリア", "Shift-JIS"),
        ("utf-16", "pore", "UTF-16"),
        ("utf-16-le", "pore", "UTF-16LE"),
        ("cp1252", "Körner", "CP1252"),
    ],
)
def test_other_encodings_are_named_with_the_remedy(
    tmp_path: Path, encoding: str, word: str, said: str
) -> None:
    document = {"version": "5", "shapes": [{"label": word, "points": [[1, 1], [9, 1], [9, 9]]}]}
    file = tmp_path / "a.json"
    file.write_bytes(json.dumps(document, ensure_ascii=False).encode(encoding))
    with pytest.raises(AnnotationError) as caught:
        read_annotations(file)
    assert said in caught.value.what
    assert "iconv -f" in caught.value.remedy
    file.write_bytes(json.dumps(document, ensure_ascii=False).encode("utf-8-sig"))
    assert read_annotations(file)[0].shapes[0].label == word


def test_class_names_of_yolo_are_read_with_a_mark_and_refused_in_gbk(tmp_path: Path) -> None:
    labels = tmp_path / "a.txt"
    labels.write_bytes(b"\xef\xbb\xbf0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "classes.txt").write_bytes("pore\n".encode("utf-8-sig"))
    assert read_annotations(labels)[0].shapes[0].label == "pore"
    (tmp_path / "classes.txt").write_bytes("析出相\n".encode("gbk"))
    labels.write_bytes(b"0 0.1 0.1 0.5 0.1 0.5 0.6\n")
    with pytest.raises(AnnotationError, match=r"classes.txt: is text in GBK"):
        read_annotations(labels)


@pytest.mark.parametrize("yaml", ["", "kpt_shape: [3, 2]\n"])
def test_poses_of_yolo_are_no_polygons(tmp_path: Path, yaml: str) -> None:
    numbers = "0.5 0.5 0.4 0.4 0.4 0.4 0.6 0.4 0.5 0.6"
    if not yaml:
        numbers = "0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.4 2 0.5 0.6 1 0 0 0"
    (tmp_path / "data.yaml").write_text(yaml + "names: [pore]\n")
    (tmp_path / "a.txt").write_text(f"0 {numbers}\n")
    with pytest.raises(AnnotationError, match="pose"):
        read_annotations(tmp_path / "a.txt")


def test_a_task_that_nobody_did_is_no_background(tmp_path: Path) -> None:
    image(tmp_path, "img.png")
    image(tmp_path, "b.png")
    image(tmp_path, "c.png")
    value = {"points": [[10, 10], [60, 15], [55, 70]], "polygonlabels": ["pore"]}
    size = {"original_width": 64, "original_height": 48}
    result = [{"id": "r", "type": "polygonlabels", "value": value, **size}]
    tasks = [
        {"data": {"image": "img.png"}, "annotations": [{"result": result}]},
        {"data": {"image": "b.png"}, "annotations": []},
        {"data": {"image": "c.png"}, "annotations": [{"result": [], "was_cancelled": True}]},
    ]
    (tmp_path / "ann" / "ls.json").write_text(json.dumps(tasks))
    gathered = gather(load_project(project_of(tmp_path, "bg = 0\npore = 1")))
    assert [sample.name for sample in gathered.samples] == ["img"]
    assert any("b.png: task 2 was not annotated" in note for note in gathered.notes)
    assert any("c.png: task 3 was skipped" in note for note in gathered.notes)
    made = converted(tmp_path, tmp_path / "out")
    assert len(made.written) == 1
    assert any("c.png: task 3 was skipped" in note for note in made.notes)
    assert inspect_file(tmp_path / "ann" / "ls.json").images == ("img.png",)


def test_a_plane_of_qupath_is_that_plane(tmp_path: Path) -> None:
    image(tmp_path)
    stack = np.zeros((3, 2, 48, 64), np.uint8)
    tifffile.imwrite(tmp_path / "images" / "s.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    ring = [[5, 5], [25, 5], [25, 25], [5, 25], [5, 5]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring], "plane": plane}}
        for plane in (
            {"c": -1, "z": 2, "t": 0},
            {"c": 0, "z": 1, "t": 0},
            {"c": -1, "z": 9, "t": 0},
        )
    ]
    document = {"type": "FeatureCollection", "features": features}
    (tmp_path / "ann" / "s.geojson").write_text(json.dumps(document))
    made = converted(tmp_path, tmp_path / "out")
    assert [Path(file).name for file in made.written] == [
        "s.0002.png", "s.0004.png", "s.0005.png",
    ]  # fmt: skip
    assert any("lies on slice 10, frame 1" in note for note in made.notes)
    assert made.shapes_skipped == 1


def test_a_position_that_a_single_image_does_not_have_is_named(tmp_path: Path) -> None:
    image(tmp_path)
    rois = []
    for number, position in enumerate((0, 1, 3)):
        roi = roifile.ImagejRoi.frompoints([[2, 2], [12, 2], [12, 12]], name=f"pore-{number}")
        roi.position = position
        rois.append(roi)
    roifile.roiwrite(tmp_path / "ann" / "img.zip", rois)
    made = converted(tmp_path, tmp_path / "out")
    assert (made.shapes_drawn, made.shapes_skipped) == (2, 1)
    assert any("lies on plane 3, but the image has a single plane" in note for note in made.notes)


def test_a_number_behind_a_class_is_a_number_unless_the_name_is_a_class(tmp_path: Path) -> None:
    image(tmp_path)
    boxes = {"phase-1": 2, "phase-2": 14, "mito_12": 26, "phase-7": 38}
    rois = [
        roifile.ImagejRoi.frompoints([[x, 2], [x + 10, 2], [x + 10, 12], [x, 12]], name=name)
        for name, x in boxes.items()
    ]
    roifile.roiwrite(tmp_path / "ann" / "img.zip", rois)
    classes = 'bg = 0\n"phase-1" = 1\n"phase-2" = 2\nphase = 3\nmito = 4'
    project = load_project(project_of(tmp_path, classes))
    (sample,) = gather(project).samples
    ids = read_labels(sample, project, (48, 64))
    assert [int(ids[7, x + 5]) for x in boxes.values()] == [1, 2, 4, 3]


def test_side_cars_and_leftovers_of_systems_are_no_annotations(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("[SemImageFile]\nInstructName=SU8000\n")
    (tmp_path / "b.txt").write_text("a note of the operator\n")
    for folder in ("__MACOSX", "@eaDir", ".ipynb_checkpoints", "lost+found"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.json").write_text("{")
    (tmp_path / "._c.json").write_bytes(b"\0\5\x16\7")
    faults: list[InputError] = []
    notes: list[str] = []
    assert find_annotations(".", tmp_path, faults, notes) == {}
    assert not faults
    assert [note for note in notes if "b.txt" not in note] == []
    with pytest.raises(NotAnAnnotation, match="microscope"):
        read_annotations(tmp_path / "a.txt")


def coco(annotations: list[dict], images: int = 1, categories: tuple[str, ...] = ("p",)) -> dict:
    names = ("img.png", "b.png")[:images]
    size = {"width": 64, "height": 48}
    return {
        "images": [{"id": 1, "file_name": name, **size} for name in names],
        "categories": [{"id": 1, "name": name} for name in categories],
        "annotations": annotations,
    }


_OBJECT = {"image_id": 1, "category_id": 1, "segmentation": [[5, 5, 15, 5, 15, 15]]}


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (coco([_OBJECT], images=2), "images img.png and b.png the same id 1"),
        (coco([_OBJECT], categories=("p", "q")), "categories p and q the same id 1"),
        (coco([{**_OBJECT, "image_id": None}]), "does not say of which image"),
    ],
)
def test_coco_that_does_not_say_whose_an_object_is_is_refused(
    tmp_path: Path, document: dict, named: str
) -> None:
    image(tmp_path)
    (tmp_path / "ann" / "a.json").write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=named):
        read_annotations(tmp_path / "ann" / "a.json")


def test_a_shape_without_a_label_makes_its_pixels_unlabelled(tmp_path: Path) -> None:
    image(tmp_path)
    square = [[10, 10], [20, 10], [20, 20], [10, 20]]
    (tmp_path / "ann" / "img.json").write_text(
        json.dumps(
            {
                "version": "5.5.0", "imagePath": "img.png", "imageHeight": 48, "imageWidth": 64,
                "shapes": [
                    {"label": None, "points": square, "shape_type": "polygon"},
                    {"label": "p", "points": [[40, 10], [50, 10], [50, 20]]},
                ],
            }
        )
    )  # fmt: skip
    made = converted(tmp_path, tmp_path / "o")
    assert made.classes == {"background": 0, "p": 1}
    assert int((mask(tmp_path / "o") == 255).sum()) == 121


def test_a_region_on_a_slice_that_a_single_image_has_not_is_no_background(tmp_path: Path) -> None:
    image(tmp_path)
    square = np.array([[10, 10], [20, 10], [20, 20], [10, 20]], np.float32)
    roi = roifile.ImagejRoi.frompoints(square, name="p")
    roi.position = 5
    roi.tofile(tmp_path / "ann" / "img.roi")
    made = converted(tmp_path, tmp_path / "o")
    assert (made.shapes_drawn, made.shapes_skipped) == (0, 1)
    assert int((mask(tmp_path / "o") == 255).sum()) == 100
    ring = [*square.tolist(), square[0].tolist()]
    geometry = {"type": "Polygon", "coordinates": [ring], "plane": {"c": -1, "z": 1, "t": 0}}
    feature = {"geometry": geometry, "properties": {"classification": {"name": "p"}}}
    (tmp_path / "ann" / "img.roi").unlink()
    (tmp_path / "ann" / "img.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature, None]})
    )
    made = converted(tmp_path, tmp_path / "o2")
    assert (made.shapes_drawn, made.shapes_skipped) == (0, 2)


@pytest.mark.parametrize(("stroke", "rows"), [(4, 4), (0, 10)])
def test_a_line_of_imagej_is_as_wide_as_it_says(tmp_path: Path, stroke: int, rows: int) -> None:
    image(tmp_path)
    roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.LINE, name="p", stroke_width=stroke)
    roi.x1, roi.y1, roi.x2, roi.y2 = 5.0, 20.0, 45.0, 20.0
    roi.tofile(tmp_path / "ann" / "img.roi")
    converted(tmp_path, tmp_path / "o")
    assert int((mask(tmp_path / "o")[:, 25] == 1).sum()) == rows


def test_a_second_label_of_one_region_is_said(tmp_path: Path) -> None:
    value = {"points": [[10, 10], [30, 10], [30, 30]], "polygonlabels": ["p", "q"]}
    region = {"id": "r", "type": "polygonlabels", "original_width": 64, "original_height": 48}
    task = {"data": {"image": "img.png"}, "annotations": [{"result": [{**region, "value": value}]}]}
    boxes = {"filename": "img.png", "regions": [{
        "shape_attributes": {"name": "rect", "x": 1, "y": 1, "width": 5, "height": 5},
        "region_attributes": {"type": {"p": True, "q": True}},
    }]}  # fmt: skip
    for document in ([task], {"img.png1": boxes}):
        (tmp_path / "a.json").write_text(json.dumps(document))
        (read,) = read_annotations(tmp_path / "a.json")
        assert any("has the labels p, q: the first is used" in one for one in read.remarks)


def test_tasks_that_nobody_finished_are_named_where_there_is_nothing_else(tmp_path: Path) -> None:
    image(tmp_path)
    (tmp_path / "ann" / "a.json").write_text(
        json.dumps([{"data": {"image": "img.png"}, "annotations": [], "predictions": [{}]}])
    )
    with pytest.raises(AnnotationError, match="task 1 was not annotated"):
        converted(tmp_path, tmp_path / "o")
