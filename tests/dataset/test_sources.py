"""Which labels belong to which images, by every usual name and kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.dataset.samples import gather, list_samples, read_labels
from emcfsys_engine.errors import DataFaults
from emcfsys_engine.project import load_project
from tests.dataset.made import AUTO, Maker, fill, labelme, mask, picture, save


@pytest.mark.parametrize("suffix", ["", "_mask", "-mask", "_label", "_labels", "_seg", ".mask"])
def test_usual_suffixes_pair(make: Maker, tmp_path: Path, suffix: str) -> None:
    fill(tmp_path, 5, 1, suffix=suffix)
    found = list_samples(make(AUTO))
    assert len(found.samples) == 5
    assert len(found.of("val")) == 1
    assert len(found.of("train")) == 4


def test_0_and_255_are_taken_as_two_classes_and_it_is_said(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 4, 255)
    project = make(AUTO)
    found = list_samples(project)
    assert any('0 is taken as "background" and 255 as "particle"' in note for note in found.notes)
    ids = read_labels(found.samples[0], project, (40, 50))
    assert np.array_equal(np.unique(ids, return_counts=True)[1], [1960, 40])
    assert set(np.unique(ids)) == {0, 1}


def test_labels_can_invert_and_ignore(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 4, 255, 7)
    labels = '[data.labels]\n"0" = "particle"\n"255" = "background"\n"7" = "ignore"\n'
    project = make(AUTO + labels)
    ids = read_labels(list_samples(project).samples[0], project, (40, 50))
    values, counts = np.unique(ids, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {0: 40, 1: 1920, 255: 40}


def test_unlabelled_images_can_be_left_out(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 5, 1)
    (tmp_path / "masks" / "im2x.png").unlink()
    found = list_samples(make(AUTO + 'unlabelled = "skip"\n'))
    assert len(found.samples) == 4
    assert any("1 of 5 images have no labels" in note for note in found.notes)


def test_colour_painted_over_the_image_equals_the_index_mask(
    shared_data: Path, make: Maker
) -> None:
    source = shared_data / "superalloy-sem"
    classes = "matrix = 0\nlarge = 1\nsmall = 2"
    data = (
        f'[[data]]\nimages = "{source}/original_files/*_3.tif"\n'
        f'masks = "{source}/original_files/*_mask.tif"\nsplit = "val"\n'
        '[data.labels]\n"#0000ff" = "large"\n"#ff0000" = "small"\n'
    )
    project = make(data, classes)
    (sample,) = list_samples(project, for_training=False).samples
    painted = read_labels(sample, project, (512, 512))
    assert np.array_equal(painted, np.array(Image.open(source / "masks/train/spot3_0d_3.png")))


def test_axon_masks_of_many_greys_are_read_by_ranges(shared_data: Path, make: Maker) -> None:
    source = shared_data / "axon-myelin-sem"
    data = (
        f'[[data]]\nimages = "{source}/images"\nmasks = "{source}/masks_original"\n'
        '[data.labels]\n"100-140" = "myelin"\n"200-255" = "axon"\n'
    )
    project = make(data, "background = 0\nmyelin = 1\naxon = 2")
    found = list_samples(project)
    assert len(found.samples) == 6
    for sample in found.samples:
        truth = np.array(Image.open(source / "masks" / sample.image.path.name))
        assert np.array_equal(read_labels(sample, project, truth.shape), truth)


def test_a_folder_a_class_is_read(make: Maker, tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "images" / f"im{number}x.png", picture(number))
        save(tmp_path / "masks" / "particle" / f"im{number}x.png", mask(255))
    project = make(AUTO)
    sample = list_samples(project).samples[0]
    assert int(read_labels(sample, project, (40, 50)).sum()) == 40


@pytest.mark.parametrize(
    "name",
    ["im{}x.png", "C:\\data\\im{}x.png", "/home/me/im{}x.png", "../../../im{}x.png", "other"],
)
def test_labelme_files_pair_whatever_their_image_path_says(
    make: Maker, tmp_path: Path, name: str
) -> None:
    for number in range(3):
        save(tmp_path / "images" / f"im{number}x.png", picture(number))
        file = tmp_path / "labels" / f"im{number}x.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(labelme(name.format(number), "particle"))
    project = make('[[data]]\nimages = "images"\nannotations = "labels"\n')
    found = list_samples(project)
    assert len(found.samples) == 3
    assert int(read_labels(found.samples[0], project, (40, 50)).sum()) == 11 * 11


@pytest.mark.parametrize(("undrawn", "said"), [("background", True), ("ignore", False)])
def test_images_that_nothing_was_drawn_on_are_counted_aloud(
    make: Maker, tmp_path: Path, undrawn: str, said: bool
) -> None:
    (tmp_path / "labels").mkdir()
    for number in range(4):
        save(tmp_path / "images" / f"im{number}.png", picture(number))
        drawn = json.loads(labelme("x.png", "particle"))
        drawn["shapes"] = drawn["shapes"] if number < 3 else []
        (tmp_path / "labels" / f"im{number}.json").write_text(json.dumps(drawn))
    table = f'[[data]]\nimages = "images"\nannotations = "labels"\nundrawn = "{undrawn}"\n'
    notes = gather(make(table)).notes
    assert any("1 of 4 labelled images hold no shape" in note for note in notes) == said


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """One image whose masks lie in one folder a class: pore, grain, and one that is neither."""
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "images" / "a.png")
    for name, rows in (("pore", slice(0, 20)), ("grain", slice(10, 40)), ("edge", slice(50, 60))):
        stencil = np.zeros((64, 64), np.uint8)
        stencil[rows] = 255
        (tmp_path / "masks" / name).mkdir(parents=True)
        Image.fromarray(stencil).save(tmp_path / "masks" / name / "a.png")
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "x"\n[classes]\nbare = 0\npore = 1\ngrain = 2\n'
        '[[data]]\nimages = "images"\nmasks = "masks"\nsplit = "train"\n'
    )
    return tmp_path


def test_true_and_false_of_python_in_one_folder_a_class_is_told(class_folders: Path) -> None:
    for name in ("pore", "grain"):
        file = class_folders / "masks" / name / "a.png"
        file.unlink()
        tifffile.imwrite(file.with_suffix(".tif"), np.zeros((64, 64), bool))
    notes = gather(load_project(class_folders), for_training=False).notes
    assert sum("read as shown" in note for note in notes) == 2


def test_a_folder_of_masks_that_is_no_class_is_an_error(class_folders: Path) -> None:
    found = gather(load_project(class_folders), for_training=False)
    assert any('label "edge" is no class' in str(fault) for fault in found.faults)


def test_masks_in_one_folder_a_class_lie_over_each_other_by_value(class_folders: Path) -> None:
    with (class_folders / "project.toml").open("a") as file:
        file.write('[data.labels]\nedge = "ignore"\n')
    project = load_project(class_folders)
    found = gather(project, for_training=False)
    assert not found.faults
    (sample,) = found.samples
    ids = read_labels(sample, project, (64, 64))
    assert [int(ids[row, 5]) for row in (5, 15, 30, 45, 55)] == [1, 2, 2, 0, 255]


def test_what_predict_writes_beside_masks_is_of_their_images(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 4, 1)
    for kind in ("overlay.png", "prob-particle.png", "uncertainty.png", "instances.tif"):
        save(tmp_path / "masks" / f"im1x.{kind}", picture(1))
    assert len(list_samples(make(AUTO)).samples) == 4
    save(tmp_path / "masks" / "im9x.overlay.png", picture(1))  # beside no mask
    with pytest.raises(DataFaults, match=r"im9x\.overlay\.png: belongs to no image"):
        list_samples(make(AUTO))
