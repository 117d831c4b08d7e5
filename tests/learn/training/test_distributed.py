"""Training with several processes: as with one, and it ends as one."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emcfsys_engine.launch.processes import start_ticks
from emcfsys_engine.launch.start import Place, in_shell, start, torchrun_command
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.training import distributed as ranks
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.run import read_plan
from emcfsys_engine.model_card import NetworkSpec
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import CheckpointSaved, RunStarted, StepDone, ValidationDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from tests.learn.conftest import run_here, write_picture

WAIT_S = 200


def _training(folder: Path, *overrides: str) -> Run:
    project = load_project(folder, ["model.backbone=test_convnext", *overrides])
    return new_run(folder / "runs", TrainRequest(), project=project)


def _exactly(run: Run, like: Run, processes: int) -> None:
    """Give a run the plan of another, in full precision and without chance in the network."""
    plan = read_plan(like)
    network = msgspec.structs.replace(plan.network, norm="group", drop_path=0.0)
    plan = msgspec.structs.replace(plan, network=network, precision="float32", processes=processes)
    run.plan_file.write_bytes(msgspec.json.encode(plan))


def _kept(run: Run) -> int:
    """Execute a run as the command line does: keeper, torchrun, processes."""
    with start(run) as keeper:
        return keeper.wait(WAIT_S)


def _wait_for(condition: Callable[[], bool], keeper: "subprocess.Popen[bytes]", run: Run) -> None:
    for _ in range(20 * WAIT_S):
        if condition():
            return
        try:
            keeper.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"it ended too early: {run.outcome()}\n{run.log_file.read_text()}")
    pytest.fail("the condition never held")


def _processes(run: Run) -> dict[int, int]:
    """Return the pids of a run's training processes by their rank."""
    found: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            environment = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(run.folder).encode() in words and start_ticks(int(place.name)):
            ranks = [int(word[5:]) for word in environment if word.startswith(b"RANK=")]
            found |= {rank: int(place.name) for rank in ranks}
    return found


@pytest.mark.long
def test_two_processes_train_as_one(project_folder: Path) -> None:
    for name in ("val1", "val2"):  # an odd number: the processes have unequal shares
        picture = project_folder / "images" / "val" / f"{name}.png"
        mask = project_folder / "masks" / "val" / f"{name}.png"
        write_picture(np.random.default_rng(7), picture, mask)
    settings = [
        "training.batch=3",
        "training.steps=6",
        "training.validate_every=3",
        "training.loss=ce+dice+0.1*lovasz+0.1*ohem+0.1*boundary",
    ]
    planned = _training(project_folder, "training.steps=1", *settings[:1], *settings[2:])
    assert run_here(planned) == 0
    alone, together = (
        _training(project_folder, *settings, f"compute.processes={n}") for n in (1, 2)
    )
    for run, processes in ((alone, 1), (together, 2)):
        plan = read_plan(planned)
        _exactly(run, planned, processes)
        assert plan.batch == 3
    assert run_here(alone) == 0
    assert _kept(together) == 0, together.log_file.read_text()
    assert together.outcome() == ("done", "steps")
    ours, theirs = (
        [event for event in run.events() if isinstance(event, ValidationDone)]
        for run in (together, alone)
    )
    assert [event.step for event in ours] == [3, 6]
    # Terms that sort pixels make more of a rounding with every step.
    for our, their, nearly in zip(ours, theirs, (1e-4, 1e-3), strict=True):
        assert our.train_loss == pytest.approx(their.train_loss, rel=nearly)
        assert our.val_loss == pytest.approx(their.val_loss, rel=nearly)
        assert our.mean_iou == pytest.approx(their.mean_iou, abs=2e-3)
        assert our.accuracy == pytest.approx(their.accuracy, abs=2e-3)
    weights, wanted = load_file(together.final_model), load_file(alone.final_model)
    assert weights.keys() == wanted.keys()
    assert all(torch.allclose(weights[name], wanted[name], atol=2e-3) for name in wanted)
    _is_told_once(together)


@pytest.mark.long
def test_images_without_labels_teach_two_processes_as_one(project_folder: Path) -> None:
    for number in range(3):
        picture = project_folder / "incoming" / f"{number}.png"
        write_picture(np.random.default_rng(number), picture, project_folder / "away.png")
    file = project_folder / "project.toml"
    table = '[[data]]\nimages = "incoming"\nunlabelled = "learn"\n'
    file.write_text(file.read_text().replace("[model]", f"{table}[model]"))
    settings = ["training.batch=3", "training.validate_every=3", "training.steps=6"]
    planned = _training(project_folder, *settings)
    assert run_here(planned) == 0
    alone, together = (
        _training(project_folder, *settings, f"compute.processes={n}") for n in (1, 2)
    )
    for run, processes in ((alone, 1), (together, 2)):
        _exactly(run, planned, processes)
    assert run_here(alone) == 0
    assert _kept(together) == 0, together.log_file.read_text()
    told = [
        [(one.step, one.unlabelled_loss, one.confident) for one in run.events() if _taught(one)]
        for run in (together, alone)
    ]
    assert told[0]
    assert told[0][0] == pytest.approx(told[1][0], rel=1e-3)  # of the same steps
    weights, wanted = load_file(together.final_model), load_file(alone.final_model)
    assert all(torch.allclose(weights[name], wanted[name], atol=2e-3) for name in wanted)


def _taught(event: object) -> bool:
    return isinstance(event, StepDone) and event.unlabelled_loss is not None


def _is_told_once(run: Run) -> None:
    events = run.events()
    assert sum(isinstance(event, RunStarted) for event in events) == 1
    finals = [e for e in events if isinstance(e, CheckpointSaved) and e.role == "final"]
    assert len(finals) == 1
    assert run.log_file.read_text().count("6 steps, 3 patches") == 1
    assert run.exit_record().exit_code == 0  # type: ignore[union-attr]


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_run_and_leaves_nothing(
    project_folder: Path, rank: int
) -> None:
    run = _training(project_folder, "training.steps=100000", "compute.processes=2")
    with start(run) as keeper:
        _wait_for(lambda: any(isinstance(e, StepDone) for e in run.events()), keeper, run)
        os.kill(_processes(run)[rank], signal.SIGKILL)
        assert keeper.wait(WAIT_S) == 1
    state, reason = run.outcome()
    assert state == "failed"
    assert "process" in reason
    assert not _processes(run)
    assert not run.is_alive()


@pytest.mark.long
def test_a_term_saves_once_and_the_run_resumes_with_as_many(project_folder: Path) -> None:
    run = _training(project_folder, "training.steps=100000", "compute.processes=2")
    with start(run) as keeper:
        _wait_for(lambda: any(isinstance(e, StepDone) for e in run.events()), keeper, run)
        os.kill(_processes(run)[1], signal.SIGTERM)  # one of them hears it: all end
        assert keeper.wait(WAIT_S) == 143
    assert run.outcome() == ("interrupted", "terminated")
    assert json.loads(run.exit_file.read_text())["exit_code"] == 143
    assert run.checkpoint_file.exists()
    record = run.record()
    assert record.project is not None
    fewer = msgspec.structs.replace(record.project.compute, processes=1)
    project = msgspec.structs.replace(record.project, compute=fewer)
    run.write_record(msgspec.structs.replace(record, project=project))
    assert run_here(run) == 2
    assert "begun with 2 processes, and 1" in run.outcome()[1]


@pytest.mark.long
def test_two_processes_that_were_killed_resume_to_the_same_weights(project_folder: Path) -> None:
    settings = ["training.steps=9", "training.validate_every=3", "compute.processes=2"]
    settings += ["model.backbone=mobilenetv3_small_050", "training.batch=3"]
    whole, cut = _training(project_folder, *settings), _training(project_folder, *settings)
    assert _kept(whole) == 0, whole.log_file.read_text()
    with start(cut) as keeper:
        _wait_for(lambda: any(isinstance(e, ValidationDone) for e in cut.events()), keeper, cut)
        os.kill(_processes(cut)[0], signal.SIGKILL)
        assert keeper.wait(WAIT_S) == 1
    assert _kept(cut) == 0, cut.log_file.read_text()
    ours, theirs = load_file(cut.final_model), load_file(whole.final_model)
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("micro", [1, 2, 3, 8])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_shares_of_all_are_the_batch_and_nothing_twice(
    batch: int, micro: int, world: int
) -> None:
    for first in range(0, batch, micro):
        last = min(first + micro, batch)
        shares: list[tuple[torch.Tensor, torch.Tensor]] = []
        for rank in range(world):
            ranks = Ranks(Place(rank, world))
            own = torch.tensor(ranks.own(batch), dtype=torch.float32)
            assert len(own) <= -(-batch // world)  # it cuts no more than its share
            images = own[:, None, None, None].expand(-1, 1, 2, 2)
            labels = torch.zeros(len(own), 2, 2, dtype=torch.int64)
            shares.append(ranks.part(images, labels, first, last))
        assert len({len(part) for part, _ in shares}) == 1
        labelled = [part[truth != 255] for part, truth in ((p[:, 0], t) for p, t in shares)]
        wanted = [float(number) for number in range(first, last) for _ in range(4)]
        assert sorted(torch.cat(labelled).tolist()) == wanted


def test_batch_norms_that_average_over_gpus_predict_and_are_saved_as_before() -> None:
    spec = NetworkSpec(head="unet", backbone="test_efficientnet", num_classes=2, auxiliary=True)
    network = build_network(spec).eval()
    x_NCHW = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        before, names = network(x_NCHW), list(network.state_dict())
        shared = Ranks(Place(0, 2)).with_common_norms(network, torch.device("cuda"))
        assert torch.equal(shared(x_NCHW), before)
    assert list(shared.state_dict()) == names
    kinds = {type(module) for module in shared.modules()}
    assert any(issubclass(kind, torch.nn.SyncBatchNorm) for kind in kinds)
    assert not any(issubclass(kind, torch.nn.BatchNorm2d) for kind in kinds)


def test_processes_wait_within_a_forward_pass_where_batch_norms_average_over_gpus() -> None:
    several = Ranks(Place(rank=0, world=2, local_rank=0, local_world=2))
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert [one.are_coupled(gpu) for one in (Ranks(), several)] == [False, True]
    assert not several.are_coupled(cpu)


def test_blocks_cover_every_image_once() -> None:
    for world in (1, 2, 3, 7):
        for count in (0, 1, 2, 5, 20):
            blocks = [Ranks(Place(rank, world)).block(count) for rank in range(world)]
            assert [index for block in blocks for index in block] == list(range(count))


def test_only_the_rendezvous_is_expanded_by_a_shell() -> None:
    words = torchrun_command(Path("/a $HOME/run 1"), "/py", processes=4, nodes=2)
    shown = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {in_shell(words)}"],
        env={"EMCFSYS_RENDEZVOUS": "node1:2950", "EMCFSYS_RENDEZVOUS_ID": "x y", "HOME": "/no"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert shown[-1] == "/a $HOME/run 1"
    assert shown[shown.index("--rdzv-endpoint") + 1] == "node1:2950"
    assert shown[shown.index("--rdzv-id") + 1] == "x y"
    assert "--standalone" not in shown


def test_torchrun_is_called_with_options_that_it_knows(tmp_path: Path) -> None:
    old = tmp_path / "lib/python3.11/site-packages/torch/distributed/run.py"
    old.parent.mkdir(parents=True)
    old.write_text('parser.add_argument("--signals-to-handle")')
    python = tmp_path / "bin" / "python"
    words = torchrun_command(Path("/run"), str(python), processes=2)
    assert "--signals-to-handle" in words
    assert "--shutdown-timeout" not in words
    old.write_text('parser.add_argument("--shutdown-timeout")')
    assert "--shutdown-timeout" in torchrun_command(Path("/run"), str(python), processes=2)


def test_collectives_wait_for_minutes_not_for_hours() -> None:
    assert timedelta(minutes=2) < ranks._PATIENCE <= timedelta(minutes=15)
