"""Annotations of public bug reports: nothing drawn is lost, nothing undrawn is invented."""

import json
from pathlib import Path

import numpy as np
import pytest
import roifile
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.annotations.files import NotAnAnnotation, find_annotations, read_annotations
from emcfsys_engine.cli import cli
from emcfsys_engine.dataset.samples import gather, read_labels
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.check import check_project
from emcfsys_engine.tools.convert.conversion import convert_labels
from emcfsys_engine.tools.inspect_file import inspect_file
from tests.annotations.reported import converted, image, mask, reported


def project_of(folder: Path, classes: str, data: str = 'annotations = "ann"') -> Path:
    (folder / "project.toml").write_text(
        f'[project]\nname = "x"\n[classes]\n{classes}\n[[data]]\nimages = "images"\n{data}\n'
        'split = "train"\n'
    )
    return folder


def test_an_oriented_rectangle_is_a_polygon_of_four_points(
    shared_data: Path, tmp_path: Path
) -> None:
    converted(reported(shared_data, "04a_labelme6_oriented_rectangle"), tmp_path)
    assert int((mask(tmp_path) == 1).sum()) == 423  # as labelme.utils.shape_to_mask counts


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
