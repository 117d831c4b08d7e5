"""The child that looks at images: greys, outlines of labels, and one line for what is none."""

import io
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from emcfsys_engine import any_names
from emcfsys_engine.run.folder import Run
from emcfsys_tui.pictures.decoder import Viewer, list_images, serve
from emcfsys_tui.pictures.protocol import Answer, PictureRequest
from tests.tui.conftest import made_run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.tile(np.arange(80, dtype=np.uint8), (40, 1))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    mask = np.zeros((40, 80), np.uint8)
    mask[10:30, 20:60] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "a.png"


def request(image: Path, **given: object) -> PictureRequest:
    base = {"key": "k", "path": str(image), "width": 40, "height": 20}
    return msgspec.convert({**base, **given}, PictureRequest, strict=False)


def test_an_image_comes_as_greys_of_its_form(image: Path) -> None:
    reply = Viewer().answer(request(image))
    assert (reply.answer.width, reply.answer.height) == (40, 20)
    assert reply.answer.image_px == (80, 40)
    greys = np.frombuffer(reply.grey, np.uint8).reshape(20, 40).astype(int)
    assert np.all(np.diff(greys[0]) >= 0)
    assert np.ptp(greys[:, 5]) == 0


def test_a_masks_classes_and_their_rims_lie_over_it(image: Path) -> None:
    reply = Viewer().answer(request(image, mask=str(image.with_name("mask.png"))))
    ids = np.frombuffer(reply.ids, np.uint8).reshape(20, 40)
    rims = np.frombuffer(reply.rims, np.uint8).reshape(20, 40)
    assert ids[10, 20] == 1
    assert 0 < (rims == 1).sum() < (ids == 1).sum()
    assert np.all(ids[rims == 1] == 1)


def test_labels_and_names_are_those_of_the_files_as_they_are_now(image: Path) -> None:
    """A picture is kept for zooming; whoever saves its labels or project.toml sees that."""
    project, mask = image.with_name("project.toml"), image.with_name("mask.png")
    text = '[project]\nname = "p"\n[classes]\nx = 0\ny = 1\n[[data]]\nimages = "."\nmasks = "."'
    project.write_text(text)
    label = {"path": str(mask), "kind": "mask"}
    viewer, asked = Viewer(), request(image, project=str(project), label=label)
    assert set(viewer.answer(asked).ids) == {0, 1}
    Image.fromarray(np.ones((40, 80), np.uint8)).save(mask)
    assert set(viewer.answer(asked).ids) == {1}
    project.write_text(text.replace("y = 1", "renamed = 1"))
    assert dict(viewer.answer(asked).answer.classes) == {0: "x", 1: "renamed"}


def test_what_is_no_image_is_one_line_and_the_child_goes_on(image: Path, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no")
    asked = [request(tmp_path / "no.png"), request(image)]
    source = io.BytesIO(b"".join(msgspec.json.encode(one) + b"\n" for one in asked))
    out = io.BytesIO()
    serve(source, out)
    first = msgspec.json.decode(out.getvalue().partition(b"\n")[0], type=Answer)
    assert "no.png" in first.fault
    assert "\n" not in first.fault
    assert b'"image_px":[80,40]' in out.getvalue()


def test_a_projects_images_are_listed_a_line_each(demo: Path) -> None:
    out = io.BytesIO()
    list_images(demo / "project.toml", out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines


def test_images_are_on_the_side_on_which_the_training_has_them_that_follows_just_now(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (demo / "project.toml").read_text()
    text = re.sub(r'split = "(train|val)"', 'split = "auto"', text)
    text = text.replace("[training]\n", "[training]\nfollow = true\n")
    (demo / "project.toml").write_text(text)
    names = [row["name"] for row in _listed(demo)]
    run = made_run(demo)
    plan = {"train_images": names[:1], "val_images": names[1:4]}
    run.plan_file.write_bytes(msgspec.json.encode(plan))
    monkeypatch.setattr(Run, "is_alive", lambda self: True)
    assert [row["split"] for row in _listed(demo)][:4] == ["train", "val", "val", "val"]


def _listed(project: Path) -> list[dict[str, str]]:
    out = io.BytesIO()
    list_images(project / "project.toml", out)
    rows: list[dict[str, str]] = json.loads(out.getvalue().partition(b"\n")[0])["images"]
    return rows


def test_images_and_labels_whose_names_are_no_utf8_are_shown(image: Path) -> None:
    (image.parent / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "."\nmasks = "."\n'
    )
    other = image.rename(image.with_name("caf\udce9.png"))
    mask = image.with_name("mask.png").rename(image.with_name("mask\udce9.png"))
    label = {"path": str(mask), "kind": "mask"}
    asked = request(other, project=str(image.parent / "project.toml"), label=label)
    out = io.BytesIO()
    serve(io.BytesIO(any_names.encode(asked) + b"\n"), out)
    answer = any_names.decode(out.getvalue().partition(b"\n")[0], Answer)
    assert not answer.fault
    assert answer.num_grey == answer.num_ids == 800
    assert [name for _, name in answer.classes] == ["a", "b"]
