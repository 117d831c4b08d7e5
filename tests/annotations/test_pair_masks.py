"""Our own masks belong to the image that was noted, whatever they are called."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.annotations.formats.labelme import write_labelme
from emcfsys_engine.annotations.pair_masks import Masks, behind_masks, masks_that_count
from emcfsys_engine.dataset.samples import gather
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.origins import Maker
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import WantedName
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.images.reader import find_images
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.convert.conversion import convert_labels
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings

CLASSES = {"resin": 0, "grain": 1}


class Folders:
    """Images, and masks of them as `predict` writes them."""

    def __init__(self, folder: Path) -> None:
        self.images, self.masks = folder / "images", folder / "masks"
        self.folder = folder
        self.images.mkdir()
        self.masks.mkdir()
        self.seed = 0

    def image(self, name: str) -> Path:
        self.seed += 1
        pixels = np.random.default_rng(self.seed).integers(0, 255, (16, 20), np.uint8)
        Image.fromarray(pixels).save(self.images / name)
        return self.images / name

    def mask(
        self,
        image: Path,
        version: int = 1,
        plane: int | None = None,
        content: str = "",
        classes: Mapping[str, int] = CLASSES,
        end: str = ".png",
    ) -> Path:
        book = OutputBook(self.masks)
        wanted = WantedName(image=str(image), folder="", planes=(plane,), version=version)
        ((stem,),) = book.stems([wanted], ".png")
        file = self.masks / f"{stem}{end}"
        if end == ".png":
            pixels = np.zeros((16, 20), np.uint8)
            pixels[4:8, 4 : 8 + self.seed] = 1
            Image.fromarray(pixels).save(file)
        else:
            write_labelme(file, [], (16, 20), image)
        maker = Maker(model=str(classes), classes=classes)
        book.note({file: digest_of_output(file)}, image=image, content=content, maker=maker)
        return file

    def counting(self) -> Masks:
        return masks_that_count(find_images(str(self.masks), self.folder))

    def pairs(self) -> dict[str, str]:
        images = find_images(str(self.images), self.folder)
        pairs, _ = self.counting().pairs(images, self.images, self.masks)
        return {str(image.path.name): mask.path.name for image, mask in pairs.items()}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_a_second_version_is_its_images_wherever_the_folders_were_moved(folders: Folders) -> None:
    image = folders.image("a.tif")
    folders.mask(image)
    folders.mask(image, version=2)
    folders.image("a.v2.tif")
    assert folders.pairs() == {"a.tif": "a.v2.png"}
    folders.images.rename(folders.folder / "moved")
    folders.images = folders.folder / "moved"
    assert folders.pairs() == {"a.tif": "a.v2.png"}
    (note,) = folders.counting().notes
    assert note == "1 file has another version beside, which counts: left out (a.png)"


def test_what_a_person_corrected_counts_before_a_newer_prediction(folders: Folders) -> None:
    image = folders.image("a.tif")
    first = folders.mask(image, content="as it was")
    first.write_bytes(first.read_bytes() + b"by a person")
    folders.mask(image, version=2, content="as it was")
    assert folders.pairs() == {"a.tif": "a.png"}
    folders.mask(image, version=2, content=OutputBook(folders.masks).contents.of(image))
    assert folders.pairs() == {"a.tif": "a.v2.png"}


def test_an_image_has_its_own_mask_beside_that_of_a_namesake_elsewhere(
    folders: Folders,
) -> None:
    elsewhere = folders.folder / "other" / "a.tif"
    folders.mask(elsewhere)
    own = folders.mask(folders.image("a.tif"))
    assert folders.pairs() == {"a.tif": own.name}
    counting = folders.counting()
    assert counting.notes == []
    counting.doubt_namesakes()  # as where nobody says which images are meant
    what = "of images that are gone, beside masks of others called alike"
    assert counting.notes == [f"1 mask is {what}: what was moved and changed counts twice (a.png)"]


def test_by_name_alone_what_is_in_doubt_is_said(folders: Folders) -> None:
    image = folders.image("a.tif")
    folders.mask(image)
    folders.mask(image, version=2)
    folders.image("a.v2.tif")
    shutil.rmtree(folders.masks / ".emcfsys")
    images = find_images(str(folders.images), folders.folder)
    counting = folders.counting()
    assert len(counting.pairs(images, folders.images, folders.masks)[0]) == 2
    (note,) = counting.notes
    assert "a.v2.png: taken for the mask of a.v2.tif by its name" in note


def test_masks_of_what_an_image_no_longer_is_are_not_measured_nor_converted(
    folders: Folders,
) -> None:
    image = folders.image("s.tif")
    for plane in range(3):
        folders.mask(image, plane=plane, content="three planes")
    for plane in range(2):
        folders.mask(image, plane=plane, content="two planes")
    settings = MeasureSettings(classes=CLASSES)
    out = folders.folder / "numbers"
    measured = measure_masks(str(folders.masks), out, settings, base=folders.folder)
    assert measured.num_masks == 2
    words = "1 mask is of an image as it was before it was predicted again: left out (s.0002.png)"
    assert words in measured.notes
    converted = convert_labels(
        str(folders.masks), folders.folder / "to", to="masks", classes=CLASSES, base=folders.folder
    )
    assert len(converted.written) == 2
    assert words in converted.notes


def test_values_of_another_models_masks_are_not_called_by_these_classes(folders: Folders) -> None:
    folders.mask(folders.image("a.tif"))
    folders.mask(folders.image("b.tif"), classes={"resin": 0, "crack": 1})
    settings = MeasureSettings(classes=CLASSES)
    out = folders.folder / "numbers"
    measured = measure_masks(str(folders.masks), out, settings, base=folders.folder)
    assert measured.num_masks == 1
    assert [Path(one.file).name for one in measured.failed] == ["b.png"]
    assert "a model of other classes made it" in measured.failed[0].why
    converted = convert_labels(
        str(folders.masks), folders.folder / "to", to="coco", classes=CLASSES, base=folders.folder
    )
    assert [Path(one.file).name for one in converted.skipped] == ["b.png"]
    # All of one naming: a person may have renamed the classes since.
    renamed = MeasureSettings(classes={"epoxy": 0, "mineral": 1})
    only = measure_masks(str(folders.masks / "a.png"), out, renamed, base=folders.folder)
    assert only.num_masks == 1
    assert "the model that made the masks calls their values resin 0, grain 1" in only.notes
    # Values that changed their names among them were not renamed.
    swapped = MeasureSettings(classes={"resin": 1, "grain": 0})
    none = measure_masks(str(folders.masks / "a.png"), out, swapped, base=folders.folder)
    assert (none.num_masks, len(none.failed)) == (0, 1)


def test_no_training_learns_another_models_numbers_until_labels_say_them(folders: Folders) -> None:
    """Masks of another project were learned by their numbers: one class as the other."""
    for name in "ab":
        folders.mask(folders.image(f"{name}.tif"), classes={"resin": 1, "grain": 0})
    text = '[project]\nname = "p"\n[classes]\nresin = 0\ngrain = 1\n[[data]]\nimages = "images"\n'
    text += 'masks = "masks"\n'

    def faults(more: str) -> list[str]:
        (folders.folder / "project.toml").write_text(text + more)
        return [str(one) for one in gather(load_project(folders.folder)).faults]

    told = faults("")
    assert len(told) == 2
    assert "a.png: a model of other classes made it (resin 1, grain 0)" in told[0]
    assert faults('[data.labels]\n"0" = "grain"\n"1" = "resin"\n') == []


def test_masks_of_a_model_that_labels_take_for_other_classes_are_told(folders: Folders) -> None:
    """Predictions among a person's masks, whose numbers are swapped, were learned swapped."""
    folders.mask(folders.image("a.tif"))
    text = '[project]\nname = "p"\n[classes]\nresin = 0\ngrain = 1\n[[data]]\nimages = "images"\n'
    text += 'masks = "masks"\n[data.labels]\n"0" = "grain"\n"1" = "resin"\n'
    (folders.folder / "project.toml").write_text(text)
    told = "1 mask is of a model, and read as other classes (a.png: 0 is 'resin' by the model"
    assert any(told in note for note in gather(load_project(folders.folder)).notes)
    labels = {"0": "grain", "1": "resin"}
    base, out = folders.folder, folders.folder / "out"
    settings = MeasureSettings(classes=CLASSES, labels=labels)
    assert any(told in n for n in measure_masks("masks", out, settings, base=base).notes)
    made = convert_labels("masks", out, to="coco", classes=CLASSES, labels=labels, base=base)
    assert any(told in note for note in made.notes)


def test_classes_that_came_or_went_change_no_others(folders: Folders) -> None:
    """Masks that a model of fewer classes made were left out once another had made some."""
    folders.mask(folders.image("a.tif"))
    folders.mask(folders.image("b.tif"), classes=CLASSES | {"pore": 2})
    for classes in (CLASSES, CLASSES | {"pore": 2}, CLASSES | {"crack": 3}):
        assert folders.counting().of_other_classes(classes) == []
    others = folders.counting().of_other_classes(CLASSES | {"crack": 2})
    assert [mask.path.name for mask in others] == ["b.png"]


def test_outlines_of_a_second_version_are_their_images_too(folders: Folders) -> None:
    image = folders.image("a.tif")
    folders.mask(image, end=".json")
    folders.mask(image, version=2, end=".json")
    folders.image("a.v2.tif")
    converted = convert_labels(
        str(folders.masks / "*.json"),
        folders.folder / "to",
        to="masks",
        images=str(folders.images),
        classes=CLASSES,
        base=folders.folder,
    )
    assert [Path(file).name for file in converted.written] == ["a.png"], converted
    assert any("a.json" in note and "another version" in note for note in converted.notes)


@pytest.mark.parametrize("has_changed", [False, True])
def test_outlines_of_a_newer_prediction_say_less_than_the_mask_that_a_person_corrected(
    folders: Folders, has_changed: bool
) -> None:
    """Unless the image was another one when that mask was made."""
    image, now = folders.image("a.tif"), "another" if has_changed else "as it was"
    corrected = folders.mask(image, content="as it was")
    older = folders.mask(image, content="as it was", end=".json")
    newer = folders.mask(image, version=2, content=now, end=".json")
    folders.mask(image, version=2, content=now)
    other = folders.mask(folders.image("b.tif"), end=".json")
    assert behind_masks([older, newer, other]) == []
    Image.fromarray(np.ones((16, 20), np.uint8)).save(corrected)
    assert behind_masks([older, newer, other]) == [older, *([] if has_changed else [newer])]


def test_outlines_that_a_person_changed_are_named_where_the_mask_beside_them_is_counted(
    folders: Folders,
) -> None:
    image = folders.image("a.tif")
    mask, outlines = folders.mask(image), folders.mask(image, end=".json")
    newer = folders.mask(image, version=2)
    assert [note for note in folders.counting().notes if "outlines" in note] == []
    outlines.write_text(outlines.read_text() + "\n")
    counting = folders.counting()
    assert [ref.path for ref in counting.refs] == [newer]
    told = [note for note in counting.notes if "outlines" in note]
    assert len(told) == 1 and "1 file of outlines changed by a person" in told[0], told
    Image.fromarray(np.ones((16, 20), np.uint8)).save(mask)  # the mask itself counts then
    assert [note for note in folders.counting().notes if "outlines" in note] == []


def test_masks_that_others_wrote_pair_by_name_as_ever(folders: Folders) -> None:
    folders.image("a.tif")
    Image.fromarray(np.zeros((16, 20), np.uint8)).save(folders.masks / "a_mask.png")
    assert folders.pairs() == {"a.tif": "a_mask.png"}
    assert folders.counting().origins == {}
    assert folders.counting().refs == [ImageRef(path=folders.masks / "a_mask.png")]


def test_masks_of_images_that_became_others_are_not_taken_for_masks_of_these(
    folders: Folders,
) -> None:
    content = OutputBook(folders.masks).contents
    first, second = folders.image("a.tif"), folders.image("b.tif")
    folders.mask(first, content=content.of(first))
    corrected = folders.mask(second, content=content.of(second))
    corrected.write_bytes(corrected.read_bytes() + b"by a person")
    assert folders.pairs() == {"a.tif": "a.png", "b.tif": "b.png"}
    for name in ("a.tif", "b.tif"):
        folders.image(name)
    assert folders.pairs() == {"b.tif": "b.png"}
    settings = MeasureSettings(classes=CLASSES)
    out = folders.folder / "numbers"
    measured = measure_masks(
        str(folders.masks), out, settings, images=str(folders.images), base=folders.folder
    )
    assert measured.num_masks == 1
    words = " ".join(measured.notes)
    assert "1 mask is of an image that changed since: left out, predict it again (a.png)" in words
    assert "1 mask changed by a person, of an image that changed since (b.png)" in words


def test_labels_that_a_model_made_are_named_until_they_are_corrected(folders: Folders) -> None:
    for name in ("a.png", "b.png"):
        masks = folders.mask(folders.image(name))
    told = [note for note in _gathered(folders, "masks") if "as a model made them" in note]
    assert len(told) == 1
    assert told[0].startswith("2 of 2 labels are as a model made them (a.png, b.png)")
    Image.fromarray(np.ones((16, 20), np.uint8)).save(masks)
    told = [note for note in _gathered(folders, "masks") if "as a model made them" in note]
    assert told[0].startswith("1 of 2 labels are as a model made them (a.png)")


def test_outlines_that_a_model_made_are_named_too(folders: Folders) -> None:
    folders.mask(folders.image("a.png"), end=".json")
    told = [note for note in _gathered(folders, "annotations") if "as a model made them" in note]
    assert told[0].startswith("1 of 1 labels are as a model made them (a.json)")


def _gathered(folders: Folders, key: str) -> tuple[str, ...]:
    (folders.folder / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\nresin = 0\ngrain = 1\n'
        f'[[data]]\nimages = "images"\n{key} = "masks"\n'
    )
    return gather(load_project(folders.folder)).notes
