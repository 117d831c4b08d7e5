"""What the Data tab writes into project.toml, and how it sees that somebody draws."""

import queue
from pathlib import Path

import pytest
from PIL import Image
from textual.message import Message

from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.project import load_project
from emcfsys_tui.engine.data import (
    Decoder,
    LabelWatch,
    PictureSpec,
    assign_label,
    label_in,
    list_images,
    proposal,
    set_split,
)
from emcfsys_tui.engine.projects import count_images
from emcfsys_tui.messages import ImagesRead, PictureRead, PointRead
from tests.waiting import PATIENCE_S


@pytest.mark.parametrize(
    ("finding", "label"),
    [
        ('label "membran" is no class', "membran"),
        ("value 7 is no class", "7"),
        ("has no labels", ""),
    ],
)
def test_the_unknown_label_of_a_finding_is_found(finding: str, label: str) -> None:
    assert label_in(finding) == label


def test_a_label_is_proposed_the_nearest_class_and_written_with_comments_kept(demo: Path) -> None:
    file = demo / "project.toml"
    file.write_text("# mine\n" + file.read_text())
    assert proposal(demo, "membran") == "membran = membrane"
    assert proposal(demo, "zzz") == "zzz = ignore"
    assign_label(demo, 0, "membran = membrane")
    assert load_project(demo).data[0].labels["membran"] == "membrane"
    assert file.read_text().startswith("# mine\n")


@pytest.mark.parametrize("answer", ["membran", "= membrane", "membran ="])
def test_what_is_no_assignment_changes_nothing(answer: str, demo: Path) -> None:
    before = (demo / "project.toml").read_bytes()
    with pytest.raises(InputError, match="membran = membrane"):
        assign_label(demo, 0, answer)
    with pytest.raises(EmcfError):
        set_split(demo, 0, "nowhere")
    assert (demo / "project.toml").read_bytes() == before


def test_a_label_that_is_written_is_seen_and_what_lies_still_is_not(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emcfsys_tui.engine.data._REST", 0)
    watch = LabelWatch(demo)
    assert watch.read() is None
    assert watch.read() is None
    source = load_project(demo).data[0]
    folder = demo / (source.masks or source.annotations or "")
    (folder / "new.json").write_text("{}")
    assert watch.read() is not None
    assert watch.read() is None
    (demo / "predicted" / "0").mkdir(parents=True)
    (demo / "predicted" / "0" / "ranking.json").write_text("{}")  # a model has looked at the images
    assert watch.read() is not None
    assert watch.read() is None


def test_previews_of_runs_are_no_images_of_a_project_that_holds_its_runs(world: Path) -> None:
    folder = world / "scans"
    preview = folder / "runs" / "run-0001" / "previews" / "step-1-a.png"
    preview.parent.mkdir(parents=True)
    (preview.parents[1] / "run.json").write_text("{}")
    for file in (folder / "a.png", folder / "in" / "b.png", preview):
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (16, 16)).save(file)
    (folder / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "."\n'
        'annotations = "."\n'
    )
    said: list[Message] = []
    list_images(folder, said.append, lambda: False)
    lists = [[row.name for row in one.images.rows] for one in said if isinstance(one, ImagesRead)]
    assert lists == [["a", "in/b"], ["a", "in/b"]]
    assert count_images(load_project(folder)) == (2, 0)


@pytest.mark.parametrize("point_first", [True, False])
def test_a_point_is_told_of_though_a_picture_of_its_image_is_asked_for_meanwhile(
    demo: Path, point_first: bool
) -> None:
    """Over a slow line both wait together; the picture alone was answered."""
    said: queue.SimpleQueue[Message] = queue.SimpleQueue()
    decoder = Decoder(said.put)
    image = next((demo / "images" / "train").iterdir())
    whole = PictureSpec(key="a", path=str(image)).sized((8, 8), None, None, is_calm=False)
    part = whole.sized((9, 9), (0, 0, 9, 9), None, is_calm=False)
    decoder.request(whole)  # while its child starts, the others wait
    for one in (whole.at((3, 4)), part) if point_first else (part, whole.at((3, 4))):
        decoder.request(one)
    found: list[Message] = []
    while {type(one) for one in found} != {PictureRead, PointRead}:
        found.append(said.get(timeout=PATIENCE_S))
    decoder.close()
    assert [one.text[:10] for one in found if isinstance(one, PointRead)] == ["3,4  value"]
