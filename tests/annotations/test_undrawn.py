"""What is not drawn is background or unlabelled, as the project says."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.dataset.samples import gather, read_labels
from emcfsys_engine.errors import ProjectFaults
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.tools.check import check_project

UNLABELLED = 255


def project_of(folder: Path, data: str, shapes: list[dict[str, object]]) -> Project:
    for name in ("images", "ann"):
        (folder / name).mkdir(exist_ok=True)
    noise = np.random.default_rng(1).integers(0, 255, (64, 80), np.uint8)
    Image.fromarray(noise).save(folder / "images" / "a.png")
    document = {"version": "5", "shapes": shapes, "imagePath": "a.png", "imageData": None}
    (folder / "ann" / "a.json").write_text(json.dumps(document))
    (folder / "project.toml").write_text(
        '[project]\nname = "x"\n[classes]\nbackground = 0\npore = 1\n'
        f'[[data]]\nimages = "images"\nannotations = "ann"\nsplit = "train"\n{data}\n'
    )
    return load_project(folder)


def labels(project: Project) -> np.ndarray:
    (sample,) = gather(project).samples
    return read_labels(sample, project, (64, 80))


def shape(kind: str, label: str, *points: tuple[int, int]) -> dict[str, object]:
    return {"label": label, "points": points, "shape_type": kind}


LINE = shape("linestrip", "pore", (10, 30), (40, 30))
POINT = shape("point", "background", (70, 50))


def test_scribbles_teach_only_what_they_cover(tmp_path: Path) -> None:
    ids = labels(project_of(tmp_path, 'undrawn = "ignore"', [LINE, POINT]))
    assert ids[30, 20] == 1
    assert ids[50, 70] == 0
    assert ids[5, 5] == UNLABELLED
    assert 0.8 < (ids == UNLABELLED).mean() < 1


def test_what_is_undrawn_is_background_by_default(tmp_path: Path) -> None:
    ids = labels(project_of(tmp_path, "", [LINE]))
    assert set(np.unique(ids)) == {0, 1}


@pytest.mark.parametrize(
    ("data", "label"),
    [
        ('undrawn = "ignore"', "reviewed"),
        ('undrawn = "ignore"\nreviewed = "looked at"', "looked at"),
        ('undrawn = "ignore"\nreviewed = "background"', "background"),
    ],
)
def test_inside_a_reviewed_shape_what_is_undrawn_is_background(
    tmp_path: Path, data: str, label: str
) -> None:
    rectangle = shape("rectangle", label, (5, 20), (60, 45))
    ids = labels(project_of(tmp_path, data, [LINE, rectangle]))  # drawn after the line, yet below
    assert ids[30, 20] == 1
    assert ids[40, 50] == 0
    assert ids[5, 5] == UNLABELLED
    assert int((ids != UNLABELLED).sum()) == 56 * 26


def test_check_says_which_share_of_each_image_is_labelled(tmp_path: Path) -> None:
    project = project_of(tmp_path, 'undrawn = "ignore"', [LINE, POINT])
    report = check_project(project)
    share = float((labels(project) != UNLABELLED).mean())
    assert report.labelled == {"a": pytest.approx(share, abs=1e-4)}
    assert f"{report.labelled['a']:.1%}" in report.text


def test_undrawn_is_refused_for_masks_with_the_remedy(tmp_path: Path) -> None:
    project_of(tmp_path, "", [])
    Image.new("L", (80, 64)).save(tmp_path / "ann" / "a.png")
    (tmp_path / "ann" / "a.json").unlink()
    text = (tmp_path / "project.toml").read_text().replace("annotations", "masks")
    (tmp_path / "project.toml").write_text(text + 'undrawn = "ignore"\n')
    (fault,) = gather(load_project(tmp_path)).faults
    assert "data.0.undrawn" in str(fault)
    assert '"0" = "ignore"' in str(fault)
    (tmp_path / "project.toml").write_text(text + '[data.labels]\n"0" = "ignore"\n')
    assert not gather(load_project(tmp_path), for_training=False).faults


def test_reviewed_needs_a_background(tmp_path: Path) -> None:
    project_of(tmp_path, "", [LINE])
    text = (tmp_path / "project.toml").read_text().replace("background = 0", "rock = 2")
    (tmp_path / "project.toml").write_text(text + 'undrawn = "ignore"\nreviewed = "r"\n')
    with pytest.raises(ProjectFaults, match=r"data\.0\.reviewed"):
        load_project(tmp_path)


def test_the_keys_survive_a_run_and_old_runs_load(tmp_path: Path) -> None:
    project = project_of(tmp_path, 'undrawn = "ignore"\nreviewed = "r"', [LINE])
    kept = msgspec.json.encode(project)
    assert msgspec.json.decode(kept, type=Project).data == project.data
    old = msgspec.json.decode(kept)
    del old["data"][0]["undrawn"], old["data"][0]["reviewed"]
    (source,) = msgspec.convert(old, Project).data
    assert (source.undrawn, source.reviewed) == ("background", None)
