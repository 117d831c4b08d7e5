"""What processes that predict one list say to each other: JSON lines through pipes.

The first hands out images; the others say what became of each.
"""

import contextlib
import threading
from pathlib import Path
from typing import IO, Any

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.learn.inference.expected import Expected
from emcfsys_engine.run.events import ImageDone, ImageFailed, WarningGiven


class Wants(msgspec.Struct, frozen=True, kw_only=True, tag="wants"):
    """It could read one more image."""


class PlaneMade(msgspec.Struct, frozen=True, kw_only=True, tag="plane_made", tag_field="kind"):
    """What was made of one plane of a hot folder's image."""

    mask: str
    shares: dict[str, float]  # of each class
    confidence: float
    started: float  # on the monotonic clock, which all processes of a machine share
    unlike: str = ""
    line: dict[str, str | int] = {}  # of the table of measurements
    numbers: dict[str, float] = {}  # by which it is judged
    expected: Expected | None = None  # how good the mask is; None: its model cannot tell


class PlaneFailed(msgspec.Struct, frozen=True, kw_only=True, tag="plane_failed", tag_field="kind"):
    """Why nothing was made of it."""

    reason: str
    where: str = ""  # of a fault of the output's side, with its number
    what: str = ""
    remedy: str = ""
    errno: int | None = None


Outcome = ImageDone | ImageFailed | PlaneMade | PlaneFailed


class ImageBecame(msgspec.Struct, frozen=True, kw_only=True, tag="became"):
    """What became of an image; nothing: its disk is away, it is to be tried again."""

    number: int
    event: Outcome | None


class Said(msgspec.Struct, frozen=True, kw_only=True, tag="said"):
    """Something that a person should hear."""

    event: WarningGiven


class Todo(msgspec.Struct, frozen=True, kw_only=True, tag="todo"):
    """An image to predict. Paths are of any bytes."""

    number: int
    image: str
    plane: int | None
    mask: str
    path: str = ""  # of a hot folder: below it
    content: str = ""  # digest of the file, where it is known already

    @property
    def ref(self) -> ImageRef:
        return ImageRef(path=Path(self.image), plane=self.plane)


class Pause(msgspec.Struct, frozen=True, kw_only=True, tag="pause"):
    """There is no more for now: it does what it has, then it asks again."""


class Bye(msgspec.Struct, frozen=True, kw_only=True, tag="bye"):
    """There is no more."""


ToFirst = Wants | ImageBecame | Said
FromFirst = Todo | Pause | Bye


class Line:
    """Two pipes to one other process."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes], kind: Any) -> None:
        self._incoming, self._outgoing, self._kind = incoming, outgoing, kind
        self._one_writer = threading.Lock()

    def send(self, message: ToFirst | FromFirst) -> None:
        """Send a message; one that nobody hears any more is lost."""
        with self._one_writer, contextlib.suppress(BrokenPipeError, ValueError):
            self._outgoing.write(any_names.encode(message) + b"\n")
            self._outgoing.flush()

    def receive(self) -> Any:
        """Return the next message; None when the other is gone."""
        text = self._incoming.readline()
        return any_names.decode(text, self._kind) if text.endswith(b"\n") else None
