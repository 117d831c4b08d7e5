"""All that computes, on a GPU: on a pretended one in every run, on a real one with `-m gpu`.

A mixed device, a device without an index, a wrong dtype or memory that runs short shows in both.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.errors import InputError, RunFailedError
from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.device import choose_device, choose_precision, examine_torch
from emcfsys_engine.learn.evaluate import evaluate_project
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.memory import usable_memory
from emcfsys_engine.learn.training import probe
from emcfsys_engine.learn.training.batches import Batches
from emcfsys_engine.learn.training.checkpoint import Retry, read_checkpoint, read_retry
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.plan import Plan, encode_plan, make_plan
from emcfsys_engine.learn.training.trainer import Trainer
from emcfsys_engine.learn.training.validation import Validator
from emcfsys_engine.project import LOSSES, load_project
from emcfsys_engine.run.events import (
    RunFailed,
    RunResumed,
    RunStarted,
    StepDone,
    ValidationDone,
    WarningGiven,
)
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest, TrainRequest, WatchRequest
from tests.learn.conftest import run_here, write_picture
from tests.learn.pretend_gpu import Pretended, pretended_gpu
from tests.learn.training.made import setup_of

MOST_SYNCS = 1  # of a step: the norm of the gradients, which only pretended devices wait for


@pytest.fixture(params=["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest) -> Iterator[Pretended | None]:
    """A GPU: what is yielded counts what a pretended one was asked; None is a real one."""
    with ExitStack() as stack:
        if request.param == "real":
            yield None
        else:
            yield stack.enter_context(pretended_gpu())


@pytest.fixture
def pretended() -> Iterator[Pretended]:
    """A pretended GPU."""
    with pretended_gpu() as seen:
        yield seen


@pytest.fixture
def project(project_folder: Path) -> Path:
    """A tiny project that computes where it can best."""
    file = project_folder / "project.toml"
    file.write_text(file.read_text().replace("gpus = 0\n", ""))
    return project_folder


def _trained(project: Path, *overrides: str) -> Run:
    loaded = load_project(project, overrides)
    run = new_run(loaded.runs_folder, TrainRequest(), project=loaded)
    assert run_here(run) == 0
    return run


def _trainer(project: Path, *overrides: str) -> tuple[Trainer, list[Any]]:
    """Return a trainer as the worker makes it, and what it says."""
    loaded = load_project(project, overrides)
    samples = list_samples(loaded)
    train, val = (Dataset(samples.of(s), loaded, Normaliser()) for s in ("train", "val"))
    plan = make_plan(loaded, train, val, choose_device(None), 1)
    told: list[Any] = []
    return Trainer(setup_of(loaded, plan, train, val, told.append)), told


def _step(trainer: Trainer, number: int = 1) -> Tensor:
    batches = Batches(trainer.sampler, trainer.state.step + 1, trainer.device)
    try:
        return [trainer.step(*batches.next(), 0.1) for _ in range(number)][-1]
    finally:
        batches.close()


def test_a_training_runs_is_resumed_predicts_and_is_evaluated(
    project: Path, gpu: Pretended | None, tmp_path: Path
) -> None:
    run = _trained(project, "training.steps=4", "training.validate_every=2")
    assert '"device": "cuda"' in run.plan_file.read_text()
    assert '"precision": "bfloat16"' in run.plan_file.read_text()
    assert [e.step for e in run.events() if isinstance(e, ValidationDone)] == [2, 4]
    if gpu is not None:
        assert set(gpu.device_set) == {0}
        assert gpu.conv_dtypes.most_common(1)[0][0] == torch.bfloat16  # a blur is fp32
    longer = load_project(project, ("training.steps=5", "training.validate_every=2"))
    run.write_record(_with(run, longer))
    assert run_here(run) == 0
    assert [e.step for e in run.events() if isinstance(e, RunResumed)] == [4]
    assert run.outcome() == ("done", "steps")
    found = evaluate_project(run.best_model, load_project(project), "val", tta=True, overlap=0.25)
    assert found.scores.pixels == 64 * 64
    out = tmp_path / "out"
    request = PredictRequest(
        model=str(run.best_model),
        also=(str(run.final_model),),
        inputs=(str(project / "images" / "val"),),
        out=str(out),
        uncertainty=True,
        probability=True,
        overlay=True,
    )
    predicted = new_run(tmp_path / "runs", request)
    assert run_here(predicted) == 0
    assert (out / "val0.png").exists()


def _with(run: Run, project: Any) -> Any:
    return msgspec.structs.replace(run.record(), project=project)


def test_a_watch_predicts_what_arrives(
    project: Path, gpu: Pretended | None, model_file: Path
) -> None:
    request = WatchRequest(
        model=str(model_file),
        watch=str(project / "images" / "val"),
        output=str(project / "predictions"),
        once=True,
    )
    loaded = load_project(project)
    run = new_run(loaded.runs_folder, request, project=loaded)
    assert run_here(run) == 0
    assert (project / "predictions" / "val0.png").exists()


@pytest.mark.long
def test_images_without_labels_and_objects_are_learned_and_predicted(
    project: Path, gpu: Pretended | None, tmp_path: Path
) -> None:
    picture = project / "incoming" / "0.png"
    write_picture(np.random.default_rng(5), picture, tmp_path / "away.png")
    file = project / "project.toml"
    learn = '[[data]]\nimages = "incoming"\nunlabelled = "learn"\n[model]'
    text = file.read_text().replace("[model]", learn, 1)
    file.write_text(text.replace("grain = 1", "grain = { value = 1, instances = true }"))
    run = _trained(project)
    if gpu is not None:
        assert set(gpu.device_set) == {0}
    taught = [e.confident for e in run.events() if isinstance(e, StepDone) and e.confident]
    assert taught
    assert [e.objects["grain"] for e in run.events() if isinstance(e, ValidationDone)]
    shutil.copytree(project / "images" / "val", tmp_path / "in")
    request = PredictRequest(
        model=str(run.best_model), inputs=(str(tmp_path / "in"),), out=str(tmp_path / "out")
    )
    predicted = new_run(tmp_path / "runs", request)
    assert run_here(predicted) == 0
    assert (tmp_path / "out" / "val0.instances.tif").exists()


@pytest.mark.parametrize(
    "head",
    [
        "unet",
        *(pytest.param(h, marks=pytest.mark.long) for h in ("pspnet", "deeplabv3plus", "upernet")),
    ],
)
def test_every_head_takes_steps(project: Path, gpu: Pretended | None, head: str) -> None:
    trainer, _ = _trainer(project, f"model.head={head}", "model.auxiliary=true")
    assert torch.isfinite(_step(trainer, 2)).item()


@pytest.mark.parametrize(
    "backbone",
    ["resnet10t", pytest.param("vit_tiny_patch16_224", marks=pytest.mark.long), "convnextv2_atto"],
)
def test_every_kind_of_backbone_takes_steps(
    project: Path, gpu: Pretended | None, backbone: str
) -> None:
    trainer, _ = _trainer(project, f"model.backbone={backbone}", "augment.preset=strong")
    assert torch.isfinite(_step(trainer, 2)).item()


@pytest.mark.parametrize("loss", ["+".join(LOSSES[:4]), "+".join(LOSSES[4:])])
def test_every_loss_validates_and_takes_steps(
    project: Path, gpu: Pretended | None, loss: str
) -> None:
    trainer, _ = _trainer(project, f"training.loss={loss}")
    assert torch.isfinite(_step(trainer)).item()
    assert np.isfinite(trainer.validator.at(1).loss)


def test_a_step_that_does_not_fit_goes_on_with_fewer_patches(
    project: Path, pretended: Pretended
) -> None:
    trainer, told = _trainer(project, "training.batch=4")
    pretended.most_pixels = 2 * 64 * 64  # patches of 32 are padded to 64
    assert torch.isfinite(_step(trainer)).item()
    assert (trainer.state.micro_batch, trainer.state.step) == (2, 1)
    assert [type(each) for each in told] == [WarningGiven]
    pretended.most_pixels = 64 * 64 - 1
    with pytest.raises(RunFailedError, match="one patch of 32 px does not fit"):
        _step(trainer)


def test_a_batch_that_does_not_fit_at_all_is_told_in_a_sentence(
    project: Path, pretended: Pretended
) -> None:
    trainer, _ = _trainer(project, "augment.blur=1", "training.batch=16")
    pretended.most_pixels = 10
    with pytest.raises(RunFailedError, match="not even the batch's images fit"):
        _step(trainer)


def test_a_validation_that_does_not_fit_is_done_in_smaller_tiles(
    project: Path, pretended: Pretended
) -> None:
    trainer, told = _trainer(project, "inference.tile_px=128", "training.batch=8")
    item = trainer.setup.val[0]
    tall = replace(
        item, pixels=np.tile(item.pixels, (3, 3, 1)), labels=np.tile(item.labels, (3, 3))
    )
    trainer.setup.val._kept[0] = tall
    whole = trainer.validator.at(1)
    pretended.most_pixels = 100 * 100
    told.clear()
    found = trainer.validator.at(2)
    assert found.scores.pixels == whole.scores.pixels == 192 * 192
    (warning,) = [each for each in told if isinstance(each, WarningGiven)]
    assert "1 tiles of 64 px at a time" in warning.message
    assert np.isfinite(found.loss)


def test_a_validation_moves_only_numbers_and_two_rows_of_tiles(
    project: Path, pretended: Pretended
) -> None:
    trainer, _ = _trainer(project)
    pretended.forget()
    trainer.validator.at(1)
    image_bytes = 64 * 64  # uint8, as its labels
    assert pretended.uploaded_bytes < 2 * image_bytes + 600  # and the weights of the tiles
    assert sum(pretended.syncs.values()) < 25


def test_a_step_asks_little_of_the_host(project: Path, pretended: Pretended) -> None:
    trainer, _ = _trainer(project, "training.batch=4")
    _step(trainer)
    batches = Batches(trainer.sampler, 2, trainer.device)
    first = batches.next()
    pretended.forget()
    trainer.step(*first, 0.1)
    trainer.step(*batches.next(), 0.1)  # its crops, too
    batches.close()
    assert sum(pretended.syncs.values()) <= 2 * MOST_SYNCS, pretended.syncs
    assert pretended.uploads <= 5  # images, labels, statistics, twice an augmentation's numbers
    crops_bytes = 4 * 48 * 48 * 2  # both uint8
    assert pretended.uploaded_bytes < crops_bytes + 2 * 4 * 10_000


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_prediction_goes_up_as_it_is_and_waits_for_nothing_but_its_masks(
    pretended: Pretended, model_file: Path, kind: type
) -> None:
    predictor = Predictor(model_file, tile_px=64)
    picture = np.random.default_rng(0).integers(0, 255, (208, 150), np.uint8).astype(kind)
    whole, forward, numbers = predictor(picture), predictor.forward, list[int]()
    predictor.forward = lambda tiles: (numbers.append(len(tiles)), forward(tiles))[1]
    pretended.forget()
    assert np.array_equal(predictor(picture), whole)
    assert not pretended.syncs
    assert numbers == [12]  # of four rows of tiles
    assert pretended.waits == 4  # one a band, while the next is computed
    assert pretended.uploads == 4 + 3  # rows once; windows and values of classes are small
    assert pretended.uploaded_bytes < picture.nbytes + 8_000


def test_a_prediction_on_a_gpu_is_that_of_a_processor(
    pretended: Pretended, model_file: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (208, 150), np.uint8)
    there, here = Predictor(model_file, tile_px=64), Predictor(model_file, gpus=0, tile_px=64)
    assert (there(picture) != here(picture)).mean() < 0.01  # bf16, where the processor has none


def test_a_prediction_that_does_not_fit_is_made_of_smaller_tiles(
    pretended: Pretended, model_file: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (300, 200), np.uint8)
    whole = Predictor(model_file)(picture)
    predictor = Predictor(model_file)
    pretended.most_pixels = 150 * 150
    mask = predictor(picture)
    assert mask.shape == whole.shape
    assert (predictor.tile_px, predictor.batch) == (128, 1)


def test_a_broken_gpu_ends_a_watch_and_leaves_its_files_waiting(
    project: Path, pretended: Pretended, model_file: Path
) -> None:
    watched = project / "images" / "train"
    for number in range(3, 16):
        shutil.copy(watched / "train0.png", watched / f"train{number}.png")
        os.utime(watched / f"train{number}.png", (number, number))  # older, and so first
    request = WatchRequest(
        model=str(model_file), watch=str(watched), output=str(project / "out"), once=True
    )
    loaded = load_project(project, ("inference.batch=1", "inference.tile_px=64"))
    run = new_run(loaded.runs_folder, request, project=loaded)
    pretended.breaks_at = lambda: (project / "out" / "train3.png").exists()
    assert run_here(run) == 1
    ending = run.ending()
    assert isinstance(ending, RunFailed)
    assert "the GPU failed: CUDA error: an illegal memory access" in ending.reason
    assert all(entry.state == "done" for entry in read_ledger(project / "out"))
    pretended.breaks_at, pretended.is_broken = None, False
    again = new_run(loaded.runs_folder, request, project=loaded)
    assert run_here(again) == 0
    assert {each.name for each in (project / "out").glob("*.png")} == {
        f"train{n}.png" for n in range(16)
    }


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 1), torch.float32),
        ((7, 0), torch.float16),
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ],
)
def test_precision_is_what_a_gpu_computes_natively(
    project: Path, capability: tuple[int, int], expected: torch.dtype
) -> None:
    with pretended_gpu(capability) as seen:
        assert choose_precision(choose_device(None))[0] == expected
        trainer, _ = _trainer(project, "augment.preset=none")
        _step(trainer)
        assert set(seen.conv_dtypes) == {expected}


@pytest.fixture
def without_bf16() -> Iterator[Pretended]:
    """A pretended GPU of the kind before bf16."""
    with pretended_gpu((7, 5)) as seen:
        yield seen


@pytest.mark.long
def test_fp16_learns_without_waiting_more_and_its_loss_scale_is_in_the_checkpoint(
    project: Path, without_bf16: Pretended
) -> None:
    trainer, _ = _trainer(project, "training.batch=4")
    _step(trainer)
    while trainer.stepper.skipped == trainer.state.step:
        _step(trainer)  # it finds its scale
    batches = Batches(trainer.sampler, trainer.state.step + 1, trainer.device)
    ready = batches.next()
    batches.close()
    without_bf16.forget()
    before = [weight.detach().clone() for weight in trainer.network.parameters()]
    trainer.step(*ready, 0.1)
    assert sum(without_bf16.syncs.values()) <= MOST_SYNCS, without_bf16.syncs
    pairs = zip(before, trainer.network.parameters(), strict=True)
    assert any((old != new).any().item() for old, new in pairs)
    trainer.stepper.scaler.load_state_dict(
        {**trainer.stepper.scaler.state_dict(), "scale": 512.0, "_growth_tracker": 7}
    )
    trainer._save_checkpoint()
    trainer.saver.close()
    state = read_checkpoint(trainer.setup.run.checkpoint_file)[1]
    assert (state.loss_scale, state.loss_scale_steps) == (512.0, 7)
    trainer.stepper.scaler.load_state_dict(
        {**trainer.stepper.scaler.state_dict(), "scale": 2.0, "_growth_tracker": 0}
    )
    trainer._restore()
    assert trainer.stepper.scaler.get_scale() == 512.0


@pytest.mark.long
def test_a_step_that_overflows_in_fp16_moves_nothing_is_counted_and_said(
    project: Path, without_bf16: Pretended
) -> None:
    trainer, told = _trainer(project)
    _step(trainer)
    scaler = trainer.stepper.scaler
    usual = trainer.stepper.skipped  # while it finds its scale
    scaler.load_state_dict({**scaler.state_dict(), "scale": 1e38})
    before = [weight.detach().clone() for weight in trainer.network.parameters()]
    assert torch.isfinite(_step(trainer)).item()
    assert scaler.get_scale() == pytest.approx(5e37)
    pairs = zip(before, trainer.network.parameters(), strict=True)
    assert all((old == new).all().item() for old, new in pairs)
    assert (trainer.stepper.skipped, trainer.state.step) == (usual + 1, 2)
    trainer._say_skipped()
    assert (
        f"{usual + 1} of 2 steps moved no weight: their gradients were too large for fp16"
        in str(told[-1])
    )


def test_a_prediction_too_large_for_fp16_is_made_in_fp32(
    without_bf16: Pretended, model_file: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (300, 200), np.uint8)
    whole = Predictor(model_file, gpus=0, tile_px=64)(picture)
    predictor = Predictor(model_file, tile_px=64)
    assert predictor.precision == torch.float16
    network = predictor._calls[0]
    number = 0

    def overflows(tiles: Tensor) -> Tensor:
        nonlocal number
        number += 1
        return network(tiles) * (torch.inf if number == 2 else 1)

    predictor._calls = [overflows]
    found = predictor.predict(picture)
    assert predictor.precision == torch.float32
    assert (found.mask != whole).mean() < 1e-3
    assert np.isfinite(found.confidence)


@pytest.mark.long
def test_what_fits_is_measured_before_the_plan_where_the_project_leaves_it_open(
    project: Path, pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(1000))
    clock = SimpleNamespace(monotonic=lambda: 0.01 * next(seconds))
    monkeypatch.setattr(probe, "time", clock)
    monkeypatch.setattr(probe, "_WARM_UP", 1)  # by this clock, one step tells as much as three
    monkeypatch.setattr(probe, "_TIMED", 1)
    text = (project / "project.toml").read_text().replace("batch = 2\n", "")
    (project / "project.toml").write_text(text.replace("steps = 8\n", "minutes = 1\n"))
    loaded = load_project(project)
    samples = list_samples(loaded)
    train, val = (Dataset(samples.of(s), loaded, Normaliser()) for s in ("train", "val"))
    device = choose_device(None)
    assert make_plan(loaded, train, val, device, 1).probed == ()  # only a training measures
    pretended.most_pixels = 32 * 64 * 64  # patches of 32 are padded to 64
    plan = make_plan(loaded, train, val, device, 1, measures=True)
    # A batch takes as long as any other by this clock: twice as many pay, until one does not fit.
    assert [one.patches for one in plan.probed] == [16, 32]
    assert (plan.batch, plan.micro_batch, plan.patch_px) == (32, 32, 32)
    assert plan.reasons["micro_batch"].startswith("measured on this GPU: 16 patches at a time: ")
    pretended.most_pixels = 3 * 64 * 64
    plan = make_plan(loaded, train, val, device, 1, measures=True)
    assert (plan.batch, plan.micro_batch) == (16, 2)
    assert msgspec.json.decode(encode_plan(plan), type=Plan) == plan
    pretended.most_pixels, pretended.peak_bytes = None, 100 << 30  # more than it may take
    plan = make_plan(loaded, train, val, device, 1, measures=True)
    assert plan.probed == () and plan.batch == 16


@pytest.mark.long
def test_a_run_that_goes_on_does_not_measure_again(
    project: Path, pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    real = probe.Probe._tried

    def counted(self: probe.Probe, patch_px: int, patches: int) -> probe.Probed:
        tried.append(patches)
        return real(self, patch_px, patches)

    monkeypatch.setattr(probe.Probe, "_tried", counted)
    text = (project / "project.toml").read_text().replace("batch = 2\n", "")
    (project / "project.toml").write_text(text)
    run = _trained(project, "training.steps=2")
    assert tried == [16]
    run.write_record(_with(run, load_project(project, ("training.steps=3",))))
    assert run_here(run) == 0
    assert tried == [16]
    assert run.outcome() == ("done", "steps")


def test_a_gpu_without_kernels_is_refused_by_name(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_100f"])
    with pytest.raises(InputError, match=r"no kernels for Pretended GPU \(sm_90\)"):
        choose_device(None)
    (_, line) = examine_torch()
    assert (line.state, line.found) == (
        "fail",
        f"torch {torch.__version__} has no kernels for Pretended GPU (sm_90)",
    )


def test_doctor_survives_a_gpu_that_others_fill(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(device: object = None) -> None:
        raise torch.OutOfMemoryError("CUDA error: out of memory\nCUDA kernel errors")

    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    (_, line) = examine_torch()
    assert (line.state, line.found) == ("warn", "Pretended GPU: CUDA error: out of memory")


def test_a_share_of_a_gpu_plans_for_that_share_and_keeps_to_it(
    project: Path, pretended: Pretended, monkeypatch: pytest.MonkeyPatch, model_file: Path
) -> None:
    whole = usable_memory(torch.device("cuda", 0))
    monkeypatch.setenv("EMCFSYS_GPU_SHARE", "0.25")
    assert usable_memory(torch.device("cuda", 0)) == pytest.approx(whole / 4, rel=1e-6)
    Predictor(model_file)
    assert pretended.memory_fraction == 0.25


@pytest.mark.long
def test_a_run_begun_on_a_processor_goes_on_on_the_gpu(project: Path) -> None:
    run = _trained(project, "training.steps=4", "compute.gpus=0")
    assert '"device": "cpu"' in run.plan_file.read_text()
    with pretended_gpu() as seen:
        run.write_record(_with(run, load_project(project, ("training.steps=6",))))
        assert run_here(run) == 0
        assert seen.conv_dtypes[torch.bfloat16]
    started = [e.device for e in run.events() if isinstance(e, RunStarted)]
    assert started == ["cpu", "cuda"]
    assert '"device": "cuda"' in run.plan_file.read_text()
    warnings = [e.message for e in run.events() if isinstance(e, WarningGiven)]
    assert warnings == ["Begun on cpu, goes on on cuda"]
    run.write_record(_with(run, load_project(project, ("training.steps=8", "compute.gpus=0"))))
    assert run_here(run) == 0  # and back, where the GPU is gone


@pytest.mark.long
def test_a_run_begun_in_bf16_goes_on_in_fp16_on_an_older_gpu(project: Path) -> None:
    with pretended_gpu():
        run = _trained(project, "training.steps=2")
    assert '"precision": "bfloat16"' in run.plan_file.read_text()
    with pretended_gpu((7, 5)) as seen:
        run.write_record(_with(run, load_project(project, ("training.steps=3",))))
        assert run_here(run) == 0
        assert seen.conv_dtypes[torch.float16] and not seen.conv_dtypes[torch.bfloat16]
    told = [e.message for e in run.events() if isinstance(e, WarningGiven)]
    assert told[0].startswith("Begun in bf16, goes on in float16: this GPU computes fp16 fast")


@pytest.mark.long
def test_what_a_validation_meets_costs_no_step(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Validator, step: int) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    loaded = load_project(project_folder)
    run = new_run(loaded.runs_folder, TrainRequest(), project=loaded)
    with monkeypatch.context() as patched:
        patched.setattr(Validator, "at", fails)
        assert run_here(run) == 1
    assert read_checkpoint(run.checkpoint_file)[1].step == 4
    assert run_here(run) == 0
    assert [e.step for e in run.events() if isinstance(e, ValidationDone)] == [4, 8]


def test_coupled_processes_that_run_out_of_memory_leave_word_and_heed_it(
    project: Path, pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, told = _trainer(project, "training.batch=4")
    monkeypatch.setattr(Ranks, "are_coupled", lambda self, device: True)
    monkeypatch.setattr(trainer.stepper, "_coupled", True)
    pretended.most_pixels = 2 * 64 * 64
    with pytest.raises(RunFailedError, match="goes on from the last checkpoint with 2 patches"):
        _step(trainer)
    assert read_retry(trainer.setup.run) == Retry(micro_batch=2, rank=0)
    trainer._heed_retry()
    assert trainer.state.micro_batch == 2
    assert "Process 0 was out of memory: 2 patches" in told[-1].message
    assert torch.isfinite(_step(trainer)).item()
