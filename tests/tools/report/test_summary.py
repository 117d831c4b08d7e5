"""A run as its folder tells it, whatever of it is there yet."""

from pathlib import Path

from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest, TrainRequest
from emcfsys_engine.tools.report.summary import read_summary
from tests.tools.report.test_page import training


def test_a_training_has_its_best_and_its_last_step(tmp_path: Path) -> None:
    found = read_summary(training(tmp_path))
    assert (found.does, found.title, found.total_steps, found.step) == ("train", "alloy", 30, 30)
    assert found.best is not None
    assert (found.best.step, len(found.validations)) == (20, 3)
    assert found.device == "cpu"
    assert found.seconds is not None
    assert found.seconds >= 0


def test_a_run_that_said_nothing_yet_is_told_without_numbers(tmp_path: Path) -> None:
    found = read_summary(new_run(tmp_path / "runs", TrainRequest()))
    assert (found.state, found.reason, found.best, found.seconds) == ("new", "", None, None)
    assert (found.step, found.total_steps, found.plan) == (0, None, {})


def test_a_prediction_is_named_after_its_model_and_a_damaged_plan_is_none(tmp_path: Path) -> None:
    request = PredictRequest(model="/m/best.safetensors", inputs=(), out="o")
    run = new_run(tmp_path / "runs", request)
    run.plan_file.write_text("{")
    found = read_summary(run)
    assert (found.does, found.title, found.plan) == ("predict", "best.safetensors", {})
