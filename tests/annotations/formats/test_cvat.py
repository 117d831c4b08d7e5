"""CVAT: images, frames of a video, turned boxes."""

from pathlib import Path

from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.shapes import Annotation, Shape
from tests.annotations.formats.made import drawn, formats
from tests.annotations.reported import converted, mask, reported


def test_cvat_images_and_video_frames_are_read(shared_data: Path) -> None:
    folder = formats(shared_data) / "datumaro-assets/cvat_dataset"
    images = read_annotations(folder / "for_images/export_project/annotations.xml")
    assert [one.image_name for one in images][:2] == ["Test/img0.jpg", "Test/img1.jpg"]
    task = read_annotations(folder / "for_images/export_task/train.xml")
    box = next(shape for shape in task[0].shapes if shape.label == "label1")
    assert int(drawn(_with(task[0], box), (8, 8)).sum()) == 4 * 2
    frames = read_annotations(folder / "for_video/annotations.xml")
    assert [one.image_name for one in frames] == ["frame_000010", "frame_000013", "frame_000016"]
    # CVAT writes a shape of one frame as a track that ends on the next: nobody drew on frame 16.
    assert [bool(one.unused) for one in frames] == [False, False, True]


def _with(annotation: Annotation, shape: Shape) -> Annotation:
    return Annotation(
        file=annotation.file, format="", image_name="", size_HW=annotation.size_HW, shapes=(shape,)
    )


def test_a_turned_box_of_cvat_is_drawn_turned(shared_data: Path, tmp_path: Path) -> None:
    converted(reported(shared_data, "01_cvat_rotated_box"), tmp_path)
    # 40 × 10 about (30, 20), 30 degrees clockwise: its right end lies lower than its left end.
    assert int((mask(tmp_path) == 1).sum()) == 400
    assert mask(tmp_path)[28, 45] == 1
    assert mask(tmp_path)[20, 48] == 0
