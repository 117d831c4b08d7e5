"""The contact sheet, which replaces an older one and no image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import InputError
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.contact_sheet import contact_sheet
from tests.tools.made import project_at

pytestmark = pytest.mark.usefixtures("own_cache")


def test_the_contact_sheet_shows_images_labels_and_patches(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "superalloy-sem"
    data = f'[[data]]\nimages = "{source}/images/train"\nmasks = "{source}/masks/train"\n'
    patch = (np.zeros((64, 64), np.float32), np.ones((64, 64), np.uint8))
    shown = contact_sheet(project_at(tmp_path, data), tmp_path / "sheet.png", patches=[patch])
    assert shown == 13
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (1280, 4 * 336 + 24)


def test_a_contact_sheet_replaces_an_older_one_and_no_image(masks: Path, tmp_path: Path) -> None:
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\nresin = 0\ngrain = 1\n'
        '[[data]]\nimages = "masks"\nmasks = "masks"\n'
    )
    project, sheet = load_project(tmp_path), tmp_path / "look.png"
    for _ in range(2):
        contact_sheet(project, sheet)
    original = (masks / "a.png").read_bytes()
    with pytest.raises(InputError, match="is not as this program wrote it"):
        contact_sheet(project, masks / "a.png")
    assert (masks / "a.png").read_bytes() == original
