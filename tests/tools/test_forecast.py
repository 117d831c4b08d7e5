"""What a training would do before it is started, or why it would be refused."""

from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.errors import DataFaults, EmcfError, InputError
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.progress import Kind
from emcfsys_engine.tools.check import CheckReport
from emcfsys_engine.tools.check_data import Finding
from emcfsys_engine.tools.forecast import Planned, forecast_of


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "images").mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "images"\n'
        'masks = "images"\n'
    )
    return load_project(tmp_path)


def report(*findings: Finding) -> CheckReport:
    return CheckReport(project="p", findings=findings, classes=(), images={}, notes=(), seconds=0.0)


def planned(project: Project) -> Planned:
    rows = [("network", "unet on resnet34", "as the project says"), ("length", "100 steps", "")]
    return [*rows, ("batch", "8", "\x1b[2J")], Kind(), 100, None


def test_a_plan_stands_with_its_reasons_and_a_time_that_nobody_knows_yet(project: Project) -> None:
    found = forecast_of(project, report(Finding.warn("a.tif", "is small")), planned=planned)
    assert [row.name for row in found.rows] == ["network", "length", "time", "batch"]
    assert (found.rows[2].value, found.seconds, found.num_warnings) == ("not known yet", None, 1)
    assert "unet on resnet34   (as the project says)" in found.text
    assert "\x1b" not in found.text


def test_of_one_that_check_refuses_only_the_errors_are_told(project: Project) -> None:
    def never(project: Project) -> Planned:
        raise AssertionError("no plan is made")

    found = forecast_of(project, report(Finding.error("a.tif", "is cut")), planned=never)
    assert (found.rows, len(found.errors)) == ((), 1)
    assert "the training would end there" in found.text


def test_of_one_that_waits_for_labels_only_that_is_told(project: Project) -> None:
    waiting = msgspec.structs.replace(report(), waits=True, images={"val": 1})
    found = forecast_of(project, waiting, planned=planned)
    assert [(row.name, row.value) for row in found.rows] == [("start", "waits for labels")]
    assert "1 image is labelled" in found.text


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (InputError("a", "is bad"), 1),
        (DataFaults([InputError("a", "is bad"), InputError("b", "is bad")]), 2),
        (EmcfError("no memory\nat all"), 1),
    ],
)
def test_what_the_plan_itself_refuses_is_an_error_too(
    error: Exception, number: int, project: Project
) -> None:
    def refused(project: Project) -> Planned:
        raise error

    found = forecast_of(project, report(), planned=refused)
    assert len(found.errors) == number
    assert all("\n" not in one.what for one in found.errors)
