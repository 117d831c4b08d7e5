"""How far a training is and how long such ones took: worked out by hand, from few events."""

from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.project_tables import SHIPPED_BACKBONE, ModelSettings
from emcfsys_engine.run.events import (
    AnyEvent,
    EventWriter,
    PhaseBegan,
    PlanMade,
    RunFinished,
    RunResumed,
    RunStarted,
    StepDone,
    ValidationDone,
)
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.progress import Kind, estimate, network_of, progress_in, progress_of

T = 1_000.0


def started(steps: int | None = None, minutes: float | None = None, at: float = T) -> RunStarted:
    return RunStarted(run="run-0001", does="train", total_steps=steps, minutes=minutes, time=at)


def step(number: int, at: float, seconds: float = 2.0) -> StepDone:
    return StepDone(step=number, loss=1.0, learning_rate=1e-3, seconds=seconds, time=at)


def validation(number: int, at: float, left: float | None = None) -> ValidationDone:
    return ValidationDone(
        step=number, train_loss=1.0, val_loss=1.0, mean_iou=0.5, mean_foreground_iou=0.5,
        accuracy=0.5, iou={}, f1={}, learning_rate=1e-3, images_per_s=4.0, seconds_left=left,
        time=at,
    )  # fmt: skip


def test_the_rest_of_a_preset_is_its_steps_and_the_validations_to_come() -> None:
    events: list[AnyEvent] = [started(100), PlanMade(summary="", time=T + 5)]
    assert progress_in(events, T + 6).text == "reading"
    events += [step(10, T + 30), PhaseBegan(phase="validating", step=10, time=T + 31)]
    assert progress_in(events, T + 32).phase == "validating"
    events += [validation(10, T + 36), step(11, T + 40)]
    now = progress_in(events, T + 40)
    assert now.seconds_left == 89 * 2 + 9 * 5  # 89 steps of 2 s, a validation of 5 s each 10 steps
    assert now.text == "training 11/100, 4 min left, 2.0 s/step"
    events += [step(100, T + 300), PhaseBegan(phase="saving", step=100, time=T + 301)]
    assert progress_in(events, T + 302).text == "saving 100/100, 0 s left, 2.0 s/step"


def test_minutes_are_left_by_the_clock_which_stands_while_nothing_trains() -> None:
    events: list[AnyEvent] = [
        started(minutes=10),
        PlanMade(summary="", time=T + 20),
        step(1, T + 30),
    ]
    assert progress_in(events, T + 80).seconds_left == 600 - 60
    events += [started(minutes=10, at=T + 5000), RunResumed(step=1, time=T + 5001)]
    events += [PlanMade(summary="", time=T + 5010)]
    now = progress_in(events, T + 5020)
    assert now.seconds_left == 600 - 10 - 10 and now.step == 1
    events += [validation(5, T + 5100, left=77.0)]
    assert progress_in(events, T + 5110).seconds_left == 67
    events += [started(minutes=12, at=T + 9000), PlanMade(summary="", time=T + 9010)]
    assert progress_in(events, T + 9011).seconds_left == 77 + 120 - 1


def test_a_long_file_of_events_tells_the_same_by_its_ends(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with EventWriter(run.events_file) as writer:
        writer.write(started(9000))
        for number in range(1, 4001):
            writer.write(step(number, T + number, 0.5))
    assert run.events_file.stat().st_size > 1 << 18
    now = progress_of(run, T + 4001)
    assert (now.step, now.total_steps, now.seconds_left) == (4000, 9000, 2500.0)
    assert progress_of(Run(tmp_path / "none")).text == ""


@pytest.mark.parametrize(("batch", "expected"), [(8, 30.0), (16, None)])
def test_the_time_is_that_of_finished_runs_of_the_same_kind(
    tmp_path: Path, batch: int, expected: float | None
) -> None:
    plan = {"network": {"head": "unet", "backbone": "resnet18"}, "device": "cpu", "patch_px": 256}
    for number, seconds in enumerate((50.0, 30.0)):
        run = Run(tmp_path / f"run-000{number}")
        run.folder.mkdir()
        run.plan_file.write_bytes(msgspec.json.encode({**plan, "batch": 8}))
        with EventWriter(run.events_file) as writer:
            writer.write(started(10))
            writer.write(step(10, T + seconds))
            if number:
                writer.write(RunFinished(reason="steps", step=10, time=T + seconds))
    kind = msgspec.convert({**plan, "batch": batch}, Kind)
    found = estimate(kind, [Run(tmp_path / "run-0000"), Run(tmp_path / "run-0001")])
    assert (found and found.seconds(10)) == expected


def test_a_training_without_a_named_backbone_has_that_of_its_plan_or_the_shipped_one(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    assert network_of(run, ModelSettings(head="pspnet")) == f"pspnet/{SHIPPED_BACKBONE}"
    run.plan_file.write_text('{"network": {"head": "unet", "backbone": "convnext_tiny"}}')
    assert network_of(run, ModelSettings()) == "unet/convnext_tiny"
    assert network_of(run, ModelSettings(backbone="resnet18")) == "unet/resnet18"
    run.plan_file.write_text("{")
    assert network_of(run, ModelSettings()) == f"unet/{SHIPPED_BACKBONE}"
