"""A training run from its run.json to its ending: data, plan, network, loop."""

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import msgspec
import numpy as np
import torch

from emcfsys_engine import any_names
from emcfsys_engine.colours import colours_for
from emcfsys_engine.dataset.deals import (
    Deal,
    Fingerprint,
    keep_folds,
    kept_folds,
    planned,
    refuse_renumbered_since,
    since_last_start,
    twin_faults,
    validation_digest,
)
from emcfsys_engine.dataset.follow import gather_some, has_both_sides
from emcfsys_engine.dataset.objects import NUM_PLANES
from emcfsys_engine.dataset.samples import (
    Samples,
    first_fold,
    list_samples,
    samples_of,
    unlabelled_faults,
)
from emcfsys_engine.dataset.splits import Sample, Split
from emcfsys_engine.dataset.unlabelled import unlabelled_samples
from emcfsys_engine.errors import DataFaults, EmcfError, InputError, RunFolderError
from emcfsys_engine.files import write_whole
from emcfsys_engine.images.normalise import GREY, RGB, Normaliser
from emcfsys_engine.learn.device import (
    choose_device,
    choose_precision,
    choose_threads,
    describe,
    is_without_bf16,
    lost_gpu,
    use,
)
from emcfsys_engine.learn.inference.tiles import logit_bands
from emcfsys_engine.learn.networks.backbones import defaults_for
from emcfsys_engine.learn.networks.network import SegmentationNetwork, build_network
from emcfsys_engine.learn.networks.weights import WeightsReport, load_weights
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.learn.training import start
from emcfsys_engine.learn.training.augment import augment
from emcfsys_engine.learn.training.checkpoint import kept_elsewhere
from emcfsys_engine.learn.training.dataset import Dataset, PatchSampler
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.follow import Follower, first_labels, sound_ones
from emcfsys_engine.learn.training.losses import build_loss
from emcfsys_engine.learn.training.plan import (
    Plan,
    encode_plan,
    make_plan,
    planned_length,
    read_plan,
    summary_of,
)
from emcfsys_engine.learn.training.setup import TrainingSetup, statistics_of
from emcfsys_engine.learn.training.shared_items import read_together
from emcfsys_engine.learn.training.trainer import Trainer
from emcfsys_engine.learn.training.trust import keep_trust
from emcfsys_engine.learn.training.unlabelled import planned as with_unlabelled
from emcfsys_engine.learn.training.unlabelled import readable
from emcfsys_engine.model_card import ModelCard, NetworkSpec, NormaliserSettings
from emcfsys_engine.project import UNLABELLED, Project
from emcfsys_engine.run.events import PlanMade, RunStarted, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import members_of, refuse_without_checkpoint
from emcfsys_engine.run.outcome import emit_ending
from emcfsys_engine.run.records import deal_file
from emcfsys_engine.text import how_many

_NUM_IMAGES = 2


def dry_run(project: Project) -> list[InputError]:
    """Do one step on a few images, as training would; return what went wrong.

    All images and labels are read before, as training reads them: none is refused only there.
    """
    if project.training.follow and not has_both_sides(gather_some(project).samples):
        return network_faults(project)  # it waits: there is nothing yet to take a step on
    try:
        samples = list_samples(project, fold=first_fold(project))
        channels = start.choose_channels(project, samples).channels
        train, val = start.datasets_of(project, samples, channels)
        _refuse_unready(project, train, val, {**train.check(), **val.check()}, is_new=True)
        _step(project, train, val)
    except DataFaults as several:
        return list(several.faults)
    except InputError as fault:
        return [fault]
    except (EmcfError, RuntimeError) as error:
        text = str(error).partition("\n")[0]
        remedy = "Try a smaller training.batch or training.patch_px, or another model"
        return [InputError(project.file, f"a first training step fails: {text}", remedy)]
    return []


def planned_here(project: Project) -> Plan:
    """Return the plan that a training begun now would make; every image is read for it.

    Raises: DataFaults, InputError for what such a training would refuse.
    """
    samples = list_samples(project, fold=first_fold(project))
    train, val = start.datasets_of(
        project, samples, start.choose_channels(project, samples).channels
    )
    device = choose_device(project.compute.gpus)
    plan = make_plan(project, train, val, device, choose_threads(project.compute.threads))
    plan = with_unlabelled(plan, *unlabelled_samples(project, samples.samples))
    begins = project.model.start or project.model.weights
    return msgspec.structs.replace(plan, weights=f"weights: {begins}")


def network_faults(project: Project) -> list[InputError]:
    """Build the network and load its weights; return why that cannot be done. Reads no image."""
    file = start.start_file(project)
    try:
        spec = NetworkSpec(
            head=project.model.head,
            # No GPU is looked for: the weights of a stronger backbone are known to be here.
            backbone=start.backbone_of(project, torch.device("cpu"))[0],
            in_channels=GREY if project.model.channels == "grey" else RGB,
            num_classes=len(project.classes),
            num_planes=NUM_PLANES if project.instances else 0,
        )
        defaults_for(spec.backbone)
        if file is not None:
            spec = start.started_network(project, file, auxiliary=False)
        _load_start(project, build_network(spec))
    except InputError as fault:
        return [fault]
    return []


def augmented_patches(project: Project, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return augmented patches as training draws them, with class values.

    Shapes: H×W×C float32 and H×W uint8.
    """
    train = _some(project, "train")
    plan = make_plan(project, train, train, choose_device(0), 1)
    sampler = PatchSampler(train, plan.patch_px, number, project.project.seed)
    images, labels = sampler.crops(1).on(torch.device("cpu"))
    images, labels = augment(images, labels, plan.patch_px, plan.strengths, range(number))
    values = np.full(256, 255, np.uint8)
    values[: len(project.class_values)] = project.class_values
    classes = labels[:, 0] if project.instances else labels
    return [
        (image.movedim(0, -1).numpy(), values[label.numpy()])
        for image, label in zip(images, classes, strict=True)
    ]


def _step(project: Project, train: Dataset, val: Dataset) -> None:
    device = choose_device(project.compute.gpus)
    plan = make_plan(project, train, val, device, choose_threads(project.compute.threads))
    network = build_network(plan.network)
    _load_start(project, network)
    network = network.to(device).to(memory_format=torch.channels_last)
    batch = min(2, plan.batch)
    few = Dataset(
        _labelled_first(train)[:_NUM_IMAGES], project, train.normaliser, channels=train.channels
    )
    sampler = PatchSampler(few, plan.patch_px, batch, project.project.seed)
    images, labels = sampler.crops(1).on(device)
    patches, truth = augment(images, labels, plan.patch_px, plan.strengths, range(batch))
    measure = build_loss(
        project.training.loss, plan.class_weights, num_classes=len(project.classes)
    )
    measure(network.train()(patches), truth).backward()
    image = val[0].rows_on(0, 512, device)[:, :, :512]
    with torch.inference_mode():
        list(logit_bands(network.eval(), image, tile_px=256, overlap=0.25, batch=1))


def _labelled_first(train: Dataset) -> list[Sample]:
    """Return the samples, those with a labelled pixel first."""
    order = sorted(range(len(train)), key=lambda n: bool((train[n].labels == UNLABELLED).all()))
    return [train.samples[n] for n in order]


def _some(project: Project, split: Split) -> Dataset:
    samples = list_samples(project, fold=first_fold(project))
    channels = start.choose_channels(project, samples).channels
    return Dataset(samples.of(split)[:_NUM_IMAGES], project, Normaliser(), channels=channels)


def execute(worker: RunContext) -> int:
    """Train as run.json says; go on where a checkpoint is found."""
    project = worker.record.project
    if project is None:
        raise RunFolderError(worker.run.record_file, "has no project", "Train anew")
    ranks = Ranks(worker.place)
    threads = choose_threads(project.compute.threads, ranks.local_world)
    torch.set_num_threads(threads)
    device = choose_device(project.compute.gpus, ranks.local_rank)
    use(device)
    ranks.connect(device)
    resumed = bool(ranks.most(worker.run.checkpoint_file.exists())[0])
    if not resumed:
        refuse_without_checkpoint(worker.run)
    # The same batch must give the same sums in every run: no choice by timing.
    torch.backends.cudnn.benchmark = False
    waits = project.training.follow and not worker.run.plan_file.exists()
    known = read_plan(worker.run) if worker.run.plan_file.exists() else None
    length = planned_length(project, device, known)
    if waits:
        worker.emit(_started(worker, project, device, length, None))
    samples = first_labels(worker, project) if waits else _dealt(worker, project)
    if samples is None:
        request = worker.stop_request()
        return emit_ending(worker.emit, "cancel" if request in (None, "stop") else request)
    if known is not None and project.training.follow:  # what is faulty now is named, and waits
        samples = replace(samples, samples=sound_ones(samples.samples, project))
    colour = _begun_with(worker.run) or start.choose_channels(project, samples)
    train, val = start.datasets_of(project, samples, colour.channels, ranks.local_world)
    unlabelled, num_there = unlabelled_samples(
        project, samples.samples, None if known is None else known.unlabelled_images
    )
    make_card = partial(_make_card, worker.run, project)
    follower = Follower(project, make_card, worker.record.numbers)
    follower.begin(train, val)
    if not waits:
        worker.emit(_started(worker, project, device, length, len(train)))
    lost = lost_gpu(device, project.compute.gpus, os.environ)
    prints = read_together((train, val), ranks)
    bare, bare_notes = readable(
        Dataset(unlabelled, project, Normaliser(), ranks.local_world, colour.channels), val, prints
    )
    if known is not None and len(bare) < num_there:
        bare_notes.append(
            f"{how_many(num_there - len(bare), 'image')} without labels no longer there"
        )
    for note in filter(None, (lost, *samples.notes, *bare_notes, start.grey_note((train, val)))):
        worker.emit(WarningGiven(message=note))
    _refuse_unready(project, train, val, prints, is_new=not worker.run.plan_file.exists())
    told = ranks.from_first(
        lambda: _made_plan(
            worker, project, train, val, device, threads, ranks.world, prints, colour.why
        )
    )
    plan: Plan = any_names.decode(told, Plan)
    if known is None:
        plan = with_unlabelled(plan, bare.samples, num_there)
    torch.set_num_threads(plan.threads)
    torch.manual_seed(project.project.seed)
    network = build_network(plan.network)
    if not resumed:
        plan = msgspec.structs.replace(plan, weights=_load_start(project, network))
    setup = TrainingSetup(
        run=worker.run,
        project=project,
        plan=plan,
        card=_make_card(worker.run, project, plan, train),
        val_digest=validation_digest(val.samples, prints),
        network=network,
        train=train,
        val=val,
        unlabelled=bare if len(bare) else None,
        emit=worker.emit_through_outages,
        disk=worker.disk,
        stop_request=worker.stop_request,
        ranks=ranks,
        new_labels=follower if plan.follow else None,
    )
    return _trained(worker, setup, device, resumed=resumed)


def _trained(
    worker: RunContext, setup: TrainingSetup, device: torch.device, *, resumed: bool
) -> int:
    """Train as set up, from the checkpoint where there is one; return the exit code."""
    trainer, plan = Trainer(setup), setup.plan
    gone_on = trainer.resume() if resumed else None
    if setup.ranks.is_first:  # nothing is refused any more
        write_whole(worker.run.plan_file, encode_plan(plan))
    worker.emit(PlanMade(summary=summary_of(plan)))
    if gone_on is not None:
        worker.emit(gone_on)
        if told := kept_elsewhere(worker.run, gone_on.step):
            worker.emit(WarningGiven(message=told))
    print(f"{describe(device, getattr(torch, plan.precision))}: {summary_of(plan)}", flush=True)
    worker.begin()
    ending = trainer.train()
    if ending.keeps and setup.ranks.is_first:
        keep_trust(trainer.setup, trainer.budget.trust_seconds())
    setup.ranks.leave()
    return emit_ending(worker.emit, ending.reason, step=ending.step, score=ending.score)


def _started(
    worker: RunContext,
    project: Project,
    device: torch.device,
    length: tuple[int | None, float | None],
    num_images: int | None,
) -> RunStarted:
    return RunStarted(
        run=worker.run.id,
        does="train",
        project=project.name,
        classes=project.class_names,
        total_steps=length[0],
        minutes=length[1],
        device=device.type,
        num_images=num_images,
    )


def _made_plan(
    worker: RunContext,
    project: Project,
    train: Dataset,
    val: Dataset,
    device: torch.device,
    threads: int,
    processes: int,
    prints: dict[str, Fingerprint],
    why_channels: str,
) -> bytes:
    """Return the run's plan: the one it has, with the budget of today, or a new one.

    Raises: RunFolderError if the run was begun with another number of processes; DataFaults if an
    image that it trains on became one that it validates on.
    """
    run = worker.run
    known = read_plan(run) if run.plan_file.exists() else None
    plan = known or make_plan(
        project, train, val, device, threads, processes, why_channels, measures=True
    )
    plan = msgspec.structs.replace(plan, fold=run.record().fold, folds=project.training.kfold)
    if plan.processes != processes:
        what = f"was begun with {plan.processes} processes, and {processes} are here"
        raise RunFolderError(run.folder, what, "Resume it with as many, or train anew")
    if known is not None and known.deal is not None:
        for note in since_last_start(known.deal, known.fingerprints, prints, project):
            worker.emit(WarningGiven(message=note))
    plan = msgspec.structs.replace(plan, fingerprints={**plan.fingerprints, **prints})
    if device.type != plan.device:
        worker.emit(WarningGiven(message=f"Begun on {plan.device}, goes on on {device.type}"))
        plan = _moved(plan, device, threads)
    elif plan.precision == "bfloat16" and is_without_bf16(device):
        plan = _moved(plan, device, threads)
        what = f"Begun in bf16, goes on in {plan.precision}: {plan.reasons['precision']}"
        worker.emit(WarningGiven(message=what))
    steps, minutes = project.training.steps, project.training.minutes
    if known is not None and (steps is not None or minutes is not None):
        plan = msgspec.structs.replace(plan, total_steps=steps, minutes=minutes)
        if steps is not None and plan.validate_every is None and not plan.follow:
            plan = msgspec.structs.replace(plan, validate_every=max(1, steps // 20))
    return encode_plan(plan)


def _dealt(worker: RunContext, project: Project) -> Samples:
    """Return the run's images: as plan.json says for ever, or dealt now, before its first step.

    The folds of a group are dealt once, by the first of them that begins.
    """
    run, record = worker.run, worker.record
    deal = planned(run.plan_file)
    if deal is None:
        refuse_renumbered_since(project, record.numbers)
    if deal is None and not record.fold:
        return list_samples(project)
    if deal is None:
        file = deal_file(run.folder.parent, record.group)
        kept = kept_folds(file)
        if kept is None:
            samples = list_samples(project, fold=record.fold).samples
            kept = keep_folds(file, samples, _begun_folds(run, record.group))
        return samples_of(project, kept.deal(record.fold), kept.folds)
    return samples_of(project, deal)


def _begun_with(run: Run) -> start.Colour | None:
    """Return what a run that goes on reads, as its plan says; None: it is new."""
    if not run.plan_file.exists():
        return None
    return start.Colour(channels=read_plan(run).network.in_channels)


def _begun_folds(run: Run, group: str) -> dict[int, Deal]:
    """Return the deals of those folds that were begun before groups kept theirs."""
    found: dict[int, Deal] = {}
    for other in members_of(run.folder.parent, group):
        if (deal := planned(other.plan_file)) is not None:
            found[other.record().fold] = deal
    return found


def _moved(plan: Plan, device: torch.device, threads: int) -> Plan:
    """Return the plan of a run that goes on on another kind of device, in its precision."""
    precision, why = choose_precision(device)
    return msgspec.structs.replace(
        plan,
        device=device.type,
        precision=str(precision).removeprefix("torch."),
        threads=threads,
        reasons={**plan.reasons, "precision": why},
    )


def _load_start(project: Project, network: SegmentationNetwork) -> str:
    """Give a network what it begins with, and return that in words."""
    file = start.start_file(project)
    if file is not None:
        return start.load_start(project, file, network)
    return _load_weights(project, network).summary


def _load_weights(project: Project, network: SegmentationNetwork) -> WeightsReport:
    allowed = project.model.allow_partial
    return load_weights(network, _weights_of(project), allow_partial=allowed)


def _weights_of(project: Project) -> str:
    """Return model.weights, as a path where it is one of the project's files."""
    place = project.model.weights
    if place not in ("none", "imagenet") and (project.folder / place).exists():
        return str(project.folder / place)
    return place


def _refuse_unready(
    project: Project,
    train: Dataset,
    val: Dataset,
    prints: Mapping[str, Fingerprint],
    *,
    is_new: bool,
) -> None:
    """Refuse what cannot train once all is read: for `check`, and before the first step.

    Raises: DataFaults for parts without labels, and for a new run if an image is on both sides.
    """
    samples = (*train.samples, *val.samples)
    labelled = {
        sample.name: not bool((part[n].labels == UNLABELLED).all())
        for part in (train, val)
        for n, sample in enumerate(part.samples)
    }
    faults: list[InputError] = [*unlabelled_faults(project, samples, labelled)]
    if is_new:
        faults += twin_faults(samples, prints)
    if faults:
        raise DataFaults(faults)


def _make_card(run: Run, project: Project, plan: Plan, train: Dataset) -> ModelCard:
    return ModelCard(
        network=msgspec.structs.replace(plan.network, auxiliary=False),
        classes=project.class_names,
        class_values=project.class_values,
        colours=colours_for(len(project.classes)),
        instances=tuple(name for name in project.class_names if name in project.instances),
        normaliser=NormaliserSettings(**msgspec.structs.asdict(plan.normaliser)),
        pixel_nm=pixel_size_of(project, train),
        # An adapted model goes on at the pixel size of the one that it began with.
        rescales=project.project.pixel_nm is not None and start.start_file(project) is not None,
        patch_px=plan.patch_px,
        statistics=statistics_of(train),
        trained_on={name: _image_of(plan, name) for name in plan.train_images},
        validated_on={name: _image_of(plan, name) for name in plan.val_images},
        project=project.name,
        run=run.id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=run.record().versions,
    )


def _image_of(plan: Plan, name: str) -> str:
    known = plan.fingerprints.get(name)
    return known.image if known is not None else ""


def pixel_size_of(project: Project, train: Dataset) -> float | None:
    """Return the pixel size trained at: the project's, else the images' if all sides are alike."""
    if project.project.pixel_nm is not None:
        return project.project.pixel_nm
    sizes = [train[index].pixel_nm for index in range(len(train))]
    known = [side for size in sizes if size is not None for side in size]
    if None in sizes or max(known) > 1.1 * min(known):
        return None
    return float(np.median(known))
