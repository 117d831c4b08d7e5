"""Whether a training reads brightness or colours, and the data sets that it reads so."""

from collections.abc import Sequence
from dataclasses import dataclass

from emcfsys_engine.dataset.samples import Samples
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.channels import GREY, RGB, carries_colour
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.start import start_file
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import Project
from emcfsys_engine.text import few, how_many

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
