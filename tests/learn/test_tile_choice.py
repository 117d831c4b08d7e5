"""Tiles fit into the memory that there is: fewer at a time first, smaller ones after that."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emcfsys_engine.learn import memory as tile_choice
from emcfsys_engine.learn.memory import choose_tiles, footprint_of
from emcfsys_engine.model_card import NetworkSpec

CPU = torch.device("cpu")
RESNET = NetworkSpec(head="unet", backbone="resnet18", num_classes=3)
LITE = NetworkSpec(head="unet", backbone="tf_efficientnet_lite0", num_classes=3)


def _with(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(tile_choice, "usable_memory", lambda device: num_bytes)


def test_where_memory_is_plenty_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    _with(monkeypatch, 64 << 30)
    monkeypatch.setattr(tile_choice, "footprint_of", None)
    assert choose_tiles([LITE], CPU, torch.float32, patch_px=256) == (512, 4)
    assert choose_tiles([LITE], CPU, torch.float32, patch_px=768) == (768, 4)
    assert choose_tiles([LITE], CPU, torch.float32, patch_px=256, tile_px=96) == (96, 4)


def test_the_memory_of_the_machine_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_choice, "memory_bytes", lambda: (4 << 30, 1 << 30))
    side_px, batch = choose_tiles([LITE], CPU, torch.float32, patch_px=256)
    assert side_px == 512
    assert batch in (2, 3)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(memory=st.integers(0, 2 << 30), patch_px=st.sampled_from([64, 256, 512]))
def test_what_is_chosen_fits_or_is_the_least_there_is(
    monkeypatch: pytest.MonkeyPatch, memory: int, patch_px: int
) -> None:
    _with(monkeypatch, memory)
    specs = [RESNET, LITE]
    side_px, batch = choose_tiles(specs, CPU, torch.float32, patch_px=patch_px)
    counted = [footprint_of(spec, side_px, torch.float32) for spec in specs]
    need = max(each.patch for each in counted if each)
    assert patch_px <= side_px <= 512
    assert 1 <= batch <= 4
    assert batch * need <= memory or (side_px, batch) == (patch_px, 1)
    assert batch == 4 or (batch + 1) * need > memory  # and no fewer than fit


def test_a_side_that_is_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _with(monkeypatch, 1)
    assert choose_tiles([LITE], CPU, torch.float32, patch_px=64, tile_px=512) == (512, 1)
