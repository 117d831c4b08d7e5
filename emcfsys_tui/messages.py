"""What the parts of the interface tell each other: readings come down, wishes go up."""

from dataclasses import dataclass
from pathlib import Path

from textual.message import Message

from emcfsys_tui.values import (
    CheckState,
    HotState,
    ImageFacts,
    ImageRow,
    ModelRow,
    Picture,
    ProjectRow,
    QueueState,
    RunDetail,
    RunRow,
)


class Reading(Message, bubble=False):
    """Something was read by a thread; only the newest of a kind matters."""

    def can_replace(self, message: Message) -> bool:
        """Let a newer reading take the place of one that was not handled yet."""
        return type(message) is type(self)


@dataclass
class ProjectsRead(Reading):
    """The projects at a glance."""

    projects: tuple[ProjectRow, ...]


@dataclass
class RunsRead(Reading):
    """The runs of the project, and everything about those that are shown."""

    runs: tuple[RunRow, ...]
    details: dict[str, RunDetail]


@dataclass
class QueueRead(Reading):
    """Jobs, GPUs, daemon."""

    queue: QueueState


@dataclass
class ImagesRead(Message, bubble=False):
    """The images of the project: names at first, then all that is known."""

    images: tuple[ImageRow, ...]
    is_complete: bool
    notes: tuple[str, ...] = ()
    fault: str = ""


@dataclass
class FactsRead(Message, bubble=False):
    """Sizes and pixel sizes of some images, by their keys."""

    facts: dict[str, ImageFacts]


@dataclass
class PointRead(Reading):
    """What is under the cursor of a picture."""

    text: str


@dataclass
class CheckRead(Message, bubble=False):
    """What the check found, or that it runs."""

    check: CheckState


@dataclass
class PictureRead(Reading):
    """A picture that was asked for."""

    picture: Picture


@dataclass
class HotRead(Reading):
    """The hot folder."""

    hot: HotState


@dataclass
class ModelsRead(Reading):
    """The project's model files."""

    models: tuple[ModelRow, ...]


@dataclass
class LogRead(Message, bubble=False):
    """New lines of the log of a job."""

    job: int
    lines: tuple[str, ...]
    fresh: bool


@dataclass
class Told(Message):
    """Something worth a line to the person: a toast, and a bell when it is `loud`."""

    text: str
    severity: str = "information"
    loud: bool = False


@dataclass
class TextFound(Message, bubble=False):
    """A text that was asked for, to be shown on its own screen."""

    title: str
    text: str


class ProjectChosen(Message):
    """The person wants to open a project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__()


class TabWanted(Message):
    """The person wants another tab, and something in it."""

    def __init__(self, tab: str, item: str = "") -> None:
        self.tab = tab
        self.item = item
        super().__init__()


class RunsChanged(Message):
    """Something was done to runs or jobs: look again now."""
