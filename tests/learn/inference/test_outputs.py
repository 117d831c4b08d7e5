"""`predict` replaces only what it wrote itself, and gives each image files of its own."""

import os
from pathlib import Path
from typing import Any, Literal

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.learn.inference import outputs
from emcfsys_engine.learn.inference.files import Counted
from emcfsys_engine.run.events import (
    EventWriter,
    ImageDone,
    ImageFailed,
    RunFinished,
)
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.tools.clean_runs import clean_runs
from emcfsys_engine.tools.convert.conversion import convert_labels
from tests.learn.inference.made import Predict, draw, names_in, warnings_of


@pytest.mark.parametrize("out", ["link", "out/../in", "in", "in/../out/../in"])
@pytest.mark.parametrize("force", [False, True])
def test_masks_never_replace_their_images_whatever_the_paths_look_like(
    run: Predict, tmp_path: Path, out: str, force: bool
) -> None:
    original = draw(tmp_path / "in" / "a.png")
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="inside the output folder"):
        run(out=out, force=force)
    assert (tmp_path / "in" / "a.png").read_bytes() == original
    assert names_in(tmp_path / "in") == ["a.png"]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_in_the_output_that_leads_to_the_images_is_refused(
    run: Predict, tmp_path: Path, force: bool
) -> None:
    original = draw(tmp_path / "in" / "sub" / "a.png")
    draw(tmp_path / "in" / "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "in" / "sub")
    count, said = run(force=force)
    assert count == Counted(done=1, skipped=0, failed=1)
    (failed,) = (event for event in said if isinstance(event, ImageFailed))
    assert "the folder of its original" in failed.reason
    assert (tmp_path / "in" / "sub" / "a.png").read_bytes() == original
    assert names_in(tmp_path / "in") == ["b.png", "sub/a.png"]


def test_an_image_that_is_linked_into_the_output_is_kept(run: Predict, tmp_path: Path) -> None:
    original = draw(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "in" / "a.png", tmp_path / "out" / "a.png")
    _, said = run(force=True)
    assert names_in(tmp_path / "out") == ["a.png", "a.v2.png"]
    for folder in ("in", "out"):
        assert (tmp_path / folder / "a.png").read_bytes() == original
    assert "out/a.png is not as a prediction wrote it, and kept" in warnings_of(said)


@pytest.mark.parametrize("name", ["a.png", "a.overlay.png", "a.json", "a.ome.zarr"])
def test_force_replaces_what_is_ours_and_keeps_what_a_person_changed(
    run: Predict, tmp_path: Path, name: str
) -> None:
    draw(tmp_path / "in" / "a.png")
    mask_format = "ome-zarr" if name.endswith("zarr") else "png"
    options: dict[str, Any] = {
        "overlay": True, "vectors": ("labelme",), "mask_format": mask_format, "force": True,
    }  # fmt: skip
    run(**options)
    made = names_in(tmp_path / "out")
    _, said = run(**options)
    assert names_in(tmp_path / "out") == made
    assert not warnings_of(said)
    changed = tmp_path / "out" / name
    changed = changed / "zarr.json" if changed.is_dir() else changed
    changed.write_bytes(changed.read_bytes() + b" ")
    corrected = changed.read_bytes()
    for _ in range(2):  # the new version is ours: it is replaced the second time
        _, said = run(**options)
        assert changed.read_bytes() == corrected
        assert name in warnings_of(said) or "a.v2" in str(said)
    assert len(names_in(tmp_path / "out")) == 2 * len(made)
    (done,) = (event for event in said if isinstance(event, ImageDone))
    assert Path(done.mask).name.startswith("a.v2.")
    assert run(mask_format=mask_format)[0].skipped == 1


@pytest.mark.parametrize("mask_format", ["png", "ome-zarr"])
def test_what_a_person_saves_as_a_mask_gets_its_name_is_kept(
    run: Predict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mask_format: Literal["png", "ome-zarr"],
) -> None:
    draw(tmp_path / "in" / "a.png")
    run(mask_format=mask_format)
    name = "a.png" if mask_format == "png" else "a.ome.zarr/zarr.json"
    mask, note = tmp_path / "out" / name, OutputBook.note

    def and_they_save(book: OutputBook, *files: Any, **of: Any) -> None:
        note(book, *files, **of)
        mask.write_bytes(b"a person's")

    with monkeypatch.context() as patch:
        patch.setattr(OutputBook, "note", and_they_save)
        _, said = run(mask_format=mask_format, force=True)
    assert "was changed, or written by somebody else" in str(said)
    assert mask.read_bytes() == b"a person's"
    run(mask_format=mask_format, force=True)
    assert mask.read_bytes() == b"a person's"
    names = {one.split("/")[0] for one in names_in(tmp_path / "out")}
    assert names == {name.split("/")[0], name.split("/")[0].replace("a.", "a.v2.")}


def test_outputs_of_before_are_left_alone_and_kept_under_force(
    run: Predict, tmp_path: Path
) -> None:
    draw(tmp_path / "in" / "a.tif")
    before = draw(tmp_path / "out" / "a.png", 3)
    assert run()[0] == Counted(done=0, skipped=1, failed=0)
    assert run(force=True)[0].done == 1
    assert (tmp_path / "out" / "a.png").read_bytes() == before
    assert names_in(tmp_path / "out") == ["a.png", "a.v2.png"]


def test_files_for_all_images_that_are_not_ours_are_kept(run: Predict, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "annotations.json").write_text("{}")
    (tmp_path / "out" / "ranking.csv").write_text("mine")
    _, said = run(vectors=("coco",), rank_uncertain=True)
    assert (tmp_path / "out" / "annotations.json").read_text() == "{}"
    assert (tmp_path / "out" / "ranking.csv").read_text() == "mine"
    assert "annotations.json is not as a prediction wrote it" in warnings_of(said)
    made = {"annotations.v2.json", "ranking.v2.csv", "ranking.json"}
    assert made <= set(names_in(tmp_path / "out"))


def test_names_stay_and_are_never_shared_when_files_are_added_later(
    run: Predict, tmp_path: Path
) -> None:
    draw(tmp_path / "in" / "a.tif", 1)
    draw(tmp_path / "in" / "s.0001.tif", 2)
    assert run(overlay=True)[0].done == 2
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names_in(tmp_path / "out")}
    draw(tmp_path / "in" / "a.png", 3)
    draw(tmp_path / "in" / "a.overlay.tif", 4)
    draw(tmp_path / "in" / "s.tif", 5, (2, 48, 56))
    assert run(overlay=True)[0] == Counted(done=4, skipped=2, failed=0)
    assert len(names_in(tmp_path / "out")) == 2 * 6
    for name, content in before.items():
        assert (tmp_path / "out" / name).read_bytes() == content


def test_images_of_another_folder_are_not_taken_for_done(run: Predict, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.tif", 1)
    draw(tmp_path / "tuesday" / "a.tif", 2)
    assert run()[0].done == 1
    assert run(inputs=("tuesday",))[0].done == 1
    assert run(inputs=("in", "tuesday"))[0] == Counted(done=0, skipped=2, failed=0)
    assert len(names_in(tmp_path / "out")) == 2
    (tmp_path / "in").rename(tmp_path / "monday")  # the same images at another path
    assert run(inputs=("monday",))[0] == Counted(done=0, skipped=1, failed=0)


def test_names_as_long_as_can_be_get_all_their_files(run: Predict, tmp_path: Path) -> None:
    for end in ("a", "b"):
        draw(tmp_path / "in" / f"{'n' * 246}{end}.png")
    options: dict[str, Any] = {"overlay": True, "probability": True, "vectors": ("labelme",)}
    assert run(**options)[0].done == 2
    assert len(names_in(tmp_path / "out")) == 2 * 5
    assert run(**options)[0].skipped == 2


@pytest.mark.parametrize("mask_format", ["png", "ome-tiff", "ome-zarr"])
def test_cleaning_takes_companions_of_any_format_and_none_that_a_person_changed(
    run: Predict, tmp_path: Path, mask_format: str
) -> None:
    for name in ("a", "b"):
        draw(tmp_path / "in" / f"{name}.png")
    _, said = run(overlay=True, mask_format=mask_format)
    out = tmp_path / "out"
    request = PredictRequest(model="m", inputs=(str(tmp_path / "in"),), out=str(out))
    made = new_run(out / ".emcfsys", request)
    with EventWriter(made.events_file) as events:
        for event in (*said, RunFinished(reason="done")):
            events.write(event)
    (out / "a.overlay.png").write_bytes(b"drawn upon")
    clean_runs(out, what=("companions",), remove=True)
    assert (out / "a.overlay.png").read_bytes() == b"drawn upon"
    assert not (out / "b.overlay.png").exists()


def test_no_two_classes_share_the_file_of_their_probability() -> None:
    kinds = outputs.probability_kinds(("a/b", "a_b", "A_B", "a\0b", "c"))
    assert len({kind.casefold() for kind in kinds.values()}) == 5
    assert kinds["c"] == "prob-c"
    assert not [kind for kind in kinds.values() if {"/", "\0"} & set(kind)]


def test_a_class_name_puts_nothing_into_a_files_name_that_moves_a_terminal() -> None:
    kinds = outputs.probability_kinds(("a\nb\x1b[2J", "a_b_[2J", "\u202egpj", "µ 2"))
    assert [*kinds.values()] == ["prob-a_b_[2J", "prob-a_b_[2J~2", "prob-_gpj", "prob-µ 2"]


def test_labels_that_convert_made_are_no_predictions_own(run: Predict, tmp_path: Path) -> None:
    """They were replaced under --force: a person may be about to draw in them."""
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "masks" / "a.png")
    for kind in ("labelme", "coco"):
        where = {"images": str(tmp_path / "in"), "to": kind}
        made = convert_labels(str(tmp_path / "masks"), tmp_path / "out", **where)  # type: ignore[arg-type]
        assert not made.skipped
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names_in(tmp_path / "out")}
    assert set(before) == {"a.json", "annotations.json"}
    for _ in range(2):
        _, said = run(vectors=("labelme", "coco"), force=True)
        for name, content in before.items():
            assert (tmp_path / "out" / name).read_bytes() == content
            assert f"out/{name} is not as a prediction wrote it" in warnings_of(said) or _
    made = {"a.v2.png", "a.v2.json", "annotations.v2.json"}
    assert set(names_in(tmp_path / "out")) == set(before) | made

    # Nor does a conversion, asked to overwrite, take what was predicted.
    predicted = (tmp_path / "out" / "a.v2.json").read_bytes()
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a.v2.png")
    convert_labels(str(tmp_path / "masks"), tmp_path / "out", to="labelme", overwrite=True)
    assert (tmp_path / "out" / "a.v2.json").read_bytes() == predicted
    assert (tmp_path / "out" / "a.v2.v2.json").is_file()
