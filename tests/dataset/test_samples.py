"""Images are paired with labels, split, and every fault is named at once."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.dataset.samples import gather, list_samples, read_labels
from emcfsys_engine.dataset.splits import assign_folds, split_units
from emcfsys_engine.errors import AnnotationError, DataFaults
from emcfsys_engine.project import Project, load_project

Maker = Callable[..., Project]
TWO = "background = 0\nparticle = 1"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Return a function that writes a project around images and masks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(data: str, classes: str = TWO) -> Project:
        text = f'[project]\nname = "t"\n[classes]\n{classes}\n{data}'
        (tmp_path / "project.toml").write_text(text)
        return load_project(tmp_path)

    return made


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def picture(seed: int, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, size, np.uint8)


def mask(*values: int, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    ids = np.zeros(size, np.uint8)
    for number, value in enumerate(values):
        ids[number * 4 : number * 4 + 4, :10] = value
    return ids


def fill(folder: Path, count: int, *values: int, suffix: str = "") -> None:
    for number in range(count):
        save(folder / "images" / f"im{number}x.png", picture(number))
        save(folder / "masks" / f"im{number}x{suffix}.png", mask(*values))


AUTO = '[[data]]\nimages = "images"\nmasks = "masks"\n'


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


def test_every_fault_is_named_at_once_with_its_pixels(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 6, 1)
    save(tmp_path / "masks" / "im0x.png", mask(7, 9))
    save(tmp_path / "masks" / "im1x.png", mask(1, size=(40, 49)))
    save(tmp_path / "masks" / "alone.png", mask(1))
    (tmp_path / "masks" / "im2x.png").unlink()
    (tmp_path / "masks" / "im3x.png").write_bytes(b"")
    whole = (tmp_path / "images" / "im4x.png").read_bytes()
    (tmp_path / "images" / "im4x.png").write_bytes(whole[:20])
    colours = np.zeros((40, 50, 3), np.uint8)
    colours[:5] = (255, 0, 0)
    save(tmp_path / "masks" / "im5x.png", colours)
    with pytest.raises(DataFaults) as caught:
        list_samples(make(AUTO))
    text = str(caught.value)
    assert "value 7 is no class (40 px), value 9 is no class (40 px)" in text
    assert "is 49 × 40 pixels, but its image im1x.png is 50 × 40" in text
    assert "alone.png: belongs to no image" in text
    assert "im2x.png: has no labels in 'masks'" in text
    assert "im3x.png: is empty (0 bytes)" in text
    assert "im4x.png: is truncated" in text
    assert "#ff0000 (250 px)" in text
    assert text.count("\n") == 6


def test_smoothed_masks_are_told_from_wrong_ones(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 3, 1)
    smooth = np.tile(np.linspace(0, 255, 50).astype(np.uint8), (40, 1))
    save(tmp_path / "masks" / "im0x.png", smooth)
    with pytest.raises(DataFaults, match=r'smoothed.*"0-127" = "…" and "128-255" = "…"'):
        list_samples(make(AUTO))


def test_a_missing_validation_set_names_the_rule(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 3, 1)
    with pytest.raises(DataFaults, match=r'no image is for validation \(data.0: split = "train"'):
        list_samples(make(AUTO + 'split = "train"\n'))


def test_unlabelled_images_can_be_left_out(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 5, 1)
    (tmp_path / "masks" / "im2x.png").unlink()
    found = list_samples(make(AUTO + 'unlabelled = "skip"\n'))
    assert len(found.samples) == 4
    assert any("1 of 5 images have no labels" in note for note in found.notes)


def test_groups_never_part(make: Maker, tmp_path: Path) -> None:
    for spot in range(5):
        for view in range(3):
            save(tmp_path / "images" / f"spot{spot}_{view}a.png", picture(spot * 3 + view))
            save(tmp_path / "masks" / f"spot{spot}_{view}a.png", mask(1))
    found = list_samples(make(AUTO + "group = '^(spot\\d+)'\n"))
    train = {sample.group for sample in found.of("train")}
    val = {sample.group for sample in found.of("val")}
    assert len(val) == 1
    assert not train & val
    assert len(train | val) == 5


def test_serial_sections_are_cut_as_one_block(shared_data: Path, make: Maker) -> None:
    source = shared_data / "vnc-sstem"
    classes = "a = 0\nb = 1\nc = 2\nd = 3\ne = 4"
    data = f'[[data]]\nimages = "{source}/images"\nmasks = "{source}/masks"\n'
    found = list_samples(make(data, classes))
    val = sorted(int(sample.name) for sample in found.of("val"))
    assert val in ([0, 1], [10, 11])
    assert any("neighbours that look alike" in note for note in found.notes)


def test_independent_fields_are_not_taken_for_sections(shared_data: Path, make: Maker) -> None:
    source = shared_data / "superalloy-sem"
    classes = "matrix = 0\nlarge = 1\nsmall = 2"
    data = f'[[data]]\nimages = "{source}/images/train"\nmasks = "{source}/masks/train"\n'
    found = list_samples(make(data, classes))
    assert not any("alike" in note for note in found.notes)


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


def labelme(name: str, label: str, size: tuple[int, int] = (40, 50)) -> str:
    points = [[2, 2], [12, 2], [12, 12], [2, 12]]
    shape = {"label": label, "points": points, "shape_type": "polygon", "group_id": 3, "flags": {}}
    return json.dumps(
        {
            "version": "5.0.1",
            "flags": {},
            "shapes": [shape],
            "imagePath": name,
            "imageData": None,
            "imageHeight": size[0],
            "imageWidth": size[1],
        }
    )


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


def test_an_unknown_label_names_the_nearest_class(make: Maker, tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture(0))
    (tmp_path / "images" / "a.json").write_text(labelme("a.png", "Partikle"))
    project = make('[[data]]\nimages = "images"\nannotations = "images"\nsplit = "val"\n')
    with pytest.raises(DataFaults, match=r'"Partikle" is no class. Did you mean "particle"\?'):
        list_samples(project)


def test_labels_of_another_size_are_refused_when_read(make: Maker, tmp_path: Path) -> None:
    fill(tmp_path, 2, 1)
    project = make(AUTO)
    sample = list_samples(project).samples[0]
    with pytest.raises(AnnotationError, match="is 50 × 40 pixels, but its image"):
        read_labels(sample, project, (41, 50))


def test_the_same_seed_gives_the_same_split_and_rare_classes_stay_in_training() -> None:
    units = {f"u{n}": frozenset({"a"} | ({"rare"} if n < 2 else set())) for n in range(20)}
    chosen = split_units(units, 3)
    assert chosen == split_units(units, 3)
    assert len(chosen) == 4
    assert sum("rare" in units[unit] for unit in chosen) == 1


def test_folds_are_even_and_hold_every_class() -> None:
    units = {f"u{n}": frozenset({"a", "b"} if n % 3 else {"a"}) for n in range(25)}
    folds = assign_folds(units, 5, seed=1)
    sizes = [sum(fold == n for fold in folds.values()) for n in range(5)]
    assert max(sizes) - min(sizes) <= 1
    assert all(any("b" in units[u] for u, f in folds.items() if f == n) for n in range(5))


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
