"""A training that begins with a model file: its whole network, classes matched by their names."""

from pathlib import Path

import msgspec
import torch

from emcfsys_engine.dataset.objects import NUM_PLANES
from emcfsys_engine.errors import ProjectError
from emcfsys_engine.learn.model_file import load_model
from emcfsys_engine.learn.networks.backbones import (
    DEFAULT_BACKBONE,
    BackboneDefaults,
    defaults_for,
)
from emcfsys_engine.learn.networks.models_list import strongest_here
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.model_card import NetworkSpec, read_card
from emcfsys_engine.project import Project

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
