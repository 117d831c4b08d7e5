"""The measured run of a GPU asks for fewer patches where they do not fit, more where they pay."""

import pytest
import torch

from emcfsys_engine.learn.training.probe import Probe, Probed
from emcfsys_engine.model_card import NetworkSpec

SPEC = NetworkSpec(head="unet", backbone="resnet10t", num_classes=2)


class Card(Probe):
    """A GPU with room for `room` patches, and a rate for each number of them."""

    def __init__(self, room: int, rates: dict[int, float], full_at: int = 10**6) -> None:
        super().__init__(SPEC, torch.device("cpu"), torch.float32, "ce", memory=room)
        self.rates, self.full_at = rates, full_at
        self.tried: list[int] = []

    def _tried(self, patch_px: int, patches: int) -> Probed:
        self.tried.append(patches)
        if patches >= self.full_at:
            raise RuntimeError("CUDA error: out of memory")
        rate = self.rates.get(patches, 100.0)
        return Probed(patches=patches, patches_per_s=rate, peak_bytes=patches)


def test_what_does_not_fit_is_halved_down_to_one_and_then_given_up() -> None:
    assert Card(room=3, rates={}).most(64, 8) == 2
    assert Card(room=8, rates={}, full_at=5).most(64, 8) == 4
    nothing = Card(room=0, rates={})
    assert nothing.most(64, 5) == 0
    assert nothing.tried == [5, 3, 2, 1]


def test_twice_as_many_are_taken_only_while_they_pay() -> None:
    card = Card(room=100, rates={4: 100, 8: 150, 16: 160})
    assert card.most(64, 4) == 4
    assert card.better(64, 4) == 8  # 160 is not 1.15 × 150
    assert "8 patches at a time: 150 a second" in card.told()


def test_a_fault_that_is_not_memory_is_not_taken_for_it() -> None:
    class Broken(Card):
        def _tried(self, patch_px: int, patches: int) -> Probed:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        Broken(room=9, rates={}).most(64, 2)
