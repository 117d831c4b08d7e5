"""A training that begins with a model file: its whole network, classes matched by their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from emcfsys_engine.dataset.objects import NUM_PLANES
from emcfsys_engine.dataset.samples import Samples
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import InputError, ProjectError
from emcfsys_engine.images.normalise import GREY, RGB, Normaliser, carries_colour
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.networks.backbones import (
    DEFAULT_BACKBONE,
    BackboneDefaults,
    defaults_for,
)
from emcfsys_engine.learn.networks.models_list import strongest_here
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.model_card import NetworkSpec, read_card
from emcfsys_engine.project import Project
from emcfsys_engine.text import few, how_many

RATE_SHARE = 0.3  # of the usual learning rates: less of what the model knows is forgotten
HEAD_FIRST = 0.2  # of the training, in which the encoder's weights stay as they are
_SHORT_MINUTES = 2.0
_HEAD = ("head.weight", "head.bias")  # one row a class
_AUXILIARY = "auxiliary_head."


def backbone_of(project: Project, device: torch.device) -> tuple[str, str]:
    """Return the backbone of a training that begins here, and why, where the project names none."""
    named, start = project.model.backbone, start_file(project)
    if named:
        return named, ""
    if start is not None:
        return read_card(start).network.backbone, ""
    takes_best = project.training.preset == "best" and project.model.weights == "imagenet"
    if not takes_best or device.type != "cuda":
        return DEFAULT_BACKBONE, ""
    found = strongest_here()
    if found == DEFAULT_BACKBONE:
        return found, "preset best: no stronger one's weights are on this machine"
    return found, "preset best: the strongest whose weights are on this machine"


def start_file(project: Project) -> Path | None:
    """Return the model file that the project's trainings begin with, if it names one."""
    start = project.model.start
    return project.folder / Path(start).expanduser() if start else None


def gentleness(project: Project) -> tuple[float, float, str]:
    """Return the share of the usual rates, that of the run for the head alone, and why.

    A minute or two is too short to learn gently: a quick adaptation is for the new images, and at
    the usual rates it is better on them and worse on the old ones (RESULTS).
    """
    if start_file(project) is None:
        return 1.0, 0.0, ""
    minutes = project.training.minutes
    if minutes is not None and minutes <= _SHORT_MINUTES:
        return 1.0, 0.0, f"the usual ones: {minutes:g} minutes are too short for gentler ones"
    why = (
        f"{RATE_SHARE:g} of the usual ones, and the head alone for the first {HEAD_FIRST:.0%}: "
        "the model is to forget little"
    )
    return RATE_SHARE, HEAD_FIRST, why


def choose_network(
    project: Project,
    channels: int,
    device: torch.device,
    *,
    norms_batches: bool,
    auxiliary: bool,
    reasons: dict[str, str],
) -> tuple[NetworkSpec, BackboneDefaults]:
    """Return the network, that of a model file where one is begun with, and how it is trained.

    `norms_batches`: a step has patches enough for batch norms. `reasons` gets why.
    Raises: as `started_network`.
    """
    backbone, why_backbone = backbone_of(project, device)
    if why_backbone:
        reasons["network.backbone"] = why_backbone
    defaults, start = defaults_for(backbone), start_file(project)
    if start is not None:
        reasons["network"] = f"that of {start.name}, whose weights it begins with"
        return started_network(project, start, auxiliary=auxiliary), defaults
    network = NetworkSpec(
        head=project.model.head,
        backbone=backbone,
        in_channels=channels,
        num_classes=len(project.classes),
        num_planes=NUM_PLANES if project.instances else 0,
        norm=defaults.norm if norms_batches else "group",
        drop_path=defaults.drop_path,
        auxiliary=auxiliary,
    )
    return network, defaults


def started_network(project: Project, file: Path, *, auxiliary: bool) -> NetworkSpec:
    """Return the network of a model file, for the project's classes.

    Raises: ProjectError if the project names another network; ModelFileError.
    """
    network = read_card(file).network
    there = (network.head, network.backbone)
    wanted = (project.model.head, project.model.backbone or network.backbone)
    if wanted != there:
        what = f"{file} is a {'/'.join(there)}, and the project says {'/'.join(wanted)}"
        remedy = f'Set head = "{there[0]}" and backbone = "{there[1]}" under [model]'
        raise ProjectError(project.file, "model.start", what, remedy)
    return msgspec.structs.replace(
        network,
        num_classes=len(project.classes),
        num_planes=NUM_PLANES if project.instances else 0,
        auxiliary=auxiliary,
    )


def load_start(project: Project, file: Path, network: SegmentationNetwork) -> str:
    """Load a model file into a network, each class from the one of its name; return what was done.

    Raises: ModelFileError if it is damaged, or not of this network.
    """
    known, card = load_model(file)
    given, own = known.state_dict(), network.state_dict()
    rows = [
        (place, card.classes.index(name))
        for place, name in enumerate(project.class_names)
        if name in card.classes
    ]
    planes = min(network.spec.num_planes, known.spec.num_planes)
    first, before = network.spec.num_classes, known.spec.num_classes
    rows += [(first + plane, before + plane) for plane in range(planes)]
    with torch.no_grad():
        for name, tensor in own.items():
            if name in _HEAD:
                for place, there in rows:
                    tensor[place].copy_(given[name][there])
            elif not name.startswith(_AUXILIARY):
                tensor.copy_(given[name])
    new = [name for name in project.class_names if name not in card.classes]
    left = [name for name in card.classes if name not in project.class_names]
    said = [f"the whole network of {file.name} ({card.run or 'no run'}, step {card.step})"]
    said += [f"new: {', '.join(new)}"] if new else []
    said += ["new: distance and border of objects"] if network.spec.num_planes > planes else []
    said += [f"no longer: {', '.join(left)}"] if left else []
    return "; ".join(said)


_LOOKED_AT = 24  # images, evenly over all, whose pixels decide
_MOST = 0.5  # of them


@dataclass(frozen=True, kw_only=True)
class Colour:
    """How many channels a network reads, and why, where the project left that open."""

    channels: int
    why: str = ""


def choose_channels(project: Project, samples: Samples) -> Colour:
    """Return what model.channels says; for "auto", what most images of the training need.

    All folds of a group have the same images, and so decide alike. Images that cannot be read count
    as grey: reading them for the training names them.
    """
    start = start_file(project)
    if start is not None:
        return Colour(channels=read_card(start).network.in_channels, why=f"as {start.name} reads")
    wanted = project.model.channels
    if wanted != "auto":
        return Colour(channels=RGB if wanted == "rgb" else GREY)
    used = sorted((*samples.of("train"), *samples.of("val")), key=lambda one: one.name)
    step = max(1.0, len(used) / _LOOKED_AT)
    looked_at = [used[int(n * step)] for n in range(min(_LOOKED_AT, len(used)))]
    coloured = [one.name for one in looked_at if _needs_colour(one)]
    number = f"{len(coloured)} of {how_many(len(looked_at), 'image')} looked at"
    what = f"pixels of equal brightness differ in colour in {number}"
    if len(coloured) >= _MOST * max(1, len(looked_at)):
        return Colour(channels=RGB, why=f"auto: rgb, since {what} ({coloured[0]} …)")
    return Colour(channels=GREY, why=f"auto: grey, since {what}")


def _needs_colour(sample: Sample) -> bool:
    try:
        shape = probe(sample.image.path).shape
        is_grey = len(shape) < 3 or shape[2] < RGB
        return not is_grey and carries_colour(read_micrograph(sample.image).pixels)
    except InputError:
        return False


def datasets_of(
    project: Project, samples: Samples, channels: int, processes: int = 1
) -> tuple[Dataset, Dataset]:
    """Return the images to train on and those to validate on, as the network reads them."""
    train, val = (
        Dataset(samples.of(split), project, Normaliser(), processes, channels)
        for split in ("train", "val")
    )
    return train, val


def grey_note(parts: Sequence[Dataset]) -> str:
    """Say which of the images read are grey where colours are wanted; empty: none."""
    grey = sorted(name for part in parts if part.channels != GREY for name in part.grey)
    if not grey:
        return ""
    number = f"{how_many(len(grey), 'image is', 'images are')} grey ({few(grey)})"
    return f"the network reads colours, and {number}: their grey is used three times"
