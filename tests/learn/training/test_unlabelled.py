"""Images without labels: what they teach, when, and that nothing else changes by them."""

import copy
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.training import trainer, unlabelled
from emcfsys_engine.learn.training.augment import Strengths
from emcfsys_engine.learn.training.checkpoint import TrainState
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.losses import Loss, Measured, build_loss
from emcfsys_engine.learn.training.plan import Plan, read_plan
from emcfsys_engine.learn.training.step import DoesNotFitError, Stepper
from emcfsys_engine.learn.training.unlabelled import (
    Certainty,
    after_validation,
    sums_of,
    weight_at,
)
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import LabelsJoined, StepDone, WarningGiven
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from tests.learn.conftest import TINY, run_here, write_picture
from tests.learn.training.made import new_training

LEARN = '[[data]]\nimages = "incoming"\nunlabelled = "learn"\n'


@pytest.fixture
def with_incoming(project_folder: Path) -> Path:
    """The tiny project, and three images that nobody labelled."""
    for number in range(3):
        picture = project_folder / "incoming" / f"{number}.png"
        write_picture(np.random.default_rng(50 + number), picture, project_folder / "away.png")
    file = project_folder / "project.toml"
    file.write_text(file.read_text().replace("[model]", f"{LEARN}[model]"))
    return project_folder


def _weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.final_model)


def _plan(**changed: object) -> Plan:
    plan = Plan(
        network=TINY,
        device="cpu",
        precision="float32",
        threads=1,
        patch_px=32,
        batch=4,
        micro_batch=4,
        total_steps=100,
        minutes=None,
        validate_every=10,
        tile_px=32,
        encoder_lr=1e-3,
        decoder_lr=1e-3,
        weight_decay=0.0,
        warmup_steps=1,
        ema_decay=0.9,
        clip_norm=1.0,
        class_weights=(1.0, 1.0),
        strengths=Strengths(flip=1.0),
        unlabelled_images=("2/0.png",),
        unlabelled_from=10,
        unlabelled_full=30,
    )
    return msgspec.structs.replace(plan, **changed)


def _stepper(num_planes: int = 0) -> Stepper:
    torch.manual_seed(0)
    spec = msgspec.structs.replace(TINY, num_planes=num_planes)
    network = build_network(spec)
    averaged = copy.deepcopy(network).eval()
    loss = build_loss("ce+dice", num_classes=spec.num_classes)
    return Stepper(network, averaged, loss, _plan(network=spec), 0, Ranks())


def _views(stepper: Stepper) -> unlabelled.Views:
    crops = torch.rand(4, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    return stepper.views(crops, torch.zeros(4, 48, 48, dtype=torch.uint8), 7)


@pytest.mark.long
def test_until_images_without_labels_take_part_a_training_is_what_it_is_without_them(
    with_incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlabelled, "_FROM", 2.0)  # after the end
    asked = new_training(with_incoming, 6)
    assert run_here(asked) == 0
    file = with_incoming / "project.toml"
    file.write_text(file.read_text().replace(LEARN, ""))
    without = new_training(with_incoming, 6)
    assert run_here(without) == 0
    assert len(read_plan(asked).unlabelled_images) == 3
    ours, theirs = _weights(asked), _weights(without)
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_they_teach_and_events_and_the_plan_tell_of_it(
    with_incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_STEP_EVENT_EVERY_S", 0.0)
    run = new_training(with_incoming, 10)
    assert run_here(run) == 0
    plan = read_plan(run)
    assert plan.unlabelled_images == ("2/0.png", "2/1.png", "2/2.png")
    assert plan.reasons["unlabelled_images"].startswith("3 of 3 images without labels teach")
    steps = {one.step: one for one in run.events() if isinstance(one, StepDone)}
    assert [n for n, one in steps.items() if one.unlabelled_loss is None] == list(
        range(1, plan.unlabelled_from)
    )
    assert all(0 <= (steps[n].confident or 0) <= 1 for n in range(plan.unlabelled_from, 11))
    monkeypatch.setattr(unlabelled, "_FROM", 2.0)
    without = new_training(with_incoming, 10)
    assert run_here(without) == 0
    theirs = _weights(without)
    assert any(not theirs[name].equal(tensor) for name, tensor in _weights(run).items())


@pytest.mark.long
def test_a_run_that_goes_on_comes_to_the_same_weights_whatever_came_since(
    with_incoming: Path,
) -> None:
    whole = new_training(with_incoming, 9)
    assert run_here(whole) == 0
    cut = new_training(with_incoming, 9)
    record = cut.record()
    _stopping_at(cut, 6)
    assert cut.outcome()[0] == "interrupted"
    assert record.project is not None
    write_picture(
        np.random.default_rng(9), with_incoming / "incoming" / "3.png", with_incoming / "away.png"
    )
    assert run_here(cut) == 0
    ours, theirs = _weights(cut), _weights(whole)
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def _stopping_at(run: Run, step: int) -> None:
    """Execute a run up to a step, as if the machine then asked for an end."""
    agreed = trainer.Trainer._agreed

    def asked(self: trainer.Trainer) -> tuple[str | None, float]:
        return ("terminated", 0.0) if self.state.step == step else agreed(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "_agreed", asked)
        run_here(run)


def test_an_image_that_validates_or_cannot_be_read_does_not_teach(with_incoming: Path) -> None:
    val = with_incoming / "images" / "val" / "val0.png"
    (with_incoming / "incoming" / "copy.png").write_bytes(val.read_bytes())
    (with_incoming / "incoming" / "torn.png").write_bytes(val.read_bytes()[:200])
    run = new_training(with_incoming, 1)
    assert run_here(run) == 0
    assert read_plan(run).unlabelled_images == ("2/0.png", "2/1.png", "2/2.png")
    said = [one.message for one in run.events() if isinstance(one, WarningGiven)]
    assert sum("copy.png" in text and "validation images" in text for text in said) == 1
    assert sum("torn.png" in text and "Goes on without it" in text for text in said) == 1


def test_an_image_that_is_labelled_while_the_training_runs_teaches_by_its_labels_then(
    with_incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = with_incoming / "project.toml"
    table = LEARN + 'masks = "drawn"\nsplit = "train"\n'
    file.write_text(file.read_text().replace(LEARN, table))
    (with_incoming / "drawn").mkdir()
    validate = trainer.Trainer._validate

    def drawing(self: trainer.Trainer) -> None:
        mask = with_incoming / "masks" / "train" / "train0.png"
        (with_incoming / "drawn" / "1.png").write_bytes(mask.read_bytes())
        validate(self)

    monkeypatch.setattr(trainer.Trainer, "_validate", drawing)
    settings = ["training.follow=true", "training.steps=6", "training.validate_every=3"]
    project = load_project(with_incoming, settings)
    run = new_run(with_incoming / "runs", TrainRequest(), project=project)
    assert run_here(run) == 0
    joined = [one for one in run.events() if isinstance(one, LabelsJoined)]
    assert [one.train for one in joined] == [("1",)]
    assert read_plan(run).unlabelled_images == ("2/0.png", "2/2.png")


def test_the_images_are_ramped_in_by_hand() -> None:
    plan = _plan(unlabelled_from=10, unlabelled_full=13)
    weights = [weight_at(plan, TrainState(step=step)) for step in (8, 9, 10, 11, 12, 13, 90)]
    shares = [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert weights == [share * unlabelled.WEIGHT for share in shares]
    assert weight_at(plan, TrainState(step=50, unlabelled_ended=40)) == 0
    assert weight_at(msgspec.structs.replace(plan, unlabelled_images=()), TrainState(step=50)) == 0


def test_without_a_gain_for_long_they_teach_no_more() -> None:
    plan, state = _plan(), TrainState(step=12)
    assert after_validation(plan, state, is_best=False) == state  # not all their weight yet
    state = TrainState(step=40)
    for _ in range(unlabelled.IN_VAIN - 1):
        state = after_validation(plan, state, is_best=False)
    assert not after_validation(plan, state, is_best=True).unlabelled_in_vain
    assert after_validation(plan, state, is_best=False).unlabelled_ended == 40


def test_a_training_that_gains_nothing_says_that_they_teach_no_more(
    with_incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlabelled, "IN_VAIN", 1)
    monkeypatch.setattr(trainer, "_STEP_EVENT_EVERY_S", 0.0)
    monkeypatch.setattr(trainer.Stepper, "step", lambda *_, **__: None)  # nothing is learned
    run = new_training(with_incoming, 9)
    assert run_here(run) == 0
    said = [one.message for one in run.events() if isinstance(one, WarningGiven)]
    assert sum("teach no more from step 7" in text for text in said) == 1
    taught = [o.step for o in run.events() if isinstance(o, StepDone) and o.confident is not None]
    assert max(taught) == 6


def test_a_rare_class_that_is_guessed_less_surely_teaches_as_well() -> None:
    certainty = Certainty(3, torch.device("cpu"))
    sums = torch.tensor([[1000.0, 10.0, 0.0], [990.0, 6.0, 0.0]])
    for _ in range(200):
        certainty.learn(sums)
    assert certainty.thresholds().tolist() == pytest.approx([0.95, 0.6, 0.95], abs=1e-3)


@given(seed=st.integers(0, 2**32 - 1))
def test_sums_of_classes_are_those_of_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability, guess = rng.random((2, 5, 5), np.float32), rng.integers(0, 3, (2, 5, 5))
    may = rng.random((2, 5, 5)) < 0.5
    found = sums_of(*map(torch.from_numpy, (probability, guess, may)), 3)
    for each in range(3):
        mine = probability[may & (guess == each)]
        assert found[:, each].tolist() == pytest.approx([len(mine), mine.sum()], rel=1e-5)


def test_guesses_in_parts_are_those_of_the_whole_and_marks_are_kept() -> None:
    whole, parts = _stepper(), _stepper()
    for stepper in (whole, parts):
        stepper.certainty.mean_C.fill_(0.0)
    views = _views(whole)
    views.marks[:, :8] = 255
    ours, theirs = whole.guess(views, 4, 1.0), parts.guess(views, 1, 1.0)
    assert ours.labels.equal(theirs.labels)
    assert (ours.labels[:, :8] == 255).all()
    known = ours.labels[:, 8:] != 255
    assert known.any()
    assert float(ours.confident) == pytest.approx(float(known.float().mean()), abs=1e-6)


def test_guesses_that_do_not_fit_are_tried_with_fewer_patches_and_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stepper, forward = _stepper(), type(_stepper().averaged).forward

    def limited(self: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)  # type: ignore[arg-type]

    monkeypatch.setattr(type(stepper.averaged), "forward", limited)
    before = stepper.certainty.mean_C.clone()
    with pytest.raises(DoesNotFitError):
        stepper.guess(_views(stepper), 4, 1.0)
    assert stepper.certainty.mean_C.equal(before)
    stepper.guess(_views(stepper), 2, 1.0)
    assert not stepper.certainty.mean_C.equal(before)


def test_both_views_are_of_one_place_and_differ_in_their_greys() -> None:
    views = _views(_stepper())
    assert views.plain.shape == views.changed.shape == (4, 1, 32, 32)
    assert not views.plain.equal(views.changed)
    again = _views(_stepper())
    assert all(a.equal(b) for a, b in zip(views, again, strict=True))


def test_what_weighs_nothing_moves_nothing() -> None:
    stepper = _stepper()
    views = _views(stepper)
    guessed = stepper.guess(views, 4, 0.0)
    images, labels = torch.rand(4, 1, 32, 32), torch.randint(0, 2, (4, 32, 32))
    with pytest.MonkeyPatch.context() as patch:
        stepper.network.eval()
        patch.setattr(stepper.network, "train", lambda: None)
        stepper.accumulate_gradients(images, labels, 4)
        alone = [p.grad.clone() for p in stepper.network.parameters() if p.grad is not None]
        stepper.accumulate_gradients(images, labels, 4, guessed)
        both = [p.grad for p in stepper.network.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(alone, both, strict=True))


def test_a_batch_in_parts_takes_those_without_labels_along(
    with_incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Loss.measure

    def limited(self: Loss, logits: torch.Tensor, target: torch.Tensor) -> Measured:
        if len(logits) > 1 and logits.requires_grad:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(self, logits, target)

    monkeypatch.setattr(Loss, "measure", limited)
    run = new_training(with_incoming, 3)
    assert run_here(run) == 0
    said = [one.message for one in run.events() if isinstance(one, WarningGiven)]
    assert sum("1 instead of 2 patches" in text for text in said) == 1


def test_the_means_of_batch_norms_are_those_of_images_with_labels() -> None:
    alone, both = _stepper(), _stepper()
    images, labels = torch.rand(4, 1, 32, 32), torch.randint(0, 2, (4, 32, 32))
    alone.accumulate_gradients(images, labels, 4)
    both.accumulate_gradients(images, labels, 4, both.guess(_views(both), 4, 1.0))
    ours, theirs = (dict(each.network.named_buffers()) for each in (both, alone))
    means = [name for name in ours if name.endswith(("running_mean", "running_var"))]
    assert means
    assert all(ours[name].equal(theirs[name]) for name in means)


def test_of_objects_nothing_is_guessed_and_nothing_learned() -> None:
    stepper = _stepper(num_planes=2)
    stepper.certainty.mean_C.fill_(0.0)
    crops, marks = torch.rand(4, 1, 48, 48), torch.zeros(4, 3, 48, 48, dtype=torch.uint8)
    guessed = stepper.guess(stepper.views(crops, marks, 1), 4, 1.0)
    assert guessed.labels.shape == (4, 3, 32, 32)
    assert (guessed.labels[:, 1:] == 255).all()
    assert (guessed.labels[:, 0] < 2).any()
    bare = torch.full((4, 3, 32, 32), 255)
    stepper.accumulate_gradients(torch.rand(4, 1, 32, 32), bare, 4, guessed)
    grad = stepper.network.head.weight.grad
    assert grad is not None
    assert grad[:2].any()
    assert not grad[2:].any()
