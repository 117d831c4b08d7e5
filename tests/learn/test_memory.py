"""Memory is counted before a training begins, and decides how many patches go at a time."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.autograd.graph import saved_tensors_hooks

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn import memory as tile_choice
from emcfsys_engine.learn.device import choose_precision
from emcfsys_engine.learn.memory import choose_tiles, footprint_of, usable_memory
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.training import plan as plan_module
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.plan import Plan, make_plan
from emcfsys_engine.model_card import Head, NetworkSpec
from emcfsys_engine.project import load_project

CPU = torch.device("cpu")


def spec_of(head: Head = "unet", backbone: str = "resnet10t", classes: int = 3) -> NetworkSpec:
    return NetworkSpec(head=head, backbone=backbone, num_classes=classes)


@pytest.mark.parametrize(
    ("head", "backbone"), [("unet", "resnet10t"), ("upernet", "vit_tiny_patch16_224")]
)
def test_what_is_counted_without_numbers_is_what_a_real_forward_pass_keeps(
    head: Head, backbone: str
) -> None:
    spec = spec_of(head, backbone)
    network = build_network(spec).train()
    own = {each.data_ptr() for each in network.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.randn(2, 1, 96, 96))
    real = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in own)
    counted = footprint_of(spec, 96, torch.float32)
    assert counted is not None
    loss = 6 * 3 * 96 * 96 * 4
    # CPU kernels keep a little of their own; nothing large is forgotten or counted twice.
    assert (counted.patch - loss) * 2 == pytest.approx(real, rel=0.1)


def test_four_times_the_pixels_need_four_times_the_memory() -> None:
    small, large = (footprint_of(spec_of(), px, torch.bfloat16) for px in (128, 256))
    assert small is not None
    assert large is not None
    assert large.weights == small.weights
    assert large.patch == pytest.approx(4 * small.patch, rel=0.02)


def test_memory_that_others_use_now_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emcfsys_engine.learn.memory.memory_bytes", lambda: (1000, 10))
    assert usable_memory(CPU) == 400
    assert usable_memory(CPU, processes=2) == 200


def planned(folder: Path, memory: int, monkeypatch: pytest.MonkeyPatch, **changes: str) -> Plan:
    text = (folder / "project.toml").read_text()
    for name, value in changes.items():
        text = re.sub(
            rf"^{name} = .*$", f"{name} = {value}" if value else "", text, flags=re.MULTILINE
        )
    (folder / "project.toml").write_text(text)
    project = load_project(folder)
    samples = list_samples(project)
    train, val = (Dataset(samples.of(split), project, Normaliser()) for split in ("train", "val"))
    monkeypatch.setattr(plan_module, "usable_memory", lambda *_: memory)
    return make_plan(project, train, val, CPU, 1)


def needed(patch_px: int, patches: int) -> int:
    spec = spec_of("unet", "mobilenetv3_small_050", 2)
    footprint = footprint_of(spec, patch_px, choose_precision(CPU)[0])
    assert footprint is not None
    return footprint.of(patches)


def test_a_batch_that_does_not_fit_goes_in_parts_of_the_same_batch(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = needed(32, 4) + 1000
    plan = planned(project_folder, memory, monkeypatch, batch="16")
    assert (plan.batch, plan.micro_batch, plan.network.norm) == (16, 4, "batch")
    assert plan.reasons["micro_batch"].startswith("4 of 16 patches at a time need about")


def test_parts_too_small_for_batch_statistics_are_normalised_in_groups(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(project_folder, needed(32, 2) + 1000, monkeypatch, batch="16")
    assert plan.micro_batch <= 2
    assert plan.network.norm == "group"


def test_where_not_one_patch_fits_the_patch_shrinks_unless_the_project_fixes_it(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in project_folder.glob("*/*/*.png"):
        Image.fromarray(np.kron(np.asarray(Image.open(file)), np.ones((2, 2), np.uint8))).save(file)
    memory = needed(64, 1) + 1000
    plan = planned(project_folder, memory, monkeypatch, patch_px="128")
    assert (plan.patch_px, plan.micro_batch) == (128, 1)
    assert "may not fit" in plan.reasons["micro_batch"]
    plan = planned(project_folder, memory, monkeypatch, patch_px="")
    assert (plan.patch_px, plan.micro_batch) == (64, 1)
    assert "the largest of which one fits" in plan.reasons["patch_px"]


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
