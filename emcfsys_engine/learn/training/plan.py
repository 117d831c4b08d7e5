"""plan.json: every automatic choice of a training, with its reason, before the first step."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import torch

from emcfsys_engine import any_names
from emcfsys_engine.dataset.deals import Deal, Fingerprint, files_of
from emcfsys_engine.dataset.objects import told
from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.files import read_own
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.device import choose_precision
from emcfsys_engine.learn.faults import refuse_lost_gpu
from emcfsys_engine.learn.memory import Footprint, footprint_of, usable_memory
from emcfsys_engine.learn.training.augment import Strengths, strengths_of
from emcfsys_engine.learn.training.dataset import Dataset, class_pixel_counts
from emcfsys_engine.learn.training.probe import LEAST_FOR_BATCH_NORM, WORTH, Probe, Probed
from emcfsys_engine.learn.training.start import choose_network, gentleness, start_file
from emcfsys_engine.model_card import NetworkSpec
from emcfsys_engine.project import Project
from emcfsys_engine.run.folder import Run

FORMAT = 1
_LEAST_PATCH_PX = 64

# Patches a preset draws in all, on a CPU and on a GPU: minutes to an hour of work on either.
_PATCHES = {
    "quick": {"cpu": 3_000, "cuda": 16_000},
    "standard": {"cpu": 16_000, "cuda": 80_000},
    "best": {"cpu": 64_000, "cuda": 320_000},
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a training decided for itself; a resume reads it instead of deciding again."""

    format: int = FORMAT
    network: NetworkSpec
    device: str  # cpu | cuda
    precision: str  # bfloat16 | float32
    threads: int  # of each process
    processes: int = 1  # that share every batch out
    patch_px: int
    batch: int
    micro_batch: int
    total_steps: int | None  # None: ended by minutes, or by a person
    minutes: float | None
    validate_every: int | None  # None: by the clock
    tile_px: int
    encoder_lr: float
    decoder_lr: float
    weight_decay: float
    warmup_steps: int
    schedule: str = "cosine"  # cosine | trapezoid
    ema_decay: float
    clip_norm: float
    class_weights: tuple[float, ...]
    strengths: Strengths
    normaliser: Normaliser = Normaliser()
    weights: str = ""  # what it started from, and how much of that fitted
    train_images: tuple[str, ...] = ()
    val_images: tuple[str, ...] = ()
    files: dict[str, str] = {}  # image -> source and extension: tells those of one name apart
    fingerprints: dict[str, Fingerprint] = {}  # of images and labels, as the last start read them
    fold: int = 0  # of `folds`, from 1: what validates in it trains in all others; 0: no folds
    folds: int = 0
    follow: bool = False
    head_first: float = 0.0  # share of the run in which the encoder's weights stay as they are
    sides: dict[str, str] = {}  # digest of an image that was ever learned from -> train | val
    unlabelled_images: tuple[str, ...] = ()  # that teach without labels
    unlabelled_from: int = 0  # the step from which they do
    unlabelled_full: int = 0  # the step from which they do with all their weight
    joined: dict[str, int] = {}  # image -> step after which it, or its new labels, took part
    probed: tuple[Probed, ...] = ()  # what was measured on the GPU, by one process
    reasons: dict[str, str] = {}

    @property
    def deal(self) -> Deal | None:
        """Which images train and validate, for ever; None in plans older than these lists."""
        if not self.train_images or not self.val_images:
            return None
        return Deal(train=self.train_images, val=self.val_images, files=self.files)


def read_plan(run: Run) -> Plan:
    """Read plan.json.

    Raises: RunFolderError if it is damaged or of a newer version.
    """
    try:
        plan: Plan = any_names.decode(read_own(run.plan_file)[0], Plan)
    except (OSError, msgspec.MsgspecError) as error:
        raise RunFolderError(run.plan_file, f"cannot be read: {error}", "Train anew") from None
    if plan.format > FORMAT:
        what = f"has format {plan.format}, this version knows {FORMAT}"
        raise RunFolderError(run.plan_file, what, "Update emcfsys-tui")
    return plan


def encode_plan(plan: Plan) -> bytes:
    """Return what plan.json holds."""
    return any_names.encode(plan, indent=2)


def make_plan(
    project: Project,
    train: Dataset,
    val: Dataset,
    device: torch.device,
    threads: int,
    processes: int = 1,
    why_channels: str = "",
    *,
    measures: bool = False,
) -> Plan:
    """Choose everything the project leaves open.

    `why_channels`: why the data sets are grey or in colour, where the project left that open.
    `measures`: on a GPU, what fits and what pays is tried with a few steps.
    """
    reasons: dict[str, str] = {"network.in_channels": why_channels} if why_channels else {}
    precision, reasons["precision"] = choose_precision(device)
    batch = _choose_batch(project, device)
    if project.training.batch is None:
        reasons["batch"] = f"{batch} suits a {device.type} and its budget"
    start = start_file(project)
    network, defaults = choose_network(
        project,
        train.channels,
        device,
        norms_batches=batch >= LEAST_FOR_BATCH_NORM,
        auxiliary=_choose_auxiliary(project, reasons),
        reasons=reasons,
    )
    budget = MemoryBudget(usable_memory(device, processes), batch, processes, precision)
    size = _choose_size(project, train, device, network, budget, reasons)
    if measures and device.type == "cuda" and _is_open(project, size):
        size = _measured_size(project, train, device, network, budget, reasons) or size
    patch_px, batch, micro_batch = size.patch_px, size.batch, size.micro_batch
    if micro_batch < LEAST_FOR_BATCH_NORM and start is None:
        network = msgspec.structs.replace(network, norm="group")
    if project.instances:
        reasons["network.num_planes"] = _objects_told(project, train, val)
    gentle, head_first, why_rates = gentleness(project)
    if why_rates:
        reasons["learning_rates"] = why_rates
    total_steps, minutes = _choose_budget(project, batch, device, reasons)
    return Plan(
        network=network,
        device=device.type,
        precision=str(precision).removeprefix("torch."),
        threads=threads,
        processes=processes,
        patch_px=patch_px,
        batch=batch,
        micro_batch=micro_batch,
        total_steps=total_steps,
        minutes=minutes,
        validate_every=_choose_validation(project, total_steps, reasons),
        tile_px=project.inference.tile_px or max(patch_px, 512),
        encoder_lr=project.training.encoder_lr or defaults.encoder_lr * gentle,
        decoder_lr=project.training.decoder_lr or defaults.decoder_lr * gentle,
        head_first=head_first,
        weight_decay=defaults.weight_decay,
        warmup_steps=_choose_warmup(defaults.warmup_steps, total_steps),
        schedule=_choose_schedule(project, reasons),
        ema_decay=_choose_ema(total_steps, device, reasons),
        clip_norm=1.0,
        class_weights=choose_class_weights(train, reasons),
        strengths=strengths_of(project.augment),
        train_images=tuple(sample.name for sample in train.samples),
        val_images=tuple(sample.name for sample in val.samples),
        files=files_of((*train.samples, *val.samples)),
        follow=project.training.follow,
        probed=size.probed,
        reasons=reasons,
    )


def _objects_told(project: Project, *parts: Dataset) -> str:
    """Say how the objects of the images are known: numbers, shapes or connected parts."""
    truths = {
        sample.name: truth
        for part in parts
        for number, sample in enumerate(part.samples)
        if (truth := part[number].truth) is not None
    }
    return told(truths, tuple(project.instances))


def _choose_batch(project: Project, device: torch.device) -> int:
    return project.training.batch or (16 if device.type == "cuda" else 8)


def planned_length(
    project: Project, device: torch.device, known: Plan | None
) -> tuple[int | None, float | None]:
    """Return the steps or minutes of a training before any image was read; one of them is None.

    `known`: the plan that it was begun with; what the project says now counts more.
    """
    settings = project.training
    if known is not None and settings.steps is None and settings.minutes is None:
        return known.total_steps, known.minutes
    return _choose_budget(project, _choose_batch(project, device), device, {})


def rows_of(plan: Plan) -> list[tuple[str, str, str]]:
    """Return the plan for a person who is about to start it: what, its value, and why."""
    why = plan.reasons
    steps = f"{plan.total_steps:,} steps" if plan.total_steps else _length_of(plan)
    by_clock = "every 20 s" if plan.follow else "each tenth"
    every = f"every {plan.validate_every:,} steps" if plan.validate_every else by_clock
    parts = "" if plan.micro_batch == plan.batch else f", {plan.micro_batch} at a time"
    weights = ", ".join(f"{weight:g}" for weight in plan.class_weights)
    return [
        ("data", _images_of(plan), why.get("unlabelled_images", "")),
        ("length", steps, why.get("steps", "as the project says")),
        (
            "network",
            f"{plan.network.head}/{plan.network.backbone}",
            "; ".join(filter(None, (plan.weights, why.get("network.backbone", "")))),
        ),
        ("device", f"{_place_of(plan)}, {plan.precision}", why.get("precision", "")),
        ("patches", f"{plan.patch_px} px × {plan.batch}{parts}", _both(why, "patch_px", "batch")),
        ("memory", f"{plan.micro_batch} of {plan.batch} patches", why.get("micro_batch", "")),
        ("rates", f"encoder {plan.encoder_lr:g}, decoder {plan.decoder_lr:g}", plan.schedule),
        ("classes", f"weighted {weights}", why.get("class_weights", "")),
        *(
            [("objects", "distance and border", why.get("network.num_planes", ""))]
            if plan.network.num_planes
            else []
        ),
        ("validates", every, why.get("validate_every", "as the project says")),
    ]


def _images_of(plan: Plan) -> str:
    parts = [f"{len(plan.train_images)} training", f"{len(plan.val_images)} validation"]
    parts += [f"{len(plan.unlabelled_images)} without labels"] if plan.unlabelled_images else []
    return ", ".join(parts)


def _both(why: dict[str, str], *names: str) -> str:
    return "; ".join(why[name] for name in names if name in why) or "as the project says"


def summary_of(plan: Plan) -> str:
    """Return the plan in one line for a person."""
    return (
        f"{plan.network.head}/{plan.network.backbone}, {_length_of(plan)}, {plan.batch} patches "
        f"of {plan.patch_px} px a step, {plan.precision} on {_place_of(plan)}, "
        f"{len(plan.train_images)} training and {len(plan.val_images)} validation images"
        + (f", {len(plan.unlabelled_images)} without labels" if plan.unlabelled_images else "")
        + (f", fold {plan.fold} of {plan.folds}" if plan.fold else "")
        + (f"; weights: {plan.weights}" if plan.weights else "")
    )


def _length_of(plan: Plan) -> str:
    if plan.total_steps is not None:
        return f"{plan.total_steps} steps"
    return "until it is stopped" if plan.minutes is None else f"{plan.minutes:g} min"


def _place_of(plan: Plan) -> str:
    return plan.device if plan.processes == 1 else f"{plan.processes} processes with {plan.device}"


@dataclass(frozen=True)
class MemoryBudget:
    """What bounds the size of a step."""

    memory: int  # bytes, of one process
    batch: int
    processes: int
    precision: torch.dtype

    def micro_batch(self, footprint: Footprint) -> int:
        """Return how many patches fit at a time, halving the batch; 0: not even one does."""
        for micro in _halves(self.batch):
            if footprint.of(-(-micro // self.processes)) <= self.memory:
                return micro
        return 0


@dataclass(frozen=True, kw_only=True)
class _Size:
    """Of a step: the patch's side, patches, and how many go through the network at a time."""

    patch_px: int
    batch: int
    micro_batch: int
    probed: tuple[Probed, ...] = ()


def _wanted_patch(
    project: Project, train: Dataset, device: torch.device, reasons: dict[str, str]
) -> int:
    """Return the patch's side that suits device and images."""
    if project.training.patch_px is not None:
        return project.training.patch_px
    sides = [min(train[index].labels.shape) for index in range(len(train))]
    wanted = 512 if device.type == "cuda" else 256
    typical = int(np.median(sides))
    reasons["patch_px"] = (
        f"{wanted} suits a {device.type}; the images' shorter side is typically {typical} px"
    )
    return max(32, min(wanted, typical // 32 * 32))


def _choose_size(
    project: Project,
    train: Dataset,
    device: torch.device,
    network: NetworkSpec,
    budget: MemoryBudget,
    reasons: dict[str, str],
) -> _Size:
    """Choose by the memory that is counted."""
    fixed = project.training.patch_px
    patch_px = _wanted_patch(project, train, device, reasons)
    while footprint := footprint_of(network, patch_px, budget.precision):
        if micro := budget.micro_batch(footprint):
            reasons["micro_batch"] = _memory_told(footprint, budget, micro)
            return _Size(patch_px=patch_px, batch=budget.batch, micro_batch=micro)
        if fixed is not None or patch_px < 2 * _LEAST_PATCH_PX:
            reasons["micro_batch"] = "1: it may not fit in the memory, but nothing smaller is left"
            return _Size(patch_px=patch_px, batch=budget.batch, micro_batch=1)
        patch_px = patch_px // 64 * 32
        reasons["patch_px"] = f"the largest of which one fits in {budget.memory / 2**30:.1f} GiB"
    reasons["micro_batch"] = (
        "the whole batch: what it needs cannot be counted before the first step"
    )
    return _Size(patch_px=patch_px, batch=budget.batch, micro_batch=budget.batch)


def _is_open(project: Project, size: _Size) -> bool:
    """Tell whether a measurement could change anything."""
    settings = project.training
    return None in (settings.batch, settings.patch_px) or size.micro_batch < size.batch


def _measured_size(
    project: Project,
    train: Dataset,
    device: torch.device,
    network: NetworkSpec,
    budget: MemoryBudget,
    reasons: dict[str, str],
) -> _Size | None:
    """Choose by a few steps on the GPU; None: they cannot be done, or nothing fits.

    A larger batch than usual is only taken where the length is in minutes: steps, and patches,
    which a preset counts, would become longer by it.
    """
    probe = Probe(network, device, budget.precision, project.training.loss, budget.memory)
    why: dict[str, str] = {}
    patch_px, batch = _wanted_patch(project, train, device, why), budget.batch
    each = -(-batch // budget.processes)
    try:
        while not (fits := probe.most(patch_px, each)):
            if project.training.patch_px is not None or patch_px < 2 * _LEAST_PATCH_PX:
                return None
            patch_px = patch_px // 64 * 32
            why["patch_px"] = "the largest of which one fits, as measured on this GPU"
        if fits == each and project.training.batch is None and _is_by_the_clock(project):
            fits = probe.better(patch_px, each)
            batch = max(batch, fits * budget.processes)
    except (RuntimeError, ValueError) as error:  # a trial is no reason not to train
        refuse_lost_gpu(error)
        return None
    micro = min(batch, fits * budget.processes)
    why["micro_batch"] = f"measured on this GPU: {probe.told()}"
    if batch != budget.batch:
        why["batch"] = f"at least {WORTH:g} times as fast as half of it, as measured on this GPU"
    reasons |= why
    return _Size(patch_px=patch_px, batch=batch, micro_batch=micro, probed=tuple(probe.found))


def _is_by_the_clock(project: Project) -> bool:
    settings = project.training
    return settings.steps is None and (settings.minutes is not None or settings.follow)


def _memory_told(footprint: Footprint, budget: MemoryBudget, micro: int) -> str:
    need = footprint.of(-(-micro // budget.processes)) / 2**30
    return (
        f"{micro} of {budget.batch} patches at a time need about {need:.1f} GiB of the"
        f" {budget.memory / 2**30:.1f} GiB that a training may take here"
    )


def _halves(number: int) -> Iterator[int]:
    while number:
        yield number
        number = (number + 1) // 2 if number > 1 else 0


def _choose_auxiliary(project: Project, reasons: dict[str, str]) -> bool:
    if project.model.auxiliary is not None:
        return project.model.auxiliary
    preset = project.training.preset
    reasons["network.auxiliary"] = f"preset {preset}: a second head guides only long trainings"
    return preset == "best"


def _choose_budget(
    project: Project, batch: int, device: torch.device, reasons: dict[str, str]
) -> tuple[int | None, float | None]:
    if project.training.steps is not None or project.training.minutes is not None:
        return project.training.steps, project.training.minutes
    if project.training.follow:
        reasons["steps"] = "follows the labels: goes on until somebody stops it"
        return None, None
    patches = _PATCHES[project.training.preset][device.type]
    reasons["steps"] = f"preset {project.training.preset} draws {patches} patches on a {device}"
    return max(1, patches // batch), None


def _choose_validation(
    project: Project, total_steps: int | None, reasons: dict[str, str]
) -> int | None:
    if project.training.validate_every is not None:
        return project.training.validate_every
    if project.training.follow:
        reasons["validate_every"] = "every 20 s or so: that is when new labels join"
        return None
    if total_steps is None:
        reasons["validate_every"] = "about a tenth of the minutes"
        return None
    reasons["validate_every"] = "a twentieth of the steps"
    return max(1, total_steps // 20)


def _choose_schedule(project: Project, reasons: dict[str, str]) -> Literal["cosine", "trapezoid"]:
    if project.training.follow:
        reasons["schedule"] = "a high rate while labels come, a falling one at the end"
        return "trapezoid"
    return project.training.schedule


def _choose_warmup(default: int, total_steps: int | None) -> int:
    return default if total_steps is None else max(1, min(default, total_steps // 10))


def _choose_ema(total_steps: int | None, device: torch.device, reasons: dict[str, str]) -> float:
    """Average over the last twentieth of the run: long enough to smooth, short enough to follow."""
    steps = total_steps or (10_000 if device.type == "cuda" else 400)
    span = min(2_000, max(10, steps // 20))
    reasons["ema_decay"] = f"weights are averaged over about {span} steps"
    return 1 - 1 / span


def choose_class_weights(train: Dataset, reasons: dict[str, str]) -> tuple[float, ...]:
    """Weigh classes by 1/√frequency, so that a class of 1 % counts ten times, not a hundred.

    Where most is bare all count alike: people draw more of what is rare, which weighs it already.
    """
    counts = class_pixel_counts(train)
    labelled, bare = counts[:-1], counts[-1]
    shares = labelled / max(1, labelled.sum())
    named = _named_shares(train.project.class_names, shares)
    if bare > labelled.sum():
        reasons["class_weights"] = f"alike, since most pixels are unlabelled; drawn: {named}"
        return (1.0,) * len(shares)
    raw = [1 / math.sqrt(max(share, 1e-4)) for share in shares]
    mean = float(np.dot(raw, shares)) or 1.0
    reasons["class_weights"] = f"1/√frequency: {named}"
    return tuple(round(min(10.0, weight / mean), 4) for weight in raw)


def _named_shares(names: Sequence[str], shares: np.ndarray) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True))
