"""convert loses no label and overwrites nothing of a person."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.annotations.writer import LabelFormat
from emcfsys_engine.dataset.objects import read_objects
from emcfsys_engine.dataset.samples import list_samples, read_labels
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.tools.convert.conversion import convert_images, convert_labels
from tests.tools.made import project_at
from tests.waiting import PATIENCE_S

CLASSES = {"matrix": 0, "large": 1, "small": 2}

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("to", ["labelme", "coco", "geojson", "imagej"])
def test_masks_become_annotations_and_masks_again(
    to: LabelFormat, shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "superalloy-sem"
    images, masks = str(source / "images/val"), source / "masks/val"
    there = convert_labels(str(masks), tmp_path / "there", to=to, images=images, classes=CLASSES)
    back = convert_labels(
        str(tmp_path / "there"), tmp_path / "back", to="masks", images=images, classes=CLASSES
    )
    assert (len(there.written), len(back.written)) == (4, 4)
    assert not there.skipped
    assert not back.skipped
    for mask in masks.glob("*.png"):
        truth = np.array(Image.open(mask))
        found = np.array(Image.open(tmp_path / "back" / mask.name))
        for value in CLASSES.values():
            one, other = truth == value, found == value
            assert (one & other).sum() / (one | other).sum() >= 0.99
        if to != "labelme":
            assert np.array_equal(truth, found)


def test_a_corrected_png_of_a_stack_pairs_back_to_its_plane(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "microscope-formats" / "mrc"
    done = convert_images(str(source / "*.mrc"), tmp_path / "labelme")
    assert len(done.written) == 31
    names = {Path(file).name for file in done.written}
    assert {"Custom_movie.0012.png", "HAADFscan.png"} <= names
    points = [[2, 2], [9, 2], [9, 9], [2, 9]]
    for name in ("Custom_movie.0012", "HAADFscan"):
        document = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [{"label": "large", "points": points, "shape_type": "polygon"}],
            "imagePath": f"{name}.png",
            "imageData": None,
            "imageHeight": 16,
            "imageWidth": 16,
        }
        (tmp_path / "labelme" / f"{name}.json").write_text(json.dumps(document))
    data = f'[[data]]\nimages = "{source}/*.mrc"\nannotations = "labelme"\n'
    project = project_at(tmp_path, data)
    found = list_samples(project)
    assert {str(sample.image.name) for sample in found.samples} == {
        "Custom_movie.mrc#12",
        "HAADFscan.mrc",
    }
    assert int(read_labels(found.samples[0], project, (16, 16)).sum()) == 64


def test_what_cannot_be_converted_is_counted_and_said(shared_data: Path, tmp_path: Path) -> None:
    done = convert_images(str(shared_data / "microscope-formats" / "gatan"), tmp_path)
    whys = {Path(one.file).name: one.why for one in done.skipped}
    assert whys.keys() == {
        "08_carbon_spectrum_not_an_image.dm3",
        "test_fft_packed_complex8.dm4",
    }
    assert "spectrum" in whys["08_carbon_spectrum_not_an_image.dm3"]
    # dm3 and dm4 of the same name do not overwrite each other.
    names = {Path(file).name for file in done.written}
    assert "dmTest_float32_nonSquare_diffPixelSize.dm3.png" in names
    assert "dmTest_float32_nonSquare_diffPixelSize.dm4.png" in names


def convert_at_the_terminal(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emcfsys_engine", "convert", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_classes_are_named_on_the_command_line(shared_data: Path, tmp_path: Path) -> None:
    masks = str(shared_data / "superalloy-sem/masks/val")
    classes = ("--class", "matrix=0", "--class", "big=1", "--class", "tiny=2")
    done = convert_at_the_terminal(masks, "--to", "labelme", "--out", str(tmp_path), *classes)
    assert done.returncode == 0, done.stderr
    shapes = json.loads(min(tmp_path.glob("*.json")).read_text())["shapes"]
    assert {shape["label"] for shape in shapes} == {"big", "tiny"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--class", "pore"), "write NAME=VALUE"),
        (("--class", "pore=255"), "from 0 to 254"),
        (("--class", "a=1", "--class", "b=1"), "given already"),
        (("--class", "a=1", "--project", "."), "exclude each other"),
    ],
)
def test_classes_without_sense_are_refused(
    given: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = convert_at_the_terminal("x", "--to", "masks", "--out", str(out), *given)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert not out.exists()


def test_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(AnnotationError, match="none: holds no masks and no annotations"):
        convert_labels("none", tmp_path / "out", to="masks", base=tmp_path)
    assert not (tmp_path / "out").exists()


def test_masks_in_output_folders_below_are_named(tmp_path: Path) -> None:
    inner = tmp_path / "masks" / "day 2"
    inner.mkdir(parents=True)
    Image.fromarray(np.ones((8, 8), np.uint8)).save(inner / "b.png")
    OutputBook(inner).note({inner / "b.png": digest_of_output(inner / "b.png")})
    place = str(tmp_path / "masks")
    with pytest.raises(AnnotationError, match="1 folder of other outputs .*day 2. Name that"):
        convert_labels(place, tmp_path / "out", to="labelme")
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "masks" / "a.png")
    done = convert_labels(place, tmp_path / "out", to="labelme")
    assert any(note.endswith("do not count here: day 2") for note in done.notes)


def test_masks_beside_a_text_that_is_no_annotation_are_masks(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "m/a.png")
    (tmp_path / "m/readme.json").write_text("{}")
    made = convert_labels("m", tmp_path / "out", to="labelme", base=tmp_path)
    assert [Path(file).name for file in made.written] == ["a.json"]
    assert made.skipped == ()


def objects_at(folder: Path, labels: str) -> np.ndarray:
    """Return the objects that a project finds in labels."""
    project = project_at(
        folder,
        f'[[data]]\nimages = "images"\n{labels}\n',
        classes="bare = 0\nfilm = 1\ngrain = { value = 2, instances = true }",
    )
    (sample,) = list_samples(project, for_training=False).samples
    truth = read_objects(sample, project, read_labels(sample, project, (40, 50)))
    return truth.ids


@pytest.mark.parametrize("to", ["labelme", "coco", "geojson", "imagej", "masks"])
def test_drawn_objects_are_the_same_ones_in_every_format(to: LabelFormat, tmp_path: Path) -> None:
    boxes = [("grain", None, 2, 2, 12, 12), ("grain", None, 12, 2, 20, 12)]  # they touch
    boxes += [("grain", None, 16, 8, 26, 16), ("film", None, 30, 2, 36, 8)]  # and overlap
    boxes += [("grain", 7, 2, 25, 8, 30), ("grain", 7, 20, 25, 28, 30)]  # one in two parts
    shapes = [
        {
            "label": label,
            "group_id": group,
            "points": [[left, top], [right, bottom]],
            "shape_type": "rectangle",
        }
        for label, group, left, top, right, bottom in boxes
    ]
    document = {"imagePath": "a.png", "imageHeight": 40, "imageWidth": 50, "shapes": shapes}
    for name in ("images", "drawn"):
        (tmp_path / name).mkdir()
    (tmp_path / "drawn" / "a.json").write_text(json.dumps({**document, "imageData": None}))
    Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50).astype(np.uint8)).save(
        tmp_path / "images" / "a.png"
    )
    drawn = objects_at(tmp_path, 'annotations = "drawn"')
    assert drawn.max() == 4
    for source, out, kind in (("drawn", "there", to), ("there", "back", "masks")):
        done = convert_labels(
            str(tmp_path / source),
            tmp_path / out,
            to=kind,
            images=str(tmp_path / "images"),
            classes={"bare": 0, "film": 1, "grain": 2},
            instances=("grain",),
        )
        assert not done.skipped
    np.testing.assert_array_equal(objects_at(tmp_path, 'masks = "back"'), drawn)
    film = np.array(Image.open(tmp_path / "back" / "a.png")) == 1
    assert film.sum() == 49  # 7 × 7, corners included
    assert not tifffile.imread(tmp_path / "back" / "a.instances.tif")[film].any()


def test_masks_without_small_objects_are_refused_not_written_with_them(tmp_path: Path) -> None:
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"--smallest: leaves out outlines.*Leave it out"):
        convert_labels(str(tmp_path), tmp_path / "out", to="masks", smallest_px=50)
