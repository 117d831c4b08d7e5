"""The plan is known before the start: how long, what, and why."""

from pathlib import Path

import msgspec
import pytest
import torch

from emcfsys_engine.learn.training.plan import Plan, planned_length, rows_of
from emcfsys_engine.learn.training.run import planned_here
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.check import check_project
from emcfsys_engine.tools.forecast import forecast_of


@pytest.mark.parametrize(
    ("steps", "minutes", "batch", "expected"),
    [
        (None, None, None, (375, None)),  # quick draws 3,000 patches on a processor, 8 a step
        (None, None, 6, (500, None)),
        (7, None, None, (7, None)),
        (None, 2.5, None, (None, 2.5)),
    ],
)
def test_a_preset_says_its_steps_before_any_image_is_read(
    project_folder: Path,
    steps: int | None,
    minutes: float | None,
    batch: int | None,
    expected: tuple[int | None, float | None],
) -> None:
    project = load_project(project_folder)
    changes = {"preset": "quick", "steps": steps, "minutes": minutes, "batch": batch}
    training = msgspec.structs.replace(project.training, **changes)
    asked = msgspec.structs.replace(project, training=training)
    assert planned_length(asked, torch.device("cpu"), None) == expected


def test_what_is_foreseen_is_what_the_plan_says(project_folder: Path) -> None:
    project = load_project(project_folder, ("training.preset=quick",))
    made: list[Plan] = []

    def planned(given: object) -> object:
        made.append(planned_here(project))
        return rows_of(made[0]), None, made[0].total_steps, made[0].minutes

    found = forecast_of(project, check_project(project), planned=planned)  # type: ignore[arg-type]
    rows = {row.name: row.value for row in found.rows}
    assert not found.errors
    assert rows["length"] == "8 steps" and rows["time"] == "not known yet"
    assert rows["patches"] == "32 px × 2"
    assert (
        rows["data"]
        == f"{len(made[0].train_images)} training, {len(made[0].val_images)} validation"
    )
    assert planned_length(project, torch.device("cpu"), made[0]) == (8, None)


def test_what_training_refuses_is_foreseen_instead_of_a_plan(project_folder: Path) -> None:
    next(iter(sorted((project_folder / "masks" / "train").iterdir()))).write_bytes(b"no mask")
    project = load_project(project_folder)
    found = forecast_of(project, check_project(project), planned=lambda given: pytest.fail("no"))
    assert found.errors and not found.rows
    assert "would end there" in found.text
