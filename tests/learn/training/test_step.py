"""Learning rates over a run: by hand, and what an extension makes of them."""

import copy
import math

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.training.augment import Strengths
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.losses import build_loss
from emcfsys_engine.learn.training.plan import Plan
from emcfsys_engine.learn.training.step import Stepper, rate_factor
from emcfsys_engine.model_card import NetworkSpec
from tests.learn.conftest import TINY


def _plan(schedule: str) -> Plan:
    return Plan(
        network=NetworkSpec(head="unet", backbone="x", num_classes=2),
        device="cpu",
        precision="float32",
        threads=1,
        patch_px=32,
        batch=2,
        micro_batch=2,
        total_steps=1000,
        minutes=None,
        validate_every=50,
        tile_px=32,
        encoder_lr=1.0,
        decoder_lr=1.0,
        weight_decay=0.0,
        warmup_steps=100,
        schedule=schedule,
        ema_decay=0.9,
        clip_norm=1.0,
        class_weights=(1.0, 1.0),
        strengths=Strengths(),
    )


def _rates(schedule: str, total: int, steps: range) -> list[float]:
    return [rate_factor(_plan(schedule), step, step / total) for step in steps]


def test_a_trapezoid_by_hand() -> None:
    plan = _plan("trapezoid")
    assert rate_factor(plan, 10, 0.01) == pytest.approx(0.2)  # a fifth of the warm-up's 5 %
    assert rate_factor(plan, 300, 0.3) == 1
    assert rate_factor(plan, 800, 0.8) == 1
    assert rate_factor(plan, 850, 0.85) == pytest.approx(0.01 + 0.99 * (1 - math.sqrt(0.25)))
    assert rate_factor(plan, 1000, 1.0) == pytest.approx(0.01)


def test_a_cosine_by_hand() -> None:
    plan = _plan("cosine")
    assert rate_factor(plan, 500, 0.5) == pytest.approx(0.01 + 0.99 * 0.5)
    assert rate_factor(plan, 1000, 1.0) == pytest.approx(0.01)


@given(progress=st.floats(0, 3), schedule=st.sampled_from(["cosine", "trapezoid"]))
def test_rates_stay_between_nothing_and_the_top(progress: float, schedule: str) -> None:
    assert 0 <= rate_factor(_plan(schedule), round(progress * 1000), progress) <= 1


def test_an_extended_trapezoid_took_no_step_too_slow_before_its_first_decay() -> None:
    # Up to 80 % of the first length both runs are the same: nothing of it is lost by extending.
    assert _rates("trapezoid", 1000, range(100, 801)) == _rates("trapezoid", 2000, range(100, 801))
    assert _rates("cosine", 1000, range(500, 801)) != _rates("cosine", 2000, range(500, 801))


def test_where_the_head_learns_alone_the_encoder_keeps_its_weights() -> None:
    torch.manual_seed(0)
    network = build_network(TINY)
    plan = msgspec.structs.replace(_plan("cosine"), network=TINY)
    stepper = Stepper(network, copy.deepcopy(network), build_loss("ce"), plan, 0, Ranks())
    before = {name: value.clone() for name, value in network.named_parameters()}
    images, labels = torch.rand(2, 1, 32, 32), torch.randint(0, 2, (2, 32, 32))
    for head_only in (True, False):
        stepper.accumulate_gradients(images, labels, 2)
        stepper.step(0.01, 1, head_only=head_only)
        moved = {
            name for name, value in network.named_parameters() if not (value == before[name]).all()
        }
        assert any(name.startswith("encoder") for name in moved) is not head_only
        assert "head.weight" in moved
    assert stepper.learning_rate == 0.01
