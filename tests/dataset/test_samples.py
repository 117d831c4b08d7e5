"""Images are paired with labels, split, and every fault is named at once."""

from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.dataset.samples import list_samples, read_labels
from emcfsys_engine.errors import AnnotationError, DataFaults
from tests.dataset.made import AUTO, Maker, fill, labelme, mask, picture, save


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
