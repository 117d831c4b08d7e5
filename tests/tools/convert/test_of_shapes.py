"""Annotations are converted with their own classes, each for its image."""

from pathlib import Path

from emcfsys_engine.tools.convert.conversion import convert_labels


def test_classes_are_found_when_none_are_given(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "annotation-formats/labelme/semantic_segmentation/data_annotated"
    done = convert_labels(str(file), tmp_path, to="masks")
    assert done.classes == {"background": 0, "bottle": 1, "bus": 2, "car": 3, "person": 4}
    assert len(done.written) == 2
