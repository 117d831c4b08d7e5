"""What is noted of outputs says which image, plane and model each was made of."""

from pathlib import Path

from emcfsys_engine.images.origins import Maker, Origins
from emcfsys_engine.images.output_names import Stems

OUT = Path("/out")
MODEL = Maker(model="run-0001 step 10", classes={"resin": 0, "grain": 7})


def line(digest: str, content: str, image: str = "/in/a.tif", maker: str = "") -> dict[str, str]:
    return {"digest": digest, "content": content, "image": image, "maker": maker}


def noted() -> Origins:
    """One mask of plane 2 of a stack, by a model."""
    stems = Stems()
    origins = Origins(OUT, stems)
    origins.learn_maker(MODEL.line)
    stems.take("/in/a.tif", 2, 1, "a.0002")
    stems.take("/in/a.tif", None, 1, "a")
    origins.learn_file("a.0002.png", line("d1", "c1", maker=MODEL.key))
    return origins


def test_a_mask_is_of_its_image_plane_and_model() -> None:
    found = noted().of("a.0002.png", "d1")
    assert found is not None
    assert (found.image, found.plane, found.version) == (Path("/in/a.tif"), 2, 1)
    assert found.maker == MODEL
    assert not found.is_changed
    assert not found.is_outdated


def test_what_a_person_changed_is_told_and_still_of_the_model_that_made_it() -> None:
    found = noted().of("a.0002.png", "another")
    assert found is not None
    assert found.is_changed
    assert found.maker == MODEL


def test_an_image_that_became_another_outdates_its_older_masks() -> None:
    origins = noted()
    origins.learn_file("a.png", line("d2", "c2"))
    older, newer = origins.of("a.0002.png", "d1"), origins.of("a.png", "d2")
    assert older is not None
    assert newer is not None
    assert (older.is_outdated, newer.is_outdated) == (True, False)
    assert older.order < newer.order


def test_what_nobody_noted_has_no_origin() -> None:
    assert noted().of("b.png", "d1") is None
    assert noted().maker_of("b.png", "d1") is None
    assert noted().key_of("a.0002.png", "another") == ""


def test_models_differ_by_their_run_and_by_the_values_of_their_classes() -> None:
    keys = {
        MODEL.key,
        Maker(model="run-0002 step 10", classes=MODEL.classes).key,
        Maker(model=MODEL.model, classes={"resin": 0, "grain": 1}).key,
        Maker(model=MODEL.model, classes={"grain": 7, "resin": 0}).key,
    }
    assert len(keys) == 4
