"""Suggestions: a model's outlines in the folder where people draw, no labels until saved there."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.annotations.draw import shapes_of
from emcfsys_engine.annotations.formats.labelme import SuggestedBy, write_labelme
from emcfsys_engine.annotations.masks import label_table, read_mask
from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.errors import InputError, ProjectError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.model_card import ModelCard, read_card
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.tools import suggest
from emcfsys_engine.tools.suggest import what_to_suggest
from tests.learn.conftest import PROJECT, run_here, write_picture

LABELLED = ("a0", "a1", "a2")
BARE = ("b0", "b1", "b2", "b3")
DATA = '[[data]]\nimages = "images"\nannotations = "drawn"\n[suggest]\nnumber = 2\n[model]'


@pytest.fixture(scope="module")
def suggested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model, three labelled images, and two suggestions for the other four."""
    folder = tmp_path_factory.mktemp("suggest")
    rng = np.random.default_rng(1)
    head, _, rest = PROJECT.partition("[[data]]")
    (folder / "project.toml").write_text(head + DATA + rest.rpartition("[model]")[2])
    (folder / "drawn").mkdir()
    for name in (*LABELLED, *BARE):
        write_picture(rng, folder / "images" / f"{name}.png", folder / "truth" / f"{name}.png")
    project = load_project(folder)
    for name in LABELLED:
        _draw(project, name)
    project = load_project(folder)
    assert run_here(new_run(project.runs_folder, TrainRequest(), project=project)) == 0
    _command("suggest", folder)
    return folder


def _command(*words: object) -> str:
    command = [sys.executable, "-m", "emcfsys_engine", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _draw(project: Project, name: str) -> None:
    table = label_table(project, project.data[0])
    truth = ImageRef(path=project.folder / "truth" / f"{name}.png")
    ids = read_mask(truth, table, "index", project.class_values)
    shapes = shapes_of(ids, {0: "resin", 1: "grain"}, background=0)
    write_labelme(
        project.folder / "drawn" / f"{name}.json",
        shapes,
        (64, 64),
        project.folder / "images" / f"{name}.png",
    )


def _card(folder: Path) -> ModelCard:
    return read_card(next(folder.glob("runs/*/*.safetensors")))


def _labelled(folder: Path) -> set[str]:
    return {one.name for one in list_samples(load_project(folder)).samples}


def _suggestions(folder: Path) -> list[Path]:
    return sorted((folder / "drawn").glob("b*.json"))


def test_suggestions_lie_where_people_draw_and_are_no_labels(suggested: Path) -> None:
    files = _suggestions(suggested)
    assert len(files) == 2
    document = json.loads(files[0].read_text())
    assert document["flags"] == {"suggestion": True}
    assert document["emcfsys"]["model"] == "run-0001"
    assert (files[0].parent / document["imagePath"]).resolve().exists()
    assert _labelled(suggested) == set(LABELLED)


@pytest.mark.long
def test_a_suggestion_that_a_person_saved_is_a_label_and_never_touched_again(
    suggested: Path,
) -> None:
    mine, other = _suggestions(suggested)
    before = mine.read_bytes()
    mine.write_text(json.dumps(json.loads(before), indent=2))  # as Labelme writes it
    saved = mine.read_bytes()
    try:
        assert _labelled(suggested) == {*LABELLED, mine.stem}
        better = what_to_suggest(load_project(suggested), 2, 200, score=2.0)
        assert {path.stem for path in better.renewed} == {other.stem}
        assert mine.stem not in {path.stem for path in better.images}
        _command("suggest", suggested, "--number", "3")
        assert mine.read_bytes() == saved
        assert len(_suggestions(suggested)) == 4  # of which one is a person's
    finally:
        mine.write_bytes(before)


def test_a_copied_suggestion_is_no_label_and_convert_leaves_it_out(
    suggested: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(suggested, copy, ignore=shutil.ignore_patterns("runs", ".emcfsys"))
    assert _labelled(copy) == set(LABELLED)
    _command("convert", copy / "drawn", "--to", "masks", "--images", copy / "images",
             "--project", copy, "--out", tmp_path / "masks")  # fmt: skip
    assert {file.stem for file in (tmp_path / "masks").glob("*.png")} == set(LABELLED)


def test_what_a_person_saves_while_suggestions_are_written_is_kept(
    suggested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(suggested, copy)
    ranking = copy / ".emcfsys" / "suggestions" / "ranking.json"
    text = ranking.read_text().replace(str(suggested), str(copy))
    ranking.write_text(text)
    project = load_project(copy)
    wanted = what_to_suggest(project, 4, 200, score=2.0)
    mine = {file: f"saved by a person {file.name}".encode() for _, file in wanted.images.values()}

    def saving(*given: Any, **options: Any) -> Any:
        for file, content in mine.items():
            file.write_bytes(content)
        return shapes_of(*given, **options)

    monkeypatch.setattr(suggest, "shapes_of", saving)
    by, card = SuggestedBy(model="m", score=2.0), _card(copy)
    made = suggest.write_suggestions(project, wanted, ranking, by, card)
    assert not made
    assert all(file.read_bytes() == content for file, content in mine.items())
    assert not list((copy / "drawn").glob(".*tmp"))


def test_only_what_suggestions_were_made_of_is_removed_before_new_ones(
    suggested: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(suggested, copy)
    out = copy / ".emcfsys" / "suggestions"
    mine = [out / "chapter 1.docx", out / "b0.v2.png", out / ".emcfsys" / "notes.txt"]
    for file in mine:
        file.write_bytes(b"mine")
    suggest.remove_last(out)
    book = out / ".emcfsys" / "outputs.jsonl"
    assert {file for file in out.rglob("*") if file.is_file()} == {*mine, book}
    (out / "ranking.json").write_text("of somebody else")
    with pytest.raises(InputError, match=r"ranking.json: is not as this program wrote it"):
        suggest.remove_last(out)


def test_where_a_link_leads_elsewhere_nothing_is_removed(tmp_path: Path) -> None:
    """The folder of a stranger's project may be a link to anything of the person's."""
    thesis = tmp_path / "suggestions" / "thesis.docx"
    thesis.parent.mkdir()
    thesis.write_bytes(b"mine")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / ".emcfsys").symlink_to(tmp_path)
    suggest.remove_last(tmp_path / "project" / ".emcfsys" / "suggestions")
    suggest.remove_last(tmp_path / "nothing yet")
    assert thesis.read_bytes() == b"mine"


def test_a_suggestion_that_no_disk_takes_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def full(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))

    with pytest.raises(InputError, match=r"a.json: cannot be written: No space .* Free some space"):
        suggest._placed(tmp_path / "a.json", full)
    assert not list(tmp_path.iterdir())


def test_suggestions_are_called_as_the_model_calls_them_whatever_the_project_numbers_now(
    suggested: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(suggested, copy)
    file = copy / "project.toml"
    file.write_text(file.read_text().replace("resin = 0\ngrain = 1", "grain = 0\nresin = 1"))
    ranking = copy / ".emcfsys" / "suggestions" / "ranking.json"
    ranking.write_text(ranking.read_text().replace(str(suggested), str(copy)))
    mask = copy / ".emcfsys" / "suggestions" / "b0.png"
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:20] = 1
    Image.fromarray(pixels).save(mask)
    project, card = load_project(copy), _card(copy)
    suggest.refuse_other_classes(project, card, mask)
    wanted = what_to_suggest(project, 4, 200, score=2.0)
    by = SuggestedBy(model="m", score=2.0)
    suggest.write_suggestions(project, wanted, ranking, by, card)
    shapes = json.loads((copy / "drawn" / "b0.json").read_text())["shapes"]
    # What is not drawn is the class of value 0, which is grain now: resin is drawn.
    assert {shape["label"] for shape in shapes} == {"resin"}
    assert min(y for shape in shapes for _, y in shape["points"]) >= 19
    file.write_text(file.read_text().replace("grain = 0", "crack = 0"))
    with pytest.raises(InputError, match="knows classes that .* has not: grain"):
        suggest.refuse_other_classes(load_project(copy), card, mask)


def test_suggestions_are_called_so_that_data_labels_read_them_as_the_model_meant(
    suggested: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(suggested, copy)
    file = copy / "project.toml"
    swapped = '[data.labels]\n"grain" = "resin"\n"crystal" = "grain"\n[suggest]'
    file.write_text(file.read_text().replace("[suggest]", swapped))
    ranking = copy / ".emcfsys" / "suggestions" / "ranking.json"
    ranking.write_text(ranking.read_text().replace(str(suggested), str(copy)))
    pixels = np.zeros((64, 64), np.uint8)
    pixels[20:] = 1
    Image.fromarray(pixels).save(copy / ".emcfsys" / "suggestions" / "b0.png")
    project, card = load_project(copy), _card(copy)
    wanted = what_to_suggest(project, 4, 200, score=2.0)
    by = SuggestedBy(model="m", score=2.0)
    suggest.write_suggestions(project, wanted, ranking, by, card)
    table = label_table(project, project.data[0])
    shapes = json.loads((copy / "drawn" / "b0.json").read_text())["shapes"]
    assert {table.of_name(shape["label"]) for shape in shapes} == {1}
    file.write_text(file.read_text().replace('"crystal" = "grain"\n', ""))
    with pytest.raises(ProjectError, match="takes 'grain' for 'resin', and has no word"):
        suggest.words_of(load_project(copy), 0, card.classes)


def test_a_project_of_masks_is_told_where_suggestions_would_lie(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    text = '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "images"\n'
    text += 'masks = "images"\n'
    (tmp_path / "project.toml").write_text(text)
    with pytest.raises(ProjectError, match="annotations"):
        what_to_suggest(load_project(tmp_path), 1, 10, None)


def test_a_project_without_a_bare_image_has_nothing_to_suggest(suggested: Path) -> None:
    project = load_project(suggested)
    drawn = suggested / "drawn"
    others = [name for name in BARE if not (drawn / f"{name}.json").exists()]
    waiting = {file: file.read_bytes() for file in _suggestions(suggested)}
    try:
        for name in (*others, *(file.stem for file in waiting)):
            _draw(project, name)
        with pytest.raises(ProjectError, match="every image has labels"):
            what_to_suggest(project, 5, 10, None)
    finally:
        for name in others:
            (drawn / f"{name}.json").unlink()
        for file, content in waiting.items():
            file.write_bytes(content)
