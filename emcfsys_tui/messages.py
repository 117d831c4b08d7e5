"""What the parts of the interface tell each other: readings come down, requests go up."""

from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from emcfsys_tui.engine.data import PictureSpec
    from emcfsys_tui.view_models import (
        CheckState,
        HotState,
        HotTrend,
        ImageFacts,
        Images,
        ModelRow,
        Notice,
        Picture,
        ProjectRow,
        QueueState,
        RunDetail,
        RunRow,
        SaidLine,
        SizeChart,
        SizeMap,
    )


class Reading(Message, bubble=False):
    """Something was read by a thread; only the newest of a kind matters."""

    def can_replace(self, message: Message) -> bool:
        """Let a newer reading take the place of one that was not handled yet."""
        return type(message) is type(self)


class ProjectsRead(Reading):
    """The projects at a glance, and what was said last in any of them, newest first."""

    def __init__(
        self,
        projects: "tuple[ProjectRow, ...]",
        said: "tuple[SaidLine, ...]" = (),
        status: str = "",
    ) -> None:
        self.projects = projects
        self.said = said
        self.status = status  # of this machine
        super().__init__()


class UncertainFound(Message, bubble=False):
    """The images, those first of which a model was least sure."""

    def __init__(self, images: tuple[str, ...]) -> None:
        self.images = images
        super().__init__()


class RunsRead(Reading):
    """The runs of the project, and everything about those that are shown."""

    def __init__(
        self,
        runs: "tuple[RunRow, ...]",
        details: "dict[str, RunDetail]",
        *,
        is_complete: bool = True,
        is_gone: bool = False,
    ) -> None:
        self.runs = runs
        self.details = details
        self.is_complete = is_complete  # else some rows are still to be read
        self.is_gone = is_gone  # the project itself: deleted, or its disk is away
        super().__init__()


class QueueRead(Reading):
    """Jobs, GPUs, daemon."""

    def __init__(self, queue: "QueueState") -> None:
        self.queue = queue
        super().__init__()


class LabelsChanged(Message, bubble=False):
    """Somebody wrote where the project's labels lie."""


class ImagesRead(Message, bubble=False):
    """The images of the project: names at first, then all that is known."""

    def __init__(
        self,
        images: "Images",
        is_complete: bool,
        notes: tuple[str, ...] = (),
        fault: str = "",
    ) -> None:
        self.images = images
        self.is_complete = is_complete
        self.notes = notes
        self.fault = fault
        super().__init__()


class FactsRead(Message, bubble=False):
    """Sizes and pixel sizes of some images, by their keys."""

    def __init__(self, facts: "dict[str, ImageFacts]") -> None:
        self.facts = facts
        super().__init__()


class MaskRead(Reading):
    """What a prediction has done so far: a picture to ask for, and a few words."""

    def __init__(self, job: int, request: "PictureSpec | None", title: str) -> None:
        self.job = job
        self.request = request  # None: there is nothing to see
        self.title = title
        super().__init__()


class PointRead(Reading):
    """What is under the cursor of a picture."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__()


class CheckRead(Message, bubble=False):
    """What the check found, or that it runs."""

    def __init__(self, check: "CheckState") -> None:
        self.check = check
        super().__init__()


class PictureRead(Reading):
    """A picture that was asked for."""

    def __init__(self, picture: "Picture") -> None:
        self.picture = picture
        super().__init__()


class HotRead(Reading):
    """The hot folder."""

    def __init__(self, hot: "HotState") -> None:
        self.hot = hot
        super().__init__()


class TrendRead(Reading):
    """A control chart of the hot folder."""

    def __init__(self, trend: "HotTrend") -> None:
        self.trend = trend
        super().__init__()


class ModelsRead(Reading):
    """The project's model files."""

    def __init__(
        self,
        models: "tuple[ModelRow, ...]",
        used: Path | None = None,
        why: str = "",
        *,
        is_gone: bool = False,
    ) -> None:
        self.models = models
        self.used = used  # by a hot folder that starts now
        self.why = why
        self.is_gone = is_gone  # the project itself: deleted, or its disk is away
        super().__init__()


class LogRead(Message, bubble=False):
    """New lines of the log of a job."""

    def __init__(self, job: int, lines: tuple[str, ...], fresh: bool) -> None:
        self.job = job
        self.lines = lines
        self.fresh = fresh
        super().__init__()


class Told(Message):
    """Something worth a line to the person: a toast, and a bell when it is `loud`."""

    def __init__(self, text: str, severity: str = "information", loud: bool = False) -> None:
        self.text = text
        self.severity = severity
        self.loud = loud
        super().__init__()


class TextFound(Message, bubble=False):
    """A text that was asked for, to be shown on its own screen, below its charts and maps."""

    def __init__(
        self,
        title: str,
        text: str,
        charts: "tuple[SizeChart, ...]" = (),
        maps: "tuple[SizeMap, ...]" = (),
    ) -> None:
        self.title = title
        self.text = text
        self.charts = charts
        self.maps = maps
        super().__init__()


class NoticeFound(Message, bubble=False):
    """A message of a row, to be read whole."""

    def __init__(self, notice: "Notice") -> None:
        self.notice = notice
        super().__init__()


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
