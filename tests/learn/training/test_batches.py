"""Crops are cut ahead in the order of their steps, and what goes wrong reaches the loop."""

import threading
from typing import Any, cast

import pytest
import torch

from emcfsys_engine.learn.training.batches import Batches
from emcfsys_engine.learn.training.dataset import PatchSampler

CPU = torch.device("cpu")


class Numbers:
    """Stands for a sampler: the crops of a step are its number."""

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at = fails_at
        self.drawn: list[int] = []

    def resident_on(self, device: torch.device) -> None:
        return None

    def crops(self, step: int) -> Any:
        if step == self.fails_at:
            raise OSError("the disk is away")
        self.drawn.append(step)
        return self

    def on(self, device: torch.device) -> tuple[int, torch.device]:
        return self.drawn[0], device


def begun(sampler: Numbers, step: int = 1) -> Batches:
    return Batches(cast(PatchSampler, sampler), step, CPU)


def test_steps_come_in_order_and_only_a_few_are_cut_ahead() -> None:
    sampler = Numbers()
    batches = begun(sampler, 7)
    for _ in range(3):
        batches.next()
    batches.close()
    assert sampler.drawn == list(range(7, 7 + len(sampler.drawn)))
    assert 3 <= len(sampler.drawn) <= 3 + 4


def test_an_error_of_the_thread_is_raised_where_the_crops_are_wanted() -> None:
    batches = begun(Numbers(fails_at=2))
    batches.next()
    with pytest.raises(OSError, match="the disk is away"):
        batches.next()
    batches.close()
    assert not [one for one in threading.enumerate() if one.name == "batches"]
