"""Whose classes masks have, and the summary of what was measured."""

from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.measure.results import (
    ClassSummary,
    Measurement,
    MeasureSettings,
    classes_for,
    write_measurement,
)
from tests.tools.drawn_masks import disc, measured, save_mask


def project(folder: Path) -> Path:
    (folder / "masks").mkdir()
    (folder / "project.toml").write_text(
        '[project]\nname = "p"\npixel_nm = 3.0\n[classes]\na = 0\nb = 1\n[[data]]\n'
        'images = "masks"\nmasks = "masks"\n[data.labels]\n"7" = "b"\n'
    )
    return folder / "project.toml"


def test_a_projects_own_masks_have_its_labels_and_others_only_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = project(tmp_path)
    own = classes_for("masks", project=file, model=None)
    assert (own.classes, own.pixel_nm, dict(own.labels)) == ({"a": 0, "b": 1}, 3.0, {"7": "b"})
    assert dict(classes_for("predictions", project=file, model=None).labels) == {}


def test_classes_have_one_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Give one of the two"):
        classes_for("masks", project=project(tmp_path), model=tmp_path / "m.safetensors")


def test_masks_that_nobody_predicted_have_no_names(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    assert classes_for(str(tmp_path / "masks"), project=None, model=None).classes is None


def test_where_nothing_was_measured_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "t"
    done = write_measurement(
        [], [(1, "grain")], "px", out, MeasureSettings(), failed=[], notes=["why"]
    )
    assert (done.objects_file, done.num_masks, done.notes) == ("", 0, ("why",))
    assert not out.exists()


def test_the_table_for_a_terminal_shows_what_is_unknown_as_a_dash() -> None:
    grain = ClassSummary(
        name="grain", value=1, num_objects=2, area_fraction=0.25, area=8.0,
        mean_diameter=3.0, sd_diameter=0.5, median_diameter=3.0,
    )  # fmt: skip
    pore = ClassSummary(name="pore", value=2, num_objects=0, area_fraction=None, area=0.0)
    told = Measurement(
        unit="nm", num_masks=1, num_objects=2, objects_file="", images_file="", histograms=(),
        classes=(grain, pore), failed=(), notes=(),
    ).text.splitlines()  # fmt: skip
    assert "3 ± 0.5, 3" in told[1]
    assert "25.00" in told[1]
    assert told[2].count("–") == 2
    assert told[3] == "2 objects in 1 mask"


def test_the_deviation_beside_a_distribution_is_that_of_the_summary(tmp_path: Path) -> None:
    ids = disc((60, 60), (15, 15), 5) | disc((60, 60), (40, 40), 10)
    save_mask(tmp_path / "masks/a.png", ids.astype(np.uint8), (2.0, 2.0))
    made = measured(tmp_path)
    sd = made.classes[1].sd_diameter
    assert sd is not None
    assert f"SD {sd:.4g}," in Path(made.histograms[0]).read_text()
