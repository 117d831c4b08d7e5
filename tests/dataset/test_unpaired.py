"""What is said of images without labels: nothing is drawn yet, or it lies elsewhere."""

from pathlib import Path

from emcfsys_engine.dataset.samples import gather
from emcfsys_engine.tools.check import check_project
from tests.dataset.made import Maker, fill, labelme, mask, picture, save

BESIDE = '[[data]]\nimages = "images"\nannotations = "images"\n'
FOLLOW = "[training]\nfollow = true\n"


def test_before_anything_is_drawn_the_remedy_is_to_draw_and_names_need_not_agree(
    make: Maker, tmp_path: Path
) -> None:
    for number in range(3):
        save(tmp_path / "images" / f"im{number}.png", picture(number))
    (fault,) = gather(make(BESIDE)).faults
    assert "Draw some there" in fault.remedy
    (tmp_path / "images" / "other.json").write_text(labelme("other.png", "particle"))
    (fault,) = gather(make(BESIDE)).faults
    assert "Names must agree" in fault.remedy


def test_a_training_that_follows_waits_for_labels_which_is_no_error(
    make: Maker, tmp_path: Path
) -> None:
    for number in range(3):
        save(tmp_path / "images" / f"im{number}.png", picture(number))
    found = check_project(make(BESIDE + FOLLOW))
    assert (found.errors, found.waits) == ((), True)
    assert any("0 images are labelled" in note for note in found.notes)
    for number in range(2):
        file = tmp_path / "images" / f"im{number}.json"
        file.write_text(labelme(f"im{number}.png", "particle"))
    assert not check_project(make(BESIDE + FOLLOW)).waits


def test_labels_that_lie_elsewhere_are_named_to_a_training_that_waits(
    make: Maker, tmp_path: Path
) -> None:
    (tmp_path / "drawn").mkdir()
    for number in range(2):
        save(tmp_path / "images" / f"im{number}.png", picture(number))
        (tmp_path / "images" / f"im{number}.json").write_text(
            labelme(f"im{number}.png", "particle")
        )
    data = '[[data]]\nimages = "images"\nannotations = "drawn"\n'
    (fault,) = gather(make(data + FOLLOW), for_training=False).faults
    assert 'annotations = "images"' in fault.remedy


def test_the_images_that_have_no_masks_yet_are_no_fault_of_a_training_that_follows(
    make: Maker, tmp_path: Path
) -> None:
    fill(tmp_path, 2, 1)
    save(tmp_path / "images" / "bare.png", picture(9))
    data = '[[data]]\nimages = "images"\nmasks = "masks"\n'
    (fault,) = gather(make(data)).faults
    assert 'unlabelled = "skip"' in fault.remedy
    found = gather(make(data + FOLLOW))
    assert not found.faults
    save(tmp_path / "masks" / "bare.png", mask(1))
    assert len(gather(make(data + FOLLOW)).samples) == 3
